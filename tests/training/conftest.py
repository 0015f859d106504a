"""Tiny models and rows that the objectives are tested with."""

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
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


@pytest.fixture
def trl_trainer(tiny_tokenizer: Any, tmp_path: Path) -> Callable[..., Any]:
    """A real trainer of TRL, whose loss is asked for on our batch: `(kind, model, row, options)`.

    `row` is one row of the data set that it wants to have; further arguments go to the trainer.
    """
    pytest.importorskip("trl", reason="TRL is the oracle")
    from datasets import Dataset

    def made(
        kind: str, model: Any, row: Mapping[str, Any], options: Mapping[str, Any], **given: Any
    ) -> Any:
        place = f"trl.experimental.{kind.lower()}" if kind in ("CPO", "ORPO") else "trl"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(place)
            config = getattr(module, f"{kind}Config")(
                output_dir=str(tmp_path / "trl"), report_to="none", use_cpu=True, bf16=False,
                gradient_checkpointing=False, **options,
            )  # fmt: skip
            model.warnings_issued = {}
            model.config.vocab_size = len(tiny_tokenizer)
            trainer = getattr(module, f"{kind}Trainer")(
                model=model,
                args=config,
                train_dataset=Dataset.from_list([row] * 8),
                processing_class=tiny_tokenizer,
                **given,
            )
        # TRL keeps the adapter that it was given as its reference; ours is the base, as without.
        getattr(model, "peft_config", {}).pop("ref", None)
        return trainer

    return made


@pytest.fixture
def trl_rows() -> Callable[..., dict[str, torch.Tensor]]:
    """Rows padded at the right, with the masks of TRL."""

    def found(rows: Sequence[Row], padding: int = 0) -> dict[str, torch.Tensor]:
        longest = max(row.size for row in rows)

        def fill(values: list[Any], value: int = 0) -> list[Any]:
            return values + [value] * (longest - len(values))

        learnt = [[int(bool(w)) for w in row.weights] for row in rows]
        return {
            "input_ids": torch.tensor([fill(list(row.tokens), padding) for row in rows]),
            "attention_mask": torch.tensor([fill([1] * row.size) for row in rows]),
            "completion_mask": torch.tensor([fill(mask) for mask in learnt]),
        }

    return found


@pytest.fixture
def assert_same() -> Callable[[Any, torch.Tensor, Callable[[], torch.Tensor]], None]:
    """An oracle's loss and ours, and their gradients by every parameter that learns."""

    def compared(model: Any, expected: torch.Tensor, ours: Callable[[], torch.Tensor]) -> None:
        learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
        gradients: list[dict[str, Any]] = []
        losses = []
        for compute in (lambda: expected, ours):
            model.zero_grad()
            losses.append(compute())
            losses[-1].backward()  # type: ignore[no-untyped-call]
            gradients.append({n: p.grad for n, p in learning.items()})
            for parameter in learning.values():
                parameter.grad = None
        torch.testing.assert_close(losses[1], losses[0], atol=1e-6, rtol=1e-5)
        wanted, found = gradients
        assert max(float(gradient.abs().max()) for gradient in wanted.values()) > 1e-3
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)

    return compared
