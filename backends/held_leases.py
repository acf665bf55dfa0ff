"""Which replicas are here by a lease, and which of several sources says what a replica is?"""

from collections.abc import Iterable, Iterator, Mapping

from backends.fleet import Replica
from backends.records import Listing, Record


class Leases:
    """Which leases hold, through the store's absence."""

    def __init__(self) -> None:
        self._held: dict[str, Record] = {}
        self._returned_at: float | None = None
        self._seen_since: set[str] = set()

    def store_returned(self, now: float) -> None:
        """The store answers again, at `now` by its own clock."""
        self._returned_at = now
        self._seen_since = set()

    def holds(self, replica_id: str) -> bool:
        """Whether a replica is here by a lease."""
        return replica_id in self._held

    def take(self, listing: Listing) -> Mapping[str, Record]:
        """Give the leases that hold, by what the store says now."""
        held = {
            id_: record
            for id_, record in listing.leased.items()
            if listing.ends_at.get(id_, 0.0) > listing.now
        }
        self._seen_since |= held.keys()
        for id_, record in self._held.items():
            if id_ not in held and self._has_grace(id_, record, listing):
                held[id_] = listing.leased.get(id_, record)
        self._held = held
        return held

    def _has_grace(self, id_: str, record: Record, listing: Listing) -> bool:
        if self._returned_at is None or listing.now >= self._returned_at + record.lease_s:
            return False
        # A record that was there after the return and is gone now was taken away on purpose.
        return id_ in listing.leased or id_ not in self._seen_since


def union(*sources: Mapping[str, Record]) -> dict[str, Record]:
    """Lay sources over each other; one model at one URL is one replica."""
    by_id: dict[str, Record] = {}
    for source in sources:
        by_id.update(source)
    at_place = {_place(record.replica): id_ for id_, record in _in_order(sources)}
    return {id_: r for id_, r in by_id.items() if at_place[_place(r.replica)] == id_}


def _in_order(sources: Iterable[Mapping[str, Record]]) -> Iterator[tuple[str, Record]]:
    for source in sources:
        yield from source.items()


def _place(replica: Replica) -> tuple[str, str]:
    return replica.model, replica.url.rstrip("/").lower()
