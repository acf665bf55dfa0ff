"""The short form of the chaos run."""

from pathlib import Path

import pytest

from tests.chaos.run import Plan, run

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


async def test_random_kills_lose_nothing_and_end_nothing_twice(tmp_path: Path) -> None:
    plan = Plan(
        jobs=150, workers=2, replicas=3, at_once=12, kill_every_s=1.5, end_within_s=180, lease_s=3
    )
    found = await run(plan, tmp_path)
    print(found.table())
    assert found.accepted == 150
    assert (found.lost, found.ended_twice) == (0, 0), found
    assert (found.artifacts_without_record, found.records_without_artifact) == (0, 0), found
    assert found.completed == 150
