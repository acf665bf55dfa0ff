"""What is `sluice up --autoscale` made of?"""

import os
import signal
import threading
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from gateway.cli.data_dir import DataDir
from gateway.cli.failure import CommandFailed
from gateway.cli.local_fleet import Wanted, simulated_unit
from gateway.cli.replica_service import Service, hold
from gateway.cli.scaled import fleet_of

WANTED = Wanted("simulated", replicas=2, drain_s=600.0, scaled=True)


def test_a_replica_has_as_long_to_end_as_its_calls_may_take(tmp_path: Path) -> None:
    spec = simulated_unit("llama2-70b", WANTED, DataDir(tmp_path), "redis://", load_s=7.0)
    assert spec.stop_grace_s > WANTED.drain_s
    assert spec.argv[spec.argv.index("--load-s") + 1] == "7.0"
    assert spec.argv[spec.argv.index("--drain-s") + 1] == "600.0"


def test_a_replica_that_loads_serves_nobody_and_leaves_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def begin() -> AbstractAsyncContextManager[Service]:
        raise AssertionError("it was still loading")

    def end() -> None:
        while signal.getsignal(signal.SIGTERM) is before:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    assert hold(begin, "redis://nowhere", drain_s=1.0, load_s=3600.0) == 0
    ending.join()


def test_without_a_file_each_model_has_at_least_what_is_asked_for() -> None:
    fleet = fleet_of(None, WANTED)
    assert {pool.policy.least for pool in fleet.pools} == {2}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("pools: [{model: m}]", "actuator: process"),
        ("actuator: process\npools: [{model: m, replicas_per_unit: 2}]", "one replica"),
        ("actuator: process\npools: [{model: m, actuation: {image: x}}]", "load_s"),
        ("actuator: process\npools: []", "pools"),
        (
            "actuator: process\n"
            "pools: [{model: m, kinds: [{name: a}, {name: b, actuation: {x: 1}}]}]",
            "m/b: a unit here",
        ),
    ],
)
def test_a_fleet_file_that_cannot_be_meant_is_told(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    with pytest.raises(CommandFailed, match=why):
        fleet_of(path, WANTED)
