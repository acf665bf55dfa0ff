"""Up to what may each replica of a model be filled, as far as was told?"""

from gateway.queue.ledger import Candidate


class Bounds:
    """Up to what each replica may be filled: told for a class, else for all classes."""

    def __init__(self) -> None:
        self._usable: dict[str, Candidate] = {}
        self._by_rank: dict[int, dict[str, Candidate]] = {}

    def tell(self, candidates: tuple[Candidate, ...], rank: int | None) -> None:
        """Take in what `Ledger.offer` says."""
        if rank is not None:
            for each in candidates:
                self.tell_of(each, rank)
            return
        self._usable = {each.replica_id: each for each in candidates}
        for of_rank in self._by_rank.values():
            for gone in of_rank.keys() - self._usable.keys():
                del of_rank[gone]

    def tell_of(self, candidate: Candidate, rank: int | None) -> None:
        """Take in the bounds of one class, or of all, on one replica, which may be used then."""
        if rank is None:
            self._usable[candidate.replica_id] = candidate
        else:
            self._by_rank.setdefault(rank, {})[candidate.replica_id] = candidate
            self._usable.setdefault(candidate.replica_id, candidate)

    def of(self, replica_id: str, rank: int) -> Candidate | None:
        """Give the bounds of a class on a replica; None where it may not be used."""
        of_rank = self._by_rank.get(rank)
        found = None if of_rank is None else of_rank.get(replica_id)
        return self._usable.get(replica_id) if found is None else found

    def untold(self, candidates: tuple[Candidate, ...], rank: int) -> list[Candidate]:
        """Give those candidates whose bounds for a class are not what was told last."""
        of_rank = self._by_rank.get(rank, {})
        untold: list[Candidate] = []
        for each in candidates:
            known = of_rank.get(each.replica_id)
            if known is each:
                continue
            if known == each:
                of_rank[each.replica_id] = each  # found by identity the next time
            elif known is not None or self._usable.get(each.replica_id) != each:
                untold.append(each)
        return untold

    def all(self) -> list[tuple[Candidate, int | None]]:
        """Give all that has been told, in an order in which it may be told again."""
        for_all: list[tuple[Candidate, int | None]] = [(c, None) for c in self._usable.values()]
        return for_all + [(c, n) for n, told in self._by_rank.items() for c in told.values()]

    @property
    def replicas(self) -> tuple[str, ...]:
        """The replicas that may be used."""
        return tuple(self._usable)
