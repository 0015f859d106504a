"""What the weights of a model were before they learn."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class WeightSnapshot:
    """Weights of a model as they are now, to be put back for a while later."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._pairs = [(p, p.detach().clone()) for p in parameters]

    @property
    def pairs(self) -> list[tuple[torch.nn.Parameter, Tensor]]:
        """Each parameter with the value that was kept."""
        return list(self._pairs)

    def drop_unchanged(self) -> None:
        """Frees the memory of weights that are still the same."""
        self._pairs = [(p, kept) for p, kept in self._pairs if not torch.equal(p, kept)]

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The kept weights instead of today's; nothing is copied."""
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
