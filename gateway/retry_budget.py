"""May a failed call be tried again, or would retries make an outage worse? Pure."""

from dataclasses import dataclass

SHARE = 0.1  # of calls
RESERVE = 10.0  # retries that are always allowed at first, for gateways with little traffic


@dataclass(slots=True)
class RetryBudget:
    """A tenth of a retry for each call, up to a reserve; a retry takes a whole one.

    Over any stretch of time retries are at most 10 % of the calls plus ten.
    """

    share: float = SHARE
    reserve: float = RESERVE
    left: float = RESERVE

    def call(self) -> None:
        """Note a call's first attempt."""
        self.left = min(self.left + self.share, self.reserve)

    def spend(self) -> bool:
        """Take one retry, if one is left."""
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True
