"""The knee is found from either side, within 3 %, with few tries."""

import pytest

from bench.slo import KNEE_NEAR, KNEE_TRIES, search


@pytest.mark.parametrize("knee", [14.0, 20.0, 27.9, 31.0])
async def test_the_highest_rate_that_is_kept_is_found(knee: float) -> None:
    tried: list[float] = []

    async def is_kept(per_s: float) -> bool:
        tried.append(per_s)
        return per_s <= knee

    found = await search(is_kept, 20.0)
    assert knee / KNEE_NEAR <= found <= knee
    assert len(tried) <= KNEE_TRIES


async def test_where_nothing_is_kept_the_lowest_tried_rate_is_told() -> None:
    async def is_kept(per_s: float) -> bool:
        return False

    assert await search(is_kept, 20.0) == pytest.approx(20.0 / 1.12 ** (KNEE_TRIES - 1))
