"""Which runner computes a model: rows side by side, or rows with the model's own states."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor
from transformers.cache_utils import get_layer_types_and_kwargs

from burnish.errors import ModelError
from burnish.inference.forward import ModelRunner, NewTokens
from burnish.inference.lora import AdapterPool
from burnish.inference.rows import Row
from burnish.inference.state_runner import StateRunner
from burnish.models.branches import Network

# Layers whose whole state are keys and values, which are seen by position alone.
_ATTENTION = {"full_attention", "sliding_attention", "dummy"}


class Runner(Protocol):
    """Computes rows with one set of base weights, and adapters beside it."""

    network: Network
    adapters: AdapterPool

    @property
    def reads_whole(self) -> bool:
        """Whether a prompt has to be read in one pass."""
        ...

    def new_row(self, adapter: int, room: int, project: str | None = None) -> Row:
        """Return a row without tokens that has room for so many."""
        ...

    def slots(self, room: int, shared: int = 0) -> int:
        """Slots that a new row takes, of whose tokens `shared` are another row's."""
        ...

    def run(self, new: Sequence[NewTokens]) -> list[Tensor]:
        """Hidden states (L, H) of each row's new tokens, which count as computed afterwards."""
        ...

    def logits(self, hidden_N_H: Tensor, adapters: Sequence[int]) -> Tensor:
        """Vocabulary projection (N, V) in float32; each position names the adapter of its row."""
        ...

    def close(self) -> None:
        """Restore the model."""
        ...


def open_runner(network: Network, adapters: AdapterPool) -> Runner:
    """Return the fastest runner that computes the model exactly.

    Raises:
        ModelError: none does.
    """
    if network.model._can_set_attn_implementation() and only_attention(network):
        try:
            return ModelRunner(network, adapters)
        except ModelError as error:
            if error.code != "not_batchable":
                raise
    return StateRunner(network, adapters)


def only_attention(network: Network) -> bool:
    """Whether the configuration names no layer that keeps more than keys and values."""
    try:
        kinds, _ = get_layer_types_and_kwargs(network.config)
    except (AttributeError, KeyError, TypeError, ValueError):
        return True  # the configuration does not tell, so the comparison with a plain pass does
    return set(kinds) <= _ATTENTION
