"""The prefix cache: keys and values of finished rows are kept for requests with the same prefix."""

from collections.abc import Collection, Sequence

from burnish.inference.kv_cache import KVRow, common_prefix_length, total_slots


class PrefixCache:
    """Rows whose prefixes may be reused; the least recently used row is evicted first.

    Args:
        limit: places of keys and values that all rows hold, running ones included.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: list[KVRow] = []

    def __len__(self) -> int:
        return len(self._kept)

    def longest_match(
        self,
        adapter: int,
        tokens: list[int],
        running: Sequence[KVRow],
        project: str | None = None,
    ) -> tuple[KVRow | None, int]:
        """Return the row, cached or running, with the longest common prefix, and its length.

        At least one token is left to compute: what comes after it is wanted.
        """
        best, length = None, 0
        # Among equals, rows with a trunk come first: those that share it are computed together.
        for row in sorted((*running, *self._kept), key=lambda row: row.trunk is None):
            if row.shares_with(adapter, project):
                result = common_prefix_length(row.tokens, tokens, length)
                if result > length:
                    best, length = row, result
        if best in self._kept:
            self._kept.remove(best)
            self._kept.append(best)
        length = min(length, len(tokens) - 1)
        return (best, length) if length else (None, 0)

    def add(self, row: KVRow) -> None:
        """Add a finished row, and remove rows that are a prefix of it."""
        alike = [other for other in self._kept if other.shares_with(row.adapter, row.project)]
        if any(
            common_prefix_length(other.tokens, row.tokens) == len(row.tokens) for other in alike
        ):
            return
        for other in alike:
            if common_prefix_length(row.tokens, other.tokens) == len(other.tokens):
                self._kept.remove(other)
        self._kept.append(row)

    def evict_until_fits(self, running: Sequence[KVRow], more: int = 0) -> bool:
        """Evict rows until `more` slots fit; return False if that is impossible."""
        while self.used_slots(running) + more > self.limit:
            if not self._kept:
                return False
            self._kept.pop(0)
        return True

    def used_slots(self, running: Sequence[KVRow]) -> int:
        """Return the number of slots that running and cached rows hold together."""
        return total_slots((*running, *self._kept))

    def keep_adapters(self, adapters: Collection[int]) -> None:
        """Remove the rows of all other adapters."""
        self._kept = [row for row in self._kept if row.adapter in adapters]
