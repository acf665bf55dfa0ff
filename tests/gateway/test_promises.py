"""Which calls kept what their class promises?"""

import pytest

from backends.slo import Targets
from gateway.call import Outcome, Receipt
from gateway.promises import kept
from tests.gateway.calls import call

TARGETS = Targets(ttft_s=2.0, tpot_s=0.2)


@pytest.mark.parametrize(
    ("stream", "late", "ttft_s", "expected"),
    [
        (True, False, 1.0, True),
        (True, False, 2.1, False),
        (True, True, 1.0, True),  # expected to be late, and was not
        (True, True, 2.1, False),
        (False, False, 9.0, True),  # the whole answer: its first token is not seen
        (False, True, 9.0, False),
    ],
)
def test_a_late_call_is_a_miss_by_what_was_measured_else_by_what_was_known(
    stream: bool, late: bool, ttft_s: float, expected: bool
) -> None:
    made = call(stream=stream)
    receipt = Receipt(made, Outcome.OK, late=late, first_byte=made.arrived + ttft_s)
    assert kept(receipt, TARGETS, 10.0) is expected
