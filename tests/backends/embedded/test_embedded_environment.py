"""Do the names of built things follow what they are made from, and is what is there found?"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from backends.embedded import environment
from backends.embedded.environment import SMOLLM2, TINY_LLAMA, Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """An empty cache."""
    return Workshop.of({"SLUICE_CACHE_DIR": str(tmp_path)}, say=lambda line: None)


def pretend_built(workshop: Workshop) -> None:
    """Lay empty directories where the builds would be."""
    interpreter = environment.python_of(environment.engine_dir(workshop))
    interpreter.parent.mkdir(parents=True)
    interpreter.symlink_to(sys.executable)
    for name in environment.MODELS:
        environment.model_dir(name, workshop).mkdir()


def test_names_are_stable_and_differ(workshop: Workshop) -> None:
    names = {
        environment.engine_dir(workshop).name,
        environment.model_dir(SMOLLM2, workshop).name,
        environment.model_dir(TINY_LLAMA, workshop).name,
    }

    assert len(names) == 3
    assert environment.engine_dir(workshop).name in names
    assert environment.engine_dir(workshop).parent == workshop.cache_dir


@pytest.mark.parametrize("pin", ["engine.txt", "sglang.txt"])
def test_the_engine_is_renamed_when_a_pin_changes(
    pin: str, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = environment.engine_dir(workshop)
    pins = tmp_path / "pins"
    pins.mkdir()
    for name in ("engine.txt", "sglang.txt"):
        (pins / name).write_text((environment.PINS / name).read_text())
    monkeypatch.setattr(environment, "PINS", pins)
    assert environment.engine_dir(workshop) == before

    with (pins / pin).open("a") as file:
        file.write("# another\n")

    assert environment.engine_dir(workshop) != before


def test_what_is_built_is_found(workshop: Workshop) -> None:
    pretend_built(workshop)

    assert environment.ensure_engine(workshop).exists()
    assert environment.ensure_model(TINY_LLAMA, workshop).is_dir()


def test_an_unknown_model_is_refused(workshop: Workshop) -> None:
    with pytest.raises(KeyError):
        environment.ensure_model("gpt-5", workshop)


def test_another_python_is_looked_for_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "PYTHON", (3, 99))
    with pytest.raises(environment.WrongPython, match=r"needs python3\.99, which is not on PATH"):
        environment.find_python({"PATH": str(tmp_path)})

    interpreter = tmp_path / "python3.99"
    interpreter.touch(mode=0o755)

    assert environment.find_python({"PATH": str(tmp_path)}) == str(interpreter)


def test_the_command_prints_where_everything_lies(workshop: Workshop) -> None:
    pretend_built(workshop)

    done = subprocess.run(
        [sys.executable, "-m", "backends.embedded.environment", "--model", TINY_LLAMA],
        env={"SLUICE_CACHE_DIR": str(workshop.cache_dir)},
        cwd=Path(environment.__file__).parents[2],
        capture_output=True,
        check=True,
        text=True,
    )

    assert json.loads(done.stdout) == {
        "python": str(environment.python_of(environment.engine_dir(workshop))),
        "models": {TINY_LLAMA: str(environment.model_dir(TINY_LLAMA, workshop))},
    }


def test_the_builder_needs_the_standard_library_alone() -> None:
    script = "import backends.embedded.environment, backends.embedded.server"

    subprocess.run(
        [sys.executable, "-S", "-c", script],  # -S: no site-packages
        cwd=Path(environment.__file__).parents[2],
        check=True,
    )


def test_pins_are_exact_hashed_and_name_no_index() -> None:
    for name in ("engine.txt", "sglang.txt", "model.txt"):
        text = (environment.PINS / name).read_text()
        entries = [line for line in text.splitlines() if not line.startswith((" ", "#"))]

        assert all("==" in entry for entry in entries)
        assert text.count("==") <= text.count("--hash=sha256:")
        assert "://" not in text
