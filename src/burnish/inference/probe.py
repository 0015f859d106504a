"""A model's own forward pass over a few tokens, with which a runner compares what it computes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from burnish.errors import ModelError
from burnish.models.branches import Network
from burnish.models.layers import backbone_of

# Enough to be read in pieces and continued, by rows that share a beginning. Sparse attention breaks
# ties by the number of places, so that the longer text may not be the same as its beginning alone.
_LENGTHS = (40, 12)
# What a model may raise that computes something else than a runner expects.
FAILURES = (
    TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError, NotImplementedError,
    AssertionError,
)  # fmt: skip


class Probe:
    """Tokens and their hidden states (L, H) in the model's own pass.

    Attributes:
        tokens: a text of the lowest token ids.
        called: the linear layers that took part by a call, and not by their weights alone.
        is_stable: whether a beginning has the same states when more tokens follow.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self.called: set[nn.Module] = set()
        # The last two tokens are the only ones of their kind.
        text = [place % min(network.config.vocab_size, 97) for place in range(max(_LENGTHS))]
        for length in _LENGTHS:
            self.tokens = text[:length]
            self._states_L_H = self._plain(self.tokens)
            self.is_stable = self._beginning_is_the_same()
            if self.is_stable:
                break

    def _plain(self, tokens: list[int]) -> Tensor:
        given = torch.tensor([tokens], device=self._network.device)
        with torch.inference_mode(), _called(self._network.model, self.called):
            output = backbone_of(self._network.model)(input_ids=given, use_cache=False)
        states_L_H: Tensor = output.last_hidden_state[0]
        return states_L_H

    def _beginning_is_the_same(self) -> bool:
        half = len(self.tokens) * 3 // 4
        return self.agrees(self._plain(self.tokens[:half]), range(half))

    def difference(self, hidden_N_H: Tensor, places: Sequence[int]) -> float:
        """The largest relative difference from the states at these places; nan counts as one."""
        plain_N_H = self._states_L_H[list(places)]
        size_N = plain_N_H.norm(dim=-1).clamp(min=1e-6)
        return float(((hidden_N_H - plain_N_H).norm(dim=-1) / size_N).max())

    def agrees(self, hidden_N_H: Tensor, places: Sequence[int], least: float | None = None) -> bool:
        """Whether the states are the model's own; a dropped mask or shifted position is far off.

        `least` is a difference that was seen where nothing can be wrong; a forgotten state may
        make little more than that in a model of random weights.
        """
        exact = hidden_N_H.dtype == torch.float32
        most = 1e-3 if exact else 0.1
        if least is not None:
            most = min(most, max(10 * least, 1e-4 if exact else 0.02))
        return self.difference(hidden_N_H, places) < most


@contextmanager
def _called(model: nn.Module, called: set[nn.Module]) -> Iterator[None]:
    hooks = [
        layer.register_forward_hook(lambda layer, *_: called.add(layer))
        for layer in model.modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def describe(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).partition("\n")[0][:120] or type(error).__name__


def not_servable(network: Network, reason: str) -> ModelError:
    """Return the error for a model whose answers would not be exact in this process."""
    name = type(network.model).__name__
    return ModelError(
        f"{name} cannot generate in this process ({reason})",
        "serve the model with `--backend vllm`",
        code="not_batchable",
        model=name,
        reason=reason,
    )
