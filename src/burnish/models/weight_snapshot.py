"""Keeps a copy of a model's weights from before training."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class WeightSnapshot:
    """A copy of a model's current weights, which can be swapped in again for a while."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._pairs = [(p, p.detach().clone()) for p in parameters]

    @property
    def pairs(self) -> list[tuple[torch.nn.Parameter, Tensor]]:
        """Each parameter with its copied value."""
        return list(self._pairs)

    def drop_unchanged(self) -> None:
        """Frees the copies of weights that have not changed."""
        self._pairs = [(p, kept) for p, kept in self._pairs if not torch.equal(p, kept)]

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Swaps the copied weights in for the duration of the context; nothing is copied."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        exchanged: list[tuple[torch.nn.Parameter, Tensor]] = []
        for parameter, kept in self._pairs:
            exchanged.append((parameter, parameter.data))
            parameter.data = kept
        self._pairs = exchanged
