"""The prefix cache: keys and values of finished rows are kept for requests with the same prefix."""

from collections.abc import Collection, Sequence

from burnish.inference.rows import Row, common_prefix_length, shares_with, total_slots


class PrefixCache:
    """Rows whose prefixes may be reused; the least recently used row is evicted first.

    Args:
        limit: slots that all rows hold, running ones included.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: list[Row] = []

    def __len__(self) -> int:
        return len(self._kept)

    def longest_match(
        self,
        adapter: int,
        tokens: list[int],
        running: Sequence[Row],
        project: str | None = None,
    ) -> tuple[Row | None, int]:
        """Return the row, cached or running, with the longest reusable prefix, and its length.

        At least one token is left to compute: what comes after it is wanted.
        """
        best, length = None, 0
        # Among equals, rows with a trunk come first: those that share it are computed together.
        for row in sorted((*running, *self._kept), key=lambda row: not row.shares_memory):
            if shares_with(row, adapter, project):
                result = common_prefix_length(row.tokens, tokens, length)
                result = row.reusable(min(result, len(tokens) - 1))
                if result > length:
                    best, length = row, result
        if best in self._kept:
            self._kept.remove(best)
            self._kept.append(best)
        return best, length

    def longest_common(
        self,
        adapter: int,
        tokens: list[int],
        running: Sequence[Row],
        project: str | None = None,
    ) -> int:
        """Return the length of the longest prefix that a row has in common, reusable or not."""
        length = 0
        for row in (*running, *self._kept):
            if shares_with(row, adapter, project):
                length = max(length, common_prefix_length(row.tokens, tokens, length))
        return min(length, len(tokens) - 1)

    def add(self, row: Row) -> None:
        """Add a finished row, and remove rows that are a prefix of it."""
        alike = [other for other in self._kept if shares_with(other, row.adapter, row.project)]
        if any(_covers(other, row) for other in alike):
            return
        for other in alike:
            if _covers(row, other):
                self._kept.remove(other)
        self._kept.append(row)

    def evict_until_fits(self, running: Sequence[Row], more: int = 0) -> bool:
        """Evict rows until `more` slots fit; return False if that is impossible."""
        while self.used_slots(running) + more > self.limit:
            if not self._kept:
                return False
            self._kept.pop(0)
        return True

    def used_slots(self, running: Sequence[Row]) -> int:
        """Return the number of slots that running and cached rows hold together."""
        return total_slots((*running, *self._kept))

    def keep_adapters(self, adapters: Collection[int]) -> None:
        """Remove the rows of all other adapters."""
        self._kept = [row for row in self._kept if row.adapter in adapters]


def _covers(row: Row, other: Row) -> bool:
    """Whether all that can start from the other row can start from this one."""
    length = len(other.tokens)
    return (
        common_prefix_length(row.tokens, other.tokens) == length and row.reusable(length) == length
    )
