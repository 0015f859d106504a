"""Burnish's side of the training bench, and the floating-point operations that it is worth."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from train_works import COMPARED, RANK, RATE, Work

from burnish.models.branches import Row, trunk_length
from burnish.training.host_memory import peak_memory_mb
from burnish.training.loop import Loop, Settings


class Prepared:
    """Batches that were made before."""

    def __init__(self, batches: list[list[Any]]) -> None:
        self.batches, self.steps = batches, len(batches)

    def step(self, number: int) -> list[list[Any]]:
        return [self.batches[number]]


def run(work: Work, _side: str, steps: int) -> dict[str, Any]:
    """Rate, peak memory and losses; for the demo rows also the machine's utilisation."""
    model, goal = work.model(), work.goal()
    batches = work.batches(model.tokenizer, steps)
    machine = [matrix_rate()]
    torch.manual_seed(0)
    losses: list[float] = []
    compared = COMPARED.get(work.objective, ("loss",))[0]

    def listen(phase: str, values: dict[str, Any]) -> None:
        if phase == "train":
            losses.append(values[compared])

    settings = Settings(RATE, "constant", warmup=0.0, evaluations=0, checkpoints=1)
    prepared: Any = Prepared(batches)
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(model.module, prepared, goal, settings, {}, Path(folder), listen)
        started = time.perf_counter()
        items = goal.prepare(loop.network, [item for batch in batches for item in batch])
        prepared.batches = [items[at : at + work.batch] for at in range(0, len(items), work.batch)]
        loop.run()
        seconds = time.perf_counter() - started
    tokens = sum(item.size for batch in batches for item in batch)
    found = {"tokens_per_second": tokens / seconds, "peak_mb": peak_memory_mb(), "losses": losses}
    if work.name == "sft-shared":
        machine.append(matrix_rate())
        rate = statistics.mean(machine)
        found["machine_gflops"] = rate / 1e9
        found["utilisation"] = sum(step_flops(model.module, b) for b in batches) / seconds / rate
    return found


def matrix_rate(size: int = 1024, seconds: float = 1.0) -> float:
    """Operations a second of float32 products of square matrices on this machine, now."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    for _ in range(3):
        a @ b
    started, products = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        a @ b
        products += 1
    return 2 * size**3 * products / (time.perf_counter() - started)


def step_flops(model: Any, rows: Sequence[Row]) -> float:
    """Operations that one SFT step on these rows needs, each shared token counted once.

    A product of N rows by an (I, O) matrix is 2 N I O. Every linear layer of the decoder does it
    forwards and, for the gradient of its input, backwards; its own weights are frozen. The low-rank
    matrices take three times 2 N R (I + O): forwards, for the input, for themselves. The first
    layer's query, key and value need no gradient of the input. The vocabulary projection counts
    at the predicted positions only. Attention: scores and values forwards, twice that backwards,
    over the pairs that causality lets see each other. Norms, activations and the optimizer are
    not counted, nor is anything that is computed a second time.
    """
    base = model.get_base_model()
    config = base.config
    trunk = trunk_length(rows)
    rest = [row.size - trunk - (1 if trunk else 0) for row in rows]  # the last token predicts none
    tokens, asked = trunk + sum(rest), sum(row.learnt for row in rows)
    total = 0.0
    for name, layer in base.model.named_modules():
        if not (isinstance(layer, nn.Linear) and name.endswith("base_layer")):
            continue
        first = any(f"layers.0.self_attn.{part}_proj" in name for part in "qkv")
        size = layer.in_features * layer.out_features
        total += 2 * tokens * size * (1 if first else 2)
        total += 6 * tokens * RANK * (layer.in_features + layer.out_features)
    total += 4 * asked * config.hidden_size * config.vocab_size
    pairs = trunk * (trunk + 1) / 2 + sum(n * trunk + n * (n + 1) / 2 for n in rest)
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    return total + 3 * 4 * width * pairs * config.num_hidden_layers
