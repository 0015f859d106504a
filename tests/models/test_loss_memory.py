"""The loss of many tokens over a large vocabulary needs the memory of a few."""

import weakref
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig

from burnish.models.branches import Network

VOCABULARY, HIDDEN = 128_256, 512
LOGITS = 4 * 512 * VOCABULARY  # bytes of the logits of one piece


class Head(nn.Module):
    """What a network asks of a model for its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=HIDDEN)
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False, dtype=torch.bfloat16)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


class Live(TorchDispatchMode):
    """Adds up the storages of all tensors that are alive; `peak` is the most there was."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.sizes.pop, storage._cdata, None)
        self.peak = max(self.peak, sum(self.sizes.values()))
        return result


def peak(tokens: int) -> int:
    """Bytes of all tensors at the highest point of a loss and its gradient."""
    with FakeTensorMode():
        head: Any = Head().requires_grad_(False)
        network = Network(head)
        with Live() as live:
            hidden_N_H = torch.empty(tokens, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
            targets_N = torch.empty(tokens, dtype=torch.long)
            network.logprobs(hidden_N_H, targets_N).sum().backward()
    return live.peak


def test_memory_does_not_grow_with_the_tokens() -> None:
    few, many = peak(512), peak(8192)
    # Only the hidden states and their gradients grow, and a few numbers a token.
    assert many - few <= 7680 * (2 * 2 * HIDDEN + 128)
    assert many < 4 * LOGITS
    assert many < 0.25 * 4 * 8192 * VOCABULARY  # a quarter of the logits of all tokens alone
