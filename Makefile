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

.PHONY: bench bench-certify bench-jobs bench-slo help install serve engine check format test test-chaos test-compose deployment sbom audit coverage lock clean bench-autoscale
.DELETE_ON_ERROR:

help:
	@echo "make serve     set up what is missing and serve (ENGINE=sglang|simulated|none ARGS='...')"
	@echo "make install   make .venv with all that the tests need"
	@echo "make check     formatting, lint, types, import rules, constraints"
	@echo "make test      make check, then every test"
	@echo "make test-compose  build and run compose.yaml on this machine's Docker engine"
	@echo "make test-chaos  10,000 jobs under random kill -9 (ARGS='--jobs 500')"
	@echo "make deployment    write compose/rocm.yaml, the dashboards and the engines' manifests again"
	@echo "make sbom      write build/sbom-*.json (CycloneDX)"
	@echo "make audit     look the pinned dependencies up among known vulnerabilities (status 2: no data)"
	@echo "make format    let ruff format and fix"
	@echo "make coverage  every test, with branch coverage"
	@echo "make lock      pin the dependencies again (UPGRADE=1 for newer versions)"
	@echo "make bench     CPU, delay and memory per call and chunk beside nginx and other routers (minutes)"
	@echo "make bench-slo goodput at and past the knee against other policies (minutes; ARGS='...')"
	@echo "make bench-certify what one core of the load generator carries, how often a verdict is wrong, what a search costs"
	@echo "make bench-jobs claims, forecasts, what a batch costs and gets, memory (minutes; ARGS='...' of bench.batch)"
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

# Files of the deployment that follow from the code; tests compare them.
deployment: $(DEV)
	$(BIN)/python -m scripts.compose_rocm
	$(BIN)/python -m scripts.kubernetes_engines
	$(BIN)/python -m scripts.dashboards

# What each image installs, in CycloneDX's form.
sbom: $(DEV)
	@mkdir -p build
	for name in image autoscaler loadtest; do \
	    $(BIN)/uv tool run --from 'cyclonedx-bom==7.5.0' cyclonedx-py requirements constraints/$$name.txt \
	        --pyproject pyproject.toml --output-reproducible --output-file build/sbom-$$name.json || exit 1; \
	done

# Known vulnerabilities of what the images install; without the data it says so and fails.
audit: $(DEV)
	$(BIN)/python -m scripts.audit

test-chaos: $(DEV)
	$(BIN)/python -m tests.chaos $(ARGS)

coverage: $(DEV) engine
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist loadgroup --inline-snapshot=disable $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lock: $(DEV)
	scripts/lock $(if $(UPGRADE),--upgrade)
	$(BIN)/python scripts/check_constraints.py

# Real processes on loopback first, then the same deciders in virtual time, where no machine's noise is.
# Needs gcc; bench/dataplane/setup installs what Sluice is compared with, in environments of its own.
bench: $(DEV)
	bench/dataplane/setup
	$(BIN)/python -m bench.dataplane $(ARGS)

bench-slo: $(DEV)
	$(BIN)/python -m bench.slo $(ARGS)
	$(BIN)/python -m bench.slo_rows $(SLO_ARGS)
	$(BIN)/python -m bench.decide

# The load generator and its verdict; the first needs gcc.
bench-certify: $(DEV)
	$(BIN)/python -m bench.certify.generator $(ARGS)
	$(BIN)/python -m bench.certify.verdicts
	$(BIN)/python -m bench.certify.search

# What jobs cost and keep; each says whether its bars are met, and all are run whatever one finds.
bench-jobs: $(DEV)
	@status=0; for each in claims eta batch_virtual "batch $(ARGS)" batch_memory; do \
	    echo "python -m bench.$$each"; $(BIN)/python -m bench.$$each || status=1; \
	done; exit $$status

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis htmlcov .coverage .coverage.*
	rm -rf tests/node/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The autoscaler against other rules and perfect knowledge, on a directory of ServeGen client files
# (TRACES=DIR; without it on a synthetic fleet).
bench-autoscale: $(DEV)
	$(BIN)/python -m autoscale.bench $(if $(TRACES),--traces $(TRACES)) $(ARGS)
