"""Tiny models and rows that the objectives are tested with."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from burnish.models.adapt import add_lora
from burnish.models.branches import Row

VOCABULARY = 61


def _llama(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def llama() -> Any:
    """A base model whose weights all learn."""
    return _llama()


@pytest.fixture
def adapted() -> Any:
    """The same with a LoRA adapter that already says something."""
    model = add_lora(_llama(), rank=4, alpha=8, seed=0)
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def plain_logprobs() -> Callable[[Any, Row], torch.Tensor]:
    """log p of each learnt token by the plain forward pass, one row alone."""

    def found(model: Any, row: Row) -> torch.Tensor:
        tokens = torch.tensor([list(row.tokens)])
        logprobs = model(input_ids=tokens).logits[0, :-1].log_softmax(-1)
        picked = logprobs.gather(1, tokens[0, 1:, None])[:, 0]
        return picked[torch.tensor([bool(w) for w in row.weights[1:]])]

    return found


@pytest.fixture
def draw() -> Callable[..., list[Row]]:
    """Rows that begin with one prompt: `draw(prompt length, answer lengths)`."""

    def rows(prompt: int, answers: list[int], seed: int = 1) -> list[Row]:
        chance = torch.Generator().manual_seed(seed)

        def tokens(count: int) -> list[int]:
            return torch.randint(3, VOCABULARY, (count,), generator=chance).tolist()

        start = tokens(prompt)
        return [Row([*start, *tokens(n)], [0.0] * prompt + [1.0] * n) for n in answers]

    return rows
