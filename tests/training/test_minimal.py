"""The flat script and the loop take the same steps."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from burnish.models.adapt import add_lora
from burnish.models.branches import Row
from burnish.training.loop import Loop, Settings
from burnish.training.objectives.sft import Sft

SCRIPT = Path(__file__).parents[2] / "recipes" / "minimal.py"


class InOrder:
    """The script's order: no shuffling, no buckets."""

    def __init__(self, rows: list[Row], size: int, steps: int) -> None:
        self.rows, self.size, self.steps = rows, size, steps

    def step(self, number: int) -> list[list[Row]]:
        at = number * self.size % len(self.rows)
        return [self.rows[at : at + self.size]]


def test_minimal_equals_the_loop(tmp_path: Path, tiny_folder: Path, tiny_tokenizer: Any) -> None:
    spec = importlib.util.spec_from_file_location("minimal", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    minimal = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(minimal)
    texts = [("where is my parcel", "green"), ("the tent is torn", "red"), ("yes", "no")] * 8
    rendered = [minimal.render(tiny_tokenizer, text, label) for text, label in texts]

    def model() -> Any:
        module = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
        return add_lora(module, rank=16, alpha=32, dropout=0.0, target_modules="all-linear", seed=0)

    plain = model()
    expected = minimal.train(plain, rendered, 12)
    rows = [Row(t, [0.0] * s + [1.0] * (len(t) - s)) for t, s in rendered]
    losses: list[float] = []
    tuned = model()
    settings = Settings(minimal.RATE, evaluations=0, checkpoints=1)
    batches: Any = InOrder(rows, minimal.BATCH, 12)
    loop = Loop(
        tuned,
        batches,
        Sft(),
        settings,
        {},
        tmp_path,
        lambda phase, values: losses.append(values["loss"]) if phase == "train" else None,
    )
    loop.run()
    assert losses == pytest.approx(expected, abs=1e-4)
    assert len(SCRIPT.read_text().splitlines()) <= 150


def test_same_tokens_as_burnish(tiny_tokenizer: Any) -> None:
    from burnish.conversation import Example, Message
    from burnish.data.render import render

    spec = importlib.util.spec_from_file_location("minimal", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    minimal = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(minimal)
    tokens, start = minimal.render(tiny_tokenizer, "where is my parcel", "green")
    turns = (Message("user", "where is my parcel"), Message("assistant", "green"))
    ours = render(Example("1", turns), tiny_tokenizer)
    assert list(ours.tokens[: len(tokens)]) == tokens
    assert ours.weights.index(1.0) == start
    assert sum(ours.weights) == len(tokens) - start
