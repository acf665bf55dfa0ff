"""Do the files of `docker compose` agree with the code? No engine is needed."""

import re
from typing import Any

import yaml

from backends.diffusion import launch_command as diffusion_command
from backends.sglang import known_models, launch_command
from gateway.config import load
from scripts.compose_rocm import (
    COLLECTOR,
    FIRST_PORT,
    GPUS,
    PATH,
    TRACE,
    VIDEO_MODEL,
    VIDEO_PORT,
    document,
)
from tests.deploy.files import ROOT

TRACES = "--enable-trace"
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
            line = launch_command(
                model, port=FIRST_PORT[model] + gpu, host="0.0.0.0", gpu=gpu, otlp=COLLECTOR
            )
            asked_to_trace = [word.replace(TRACE, TRACES) for word in engine["command"]]
            assert asked_to_trace == list(line.argv)
            assert line.env.items() <= engine["environment"].items()


def test_the_video_service_is_started_with_the_line_of_the_code() -> None:
    engine = services("compose/rocm.yaml")[VIDEO_MODEL]
    line = diffusion_command(
        VIDEO_MODEL, port=VIDEO_PORT, host="0.0.0.0", gpus=GPUS, otlp=COLLECTOR
    )
    assert [word.replace(TRACE, TRACES) for word in engine["command"]] == list(line.argv)
    assert line.env.items() <= engine["environment"].items()


def test_prometheus_scrapes_every_engine_of_the_rocm_services() -> None:
    text = (ROOT / "deploy/observability/prometheus/prometheus.yml").read_text()
    (job,) = (j for j in yaml.safe_load(text)["scrape_configs"] if j["job_name"] == "sglang")
    scraped = {
        (name, str(each["port"])) for each in job["dns_sd_configs"] for name in each["names"]
    }
    engines = {
        (name, each["environment"]["PORT"])
        for name, each in services("compose/rocm.yaml").items()
        if not name.endswith("-lease")
    }
    assert scraped == engines


def explained() -> dict[str, list[str]]:
    """The rows of the guide's tables of flags and variables: the words of the first column."""
    guide = (ROOT / "docs/mi355x.md").read_text().partition("## Every flag and variable")[2]
    rows = [line.strip("|").split("|") for line in guide.splitlines() if line.startswith("| `")]
    return {word: row for row in rows for word in re.findall(r"`([^`]+)`", row[0])}


def told() -> set[str]:
    """Every flag and variable that an engine of the rocm profiles is started with."""
    found: set[str] = set()
    for name, each in services("compose/rocm.yaml").items():
        if not name.endswith("-lease"):
            words = [w for word in each["command"] for w in word.replace(TRACE, TRACES).split("=")]
            found |= {word for word in words if word.startswith("--")} | set(each["environment"])
    return found - {"PORT"}


def test_every_flag_of_the_rocm_services_is_explained_in_the_guide_with_its_source() -> None:
    rows = explained()
    assert told() - set(rows) == set()
    for word in told():
        why, source = (cell.strip() for cell in rows[word][2:4])
        assert why, word
        assert source, word


def test_the_guide_explains_no_flag_that_is_gone() -> None:
    assert {word for word in explained() if word.startswith("--")} <= told()


def test_every_variable_of_the_files_is_told_to_the_operator() -> None:
    paths = [ROOT / "compose.yaml", *sorted((ROOT / "compose").glob("*.yaml"))]
    asked = {name for path in paths for name in re.findall(r"\$\{(\w+)", path.read_text())}
    docs = [(ROOT / f"docs/{name}.md").read_text() for name in ("deployment", "mi355x")]
    cells = [line.split("|")[1] for text in docs for line in text.splitlines() if "|" in line]
    assert len(asked) > 30
    assert asked - set(re.findall(r"`(\w+)`", " ".join(cells))) == set()


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


def test_all_that_speak_with_a_store_over_tls_can_check_its_certificate() -> None:
    laid_over = services("compose/shared-store.yaml")
    of_a_node = [*services("compose/node.yaml").items(), *services("compose/rocm.yaml").items()]
    for name, each in [*services("compose.yaml").items(), *of_a_node]:
        if "REDIS_URL" in (each.get("environment") or {}):
            mounts = [*each.get("volumes", ()), *laid_over.get(name, {}).get("volumes", ())]
            assert any(mount.endswith((":/tls:ro", ":/tls/ca.crt:ro")) for mount in mounts), name


def test_nothing_is_mounted_inside_what_is_mounted_read_only() -> None:
    """The engine would have to make the directory there, and cannot."""
    laid_over = services("compose/shared-store.yaml")
    for path in FILES:
        for name, each in services(path).items():
            mounts = [*each.get("volumes", ()), *laid_over.get(name, {}).get("volumes", ())]
            closed = [m.rsplit(":", 2)[-2] for m in mounts if m.endswith(":ro")]
            targets = [m.removesuffix(":ro").rsplit(":", 1)[-1] for m in mounts]
            assert not [t for t in targets if any(t.startswith(f"{c}/") for c in closed)], name


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
