"""Which other gateways live? Judged by the numbers of their batches, on our own clock."""

from collections.abc import Mapping

EXPIRY_S = 5.0  # a gateway that is silent for so long is dead


class Peers:
    """The gateways that speak with the store about one model; `own` is the name of this one.

    Instants may be on any clock, as long as it is one.
    """

    def __init__(self, own: str) -> None:
        self.count = 1  # how many live, this one included
        self._own = own
        self._seen: dict[str, tuple[int, float]] = {}

    def seen(self, batches: Mapping[str, int], at: float) -> None:
        """Take in the number of each gateway's last batch: who has sent another one lives."""
        before = self._seen
        self._seen = {
            name: before[name] if name in before and before[name][0] == number else (number, at)
            for name, number in batches.items()
            if name != self._own
        }
        self.count = 1 + len(self._seen) - len(self.silent(at))

    def silent(self, at: float) -> dict[str, int]:
        """Give those that have been silent for too long, with the number of their last batch."""
        since = at - EXPIRY_S
        return {name: number for name, (number, seen) in self._seen.items() if seen <= since}
