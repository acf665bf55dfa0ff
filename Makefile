# The commands of this project; `make` lists them.
#
# make serve ENGINE=simulated ARGS='--port 8000'

PYTHON ?= python3.11
ENGINE ?= sglang
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --no-input -qq
RUNTIME := .venv/.runtime-is-current
DEV := .venv/.dev-is-current
NODE := tests/node/node_modules/.package-lock.json
BUILD_ENGINE := $(BIN)/python -m backends.embedded.environment

.PHONY: help install serve engine check format test test-compose compose-rocm coverage lock clean
.DELETE_ON_ERROR:

help:
	@echo "make serve     set up what is missing and serve (ENGINE=sglang|simulated|none ARGS='...')"
	@echo "make install   make .venv with all that the tests need"
	@echo "make check     formatting, lint, types, import rules, constraints"
	@echo "make test      make check, then every test"
	@echo "make test-compose  build and run compose.yaml on this machine's Docker engine"
	@echo "make format    let ruff format and fix"
	@echo "make coverage  every test, with branch coverage"
	@echo "make lock      pin the dependencies again (UPGRADE=1 for newer versions)"
	@echo "make clean     remove .venv and caches in the tree (not the engine's cache)"

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "Sluice needs $(PYTHON), which is not on PATH." >&2; exit 1; }
	@echo "Making .venv with $(PYTHON)" >&2
	@$(PYTHON) -m venv .venv

$(RUNTIME): constraints/runtime.txt pyproject.toml | $(BIN)/python
	@echo "Installing the gateway into .venv (once, under a minute)" >&2
	@$(PIP) --require-hashes -r constraints/runtime.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): constraints/dev.txt pyproject.toml | $(BIN)/python
	@echo "Installing the gateway and its tools into .venv (once, a minute or two)" >&2
	@$(PIP) --require-hashes -r constraints/dev.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $(RUNTIME) $@

$(NODE): tests/node/package-lock.json tests/node/package.json
	@echo "Installing the openai package for Node.js" >&2
	@cd tests/node && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

install: $(DEV)

engine: | $(RUNTIME)
	@$(BUILD_ENGINE) --model smollm2-135m-instruct --model tiny-llama >/dev/null

# The last line replaces its shell, so that an interrupt reaches Sluice and make waits for its end.
serve: $(RUNTIME)
	@if [ "$(ENGINE)" = sglang ]; then $(BUILD_ENGINE) >/dev/null; fi
	@exec $(BIN)/sluice up --engine $(ENGINE) $(ARGS)

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/python scripts/check_constraints.py

format: $(DEV)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# What Node.js tests need is installed where npm is; without it they say that they are skipped.
test: check engine $(if $(shell command -v npm),$(NODE))
	$(BIN)/pytest -n 2 --dist loadgroup --inline-snapshot=disable $(ARGS)

# Needs a Docker engine with Compose v2; without one `make test` says that these tests are skipped.
test-compose: $(DEV)
	SLUICE_TEST_COMPOSE=1 $(BIN)/pytest -v --durations=0 -o timeout=400 tests/compose $(ARGS)

compose-rocm: $(DEV)
	$(BIN)/python -m scripts.compose_rocm

coverage: $(DEV) engine
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist loadgroup --inline-snapshot=disable $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lock: $(DEV)
	scripts/lock $(if $(UPGRADE),--upgrade)
	$(BIN)/python scripts/check_constraints.py

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis htmlcov .coverage .coverage.*
	rm -rf tests/node/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
