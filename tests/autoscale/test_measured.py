"""A replica is measured once; gateway, autoscaler and `sluice plan` go by what was found."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from autoscale import bringup, commands
from autoscale.config import BadConfig, parse, read
from autoscale.decide import Decider
from autoscale.forecast import load_weights
from autoscale.watched import WatchedPool
from backends import measured
from backends.capacity import StepLaw, work_s
from backends.fleet import Replica
from backends.hardware import UnknownHardware, profile
from backends.measured import BadProfile
from backends.simulated.server import serve
from backends.simulated.settings import SimulatedSettings
from backends.slo import MLPERF_CLASSES
from tests.gateways import running_gateway

MODEL = "llama2-70b"
BUILT_IN = profile(MODEL, "mi355x").law


def _file(directory: Path, **changes: Any) -> Path:
    law = {"c0_s": 0.02, "c_tok_s": 3 * BUILT_IN.c_tok_s, "c_kv_s": 3 * BUILT_IN.c_kv_s}
    document = {"model": MODEL, "hardware": "lab", "law": law, "provenance": "measured", **changes}
    path = directory / "lab.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


async def test_what_calibrate_writes_is_what_all_go_by(
    redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lab.json"
    async with serve(SimulatedSettings(model=MODEL, throughput_scale=0.1)) as urls:
        options = ("--replica", urls[0], "--model", MODEL, "--hardware", "lab")
        more = ("--most-running", "4", "--canary", "off", "--out", str(path))
        assert await asyncio.to_thread(bringup.measure, [*options, *more]) == 0
    found = json.loads(path.read_text(encoding="utf-8"))["law"]
    law = StepLaw(**found)
    assert law.prefill_token_s >= law.c_tok_s
    mix = profile(MODEL, "mi355x").mix
    assert work_s(law, mix) > 2 * work_s(BUILT_IN, mix)

    async with running_gateway(redis_url, {}, profiles=[str(path)]) as gateway:
        replica = Replica("r", MODEL, "http://r", hardware="lab")
        laws = gateway.services.pipeline._steering.pools.law
        assert laws.speed(replica).law == law

    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(f"pools: [{{model: {MODEL}, hardware: lab}}]\nprofiles: [lab.json]\n")
    assert read(fleet).profiles.profile(MODEL, "lab").law == law

    capsys.readouterr()
    rate = ("--model", MODEL, "--scenario", "server", "--rate", "100000", "--json")
    assert commands.plan([*rate, "--profile", str(path)]) == 0
    slow = json.loads(capsys.readouterr().out)["nodes"]
    assert commands.plan(rate) == 0
    assert slow > json.loads(capsys.readouterr().out)["nodes"]


def test_a_model_of_which_nothing_is_known_is_not_planned_for() -> None:
    with pytest.raises(commands.Failed, match=r"known are .*llama2-70b.* --profile"):
        commands.plan(["--model", "llama2-7b", "--rate", "1000"])


def test_the_autoscaler_counts_fewer_seconds_for_slower_replicas(tmp_path: Path) -> None:
    _file(tmp_path)
    pools = [{"model": MODEL, "hardware": "lab"}]
    config = parse({"pools": pools, "profiles": ["lab.json"]}, tmp_path)
    plain = parse({"pools": [{"model": MODEL}]})
    shares = [_server_share(each) for each in (config, plain)]
    assert shares[1] / shares[0] == pytest.approx(3.0, rel=0.1)


def _server_share(config: Any) -> float:

    nothing: Any = None
    decider = Decider(
        {each.name: each for each in MLPERF_CLASSES},
        registry=nothing,
        actuator=nothing,
        clock=nothing,
        profiles=config.profiles,
    )
    pool = WatchedPool.of(config.pools[0], load_weights(), tick_s=10.0, now=0.0)
    known = config.profiles.profile(MODEL, config.pools[0].hardware)
    return decider.shares(pool.kinds[0], known)["server"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"law": {"c0_s": 0.01}}, "must give c0_s, c_tok_s, c_kv_s"),
        ({"law": {"c0_s": -1, "c_tok_s": 1, "c_kv_s": 1}}, "none below 0"),
        ({"law": {"c0_s": 0, "c_tok_s": 1, "c_kv_s": 1}}, "a step takes time"),
        ({"model": ""}, "must be names"),
        ({"mix": {"input_tokens": 0, "output_tokens": 9}}, "each above 0"),
        ({"mix": [1, 2]}, "must give input_tokens"),
    ],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(BadProfile, match=message):
        measured.read([_file(tmp_path, **changes)])
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(f"pools: [{{model: {MODEL}}}]\nprofiles: [lab.json]\n")
    with pytest.raises(BadConfig, match=message):
        read(fleet)


def test_hardware_that_nobody_measured_is_still_refused(tmp_path: Path) -> None:
    found = measured.read([_file(tmp_path)])
    assert found.profile(MODEL, "lab").hardware.name == "lab"
    assert "kv_tokens" in found.profile(MODEL, "lab").assumed
    assert "c0_s" not in found.profile(MODEL, "lab").assumed
    with pytest.raises(UnknownHardware):
        found.profile(MODEL, "other")
    with pytest.raises(UnknownHardware):
        found.profile("gpt-oss-120b", "lab")
