"""How good is a forecast, by its own account and in truth?"""

import heapq
import random

import pytest

from gateway.jobs.outlook import KEPT, ServiceLaw, finish_in_s, fit, interval

UNITS = (1e8, 3e8, 5e8, 1.5e9)


def test_the_law_is_found_again_in_what_it_made() -> None:
    chance = random.Random(1)
    seen = [(u, 2.0 + u * 1.8e-8 * chance.gauss(1, 0.01)) for u in UNITS * 20]
    law = fit(seen)
    assert law is not None
    assert law.a == pytest.approx(2.0, rel=0.2)
    assert law.b == pytest.approx(1.8e-8, rel=0.05)


def test_one_size_alone_gives_a_law_in_proportion() -> None:
    law = fit([(1e9, 20.0), (1e9, 22.0)])
    assert law == ServiceLaw(0.0, 21.0 / 1e9)
    assert fit([]) is None


def test_who_waits_goes_to_the_first_free_replica() -> None:
    law = ServiceLaw(0.0, 1.0)
    assert finish_in_s(law, 5.0, [], [], 2) == 5.0
    assert finish_in_s(law, 5.0, [3.0, 4.0], [], 2) == 8.0
    assert finish_in_s(law, 5.0, [], [7.0, 2.0], 2) == 7.0
    assert finish_in_s(law, 5.0, [1.0], [7.0, 2.0], 2) == 8.0


@pytest.mark.parametrize("spread", [0.02, 0.15])
def test_nine_in_ten_are_done_within_the_interval(spread: float) -> None:
    """Poisson arrivals at 80 % load on four replicas; each learns from those that have ended."""
    chance = random.Random(7)
    truth = ServiceLaw(1.5, 1.8e-8)
    replicas, load, total = 4, 0.8, 3000
    mean_s = sum(truth.seconds(u) for u in UNITS) / len(UNITS)
    free = [0.0] * replicas  # when each replica is done with all it was given
    ended: list[tuple[float, float, float, float]] = []  # end, units, seconds, ratio
    seen: list[tuple[float, float]] = []
    ratios: list[float] = []
    given: list[tuple[float, float, float]] = []  # begin, end, units
    now, inside, counted = 0.0, 0, 0
    for _ in range(total):
        now += chance.expovariate(load * replicas / mean_s)
        units = chance.choice(UNITS)
        while ended and ended[0][0] <= now:
            _, size, seconds, ratio = heapq.heappop(ended)
            seen = [*seen[-KEPT + 1 :], (size, seconds)]
            ratios = [*ratios[-KEPT + 1 :], ratio]
        law = fit(seen) or truth
        waiting = [u for begin, _, u in given if begin > now]
        running = [
            max(law.seconds(u) - (now - begin), 0.0)
            for begin, end, u in given
            if begin <= now < end
        ]
        forecast_s = finish_in_s(law, units, waiting, running, replicas)
        low, high = interval(ratios)
        began = max(min(free), now)
        free.remove(min(free))
        seconds = truth.seconds(units) * max(chance.gauss(1.0, spread), 0.1)
        free.append(began + seconds)
        end = began + seconds
        given = [each for each in given if each[1] > now] + [(began, end, units)]
        took_s = end - now
        heapq.heappush(ended, (end, units, seconds, took_s / forecast_s))
        if counted or len(ratios) >= KEPT:
            counted += 1
            inside += low * forecast_s <= took_s <= high * forecast_s
    assert counted > 2000
    assert 0.87 <= inside / counted <= 0.93, inside / counted
