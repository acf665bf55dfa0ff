"""Do the files of `docker compose` agree with the code? No engine is needed."""

from typing import Any

import yaml

from backends.sglang import known_models, launch_command
from gateway.config import load
from scripts.compose_rocm import FIRST_PORT, GPUS, PATH, document
from tests.deploy.files import ROOT

FILES = ("compose.yaml", *(f"compose/{n}.yaml" for n in ("rocm", "observability", "loadtest")))


class _Loader(yaml.SafeLoader):
    """YAML with the tags of Compose."""


def services(name: str) -> dict[str, Any]:
    """The services of one file; anchors are laid over."""
    found: dict[str, Any] = yaml.load((ROOT / name).read_text(), Loader=_Loader)["services"]  # noqa: S506 a SafeLoader
    return found


def test_the_rocm_services_are_started_with_the_lines_of_the_code() -> None:
    assert PATH.read_text() == document()
    found = services("compose/rocm.yaml")
    for model in known_models():
        for gpu in range(GPUS):
            engine = found[f"{model}-gpu{gpu}"]
            line = launch_command(model, port=FIRST_PORT[model] + gpu, host="0.0.0.0", gpu=gpu)
            assert engine["command"] == list(line.argv)
            assert line.env.items() <= engine["environment"].items()


def test_every_flag_of_the_rocm_services_is_explained_in_the_guide() -> None:
    guide = (ROOT / "docs/mi355x.md").read_text()
    for name, each in services("compose/rocm.yaml").items():
        if not name.endswith("-lease"):
            flags = {word for word in each["command"] if word.startswith("--")}
            told = {*flags, *each["environment"]} - {"PORT"}
            missing = [word for word in told if f"`{word}" not in guide]
            assert not missing, f"{name}: {missing}"


def test_no_two_replicas_of_a_profile_share_a_gpu() -> None:
    found = services("compose/rocm.yaml")
    by_profile: dict[str, list[str]] = {}
    for each in found.values():
        gpu = (each.get("environment") or {}).get("HIP_VISIBLE_DEVICES")
        for profile in each["profiles"] if gpu is not None else ():
            by_profile.setdefault(profile, []).append(str(gpu))
    assert set(by_profile) == {"rocm", "rocm-llama2-70b", "rocm-gpt-oss-120b"}
    for gpus in by_profile.values():
        assert sorted(map(int, gpus)) == list(range(GPUS))


def test_simulated_replicas_never_start_beside_real_ones() -> None:
    for name in FILES:
        for service, each in services(name).items():
            profiles = set(each.get("profiles", ()))
            if "simulated" in service:
                assert profiles == {"simulated"}
            elif "simulated" in profiles:
                raise AssertionError(service)
    assert "COMPOSE_PROFILES=simulated" in (ROOT / ".env").read_text().splitlines()


def test_the_grace_of_each_service_is_longer_than_its_drain() -> None:
    path = ROOT / "compose/conf/sluice.yaml"
    settings = load(path, {})
    gateway = services("compose.yaml")["gateway"]
    assert _seconds(gateway["stop_grace_period"]) > settings.timeouts.drain_s
    for each in [*services("compose.yaml").values(), *services("compose/rocm.yaml").values()]:
        for word in each.get("command", ()):
            if str(word).startswith("--drain-s="):
                assert _seconds(each["stop_grace_period"]) > float(word.partition("=")[2])


def test_the_image_knows_only_what_it_is_made_of() -> None:
    told = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in told
    assert not {"!.env", "!tests", "!.git"} & set(told)


def test_every_file_of_the_image_s_pins_has_hashes() -> None:
    for name in ("image", "autoscaler", "loadtest"):
        text = (ROOT / f"constraints/{name}.txt").read_text()
        assert "://" not in text
        pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
        assert all("==" in line and line.endswith("\\") for line in pins)


def _seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])
