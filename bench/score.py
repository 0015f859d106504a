"""Multiple-choice scoring speed against lm-eval-harness: same model, questions, shots and choices.

    python bench/score.py [--items 100] [--repeats 3] [--threads 2]

Both sides score the same texts on one float32 model in one process, taking turns; the harness
through its own `HFLM.loglikelihood` in batches of 32. Five-shot puts the same five answered
questions before each item. A run of either side is timed from text to log-probabilities,
tokenizing included. Prints medians and writes nothing. With the defaults it takes most of an
hour on two cores and, for the harness's logits, 10 GB of memory.
"""

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from burnish.models.interface import Choice
from burnish.models.language_model import LanguageModel
from burnish.models.load import load_model

DATA = Path(__file__).parents[2] / "shared" / "data"
SHOTS = 5
BATCH = 32
# Answer of a side: for each item the summed log-probability of each choice.
Answers = list[tuple[float, ...]]
Side = Callable[[Sequence[Choice]], Answers]


@dataclass(frozen=True, slots=True)
class Case:
    """The items of one line of the table."""

    task: str
    shots: int
    items: list[Choice]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Items a second of both sides, and how far their answers are apart."""

    ours: float
    harness: float
    identical: float
    difference: float


def rows(name: str, split: str) -> list[dict[str, Any]]:
    lines = (DATA / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def asked(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def plain(question: str) -> str:
    return question


def cases(count: int) -> list[Case]:
    """ARC easy takes its shots from the training rows, HellaSwag its last validation rows."""
    arc, arc_shots = rows("arc_easy", "test"), rows("arc_easy", "train")[:SHOTS]
    swag = rows("hellaswag", "validation")
    swag, swag_shots = swag[:-SHOTS], swag[-SHOTS:]
    return [
        Case("arc_easy", 0, items(arc[:count], [], asked)),
        Case("arc_easy", SHOTS, items(arc[:count], arc_shots, asked)),
        Case("hellaswag", 0, items(swag[:count], [], plain)),
        Case("hellaswag", SHOTS, items(swag[:count], swag_shots, plain)),
    ]


def items(
    questions: Sequence[dict[str, Any]],
    shots: Sequence[dict[str, Any]],
    context: Callable[[str], str],
) -> list[Choice]:
    before = "".join(
        f"{context(shot['question'])} {shot['choices'][shot['answer']]}\n\n" for shot in shots
    )
    return [
        Choice(before + context(row["question"]), tuple(f" {c}" for c in row["choices"]))
        for row in questions
    ]


def burnish_side(model: LanguageModel) -> Side:
    return lambda items: [scores.logprobs for scores in model.score(items)]


def harness_side(model: LanguageModel) -> Side:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    harness = HFLM(pretrained=model.module, tokenizer=model.tokenizer, batch_size=BATCH)

    def answers(items: Sequence[Choice]) -> Answers:
        requests = [
            Instance("loglikelihood", {}, (item.context, choice), place)
            for item in items
            for place, choice in enumerate(item.choices)
        ]
        found = iter(harness.loglikelihood(requests, disable_tqdm=True))
        return [tuple(next(found)[0] for _ in item.choices) for item in items]

    return answers


def compare(case: Case, ours: Side, harness: Side, repeats: int) -> Comparison:
    seconds: dict[Side, list[float]] = {ours: [], harness: []}
    answers: dict[Side, Answers] = {}
    for side in seconds:  # the first call allocates and starts threads
        side(case.items[:2])
    for _ in range(repeats):
        for side in seconds:
            started = time.perf_counter()
            answers[side] = side(case.items)
            seconds[side].append(time.perf_counter() - started)
    rate = {side: len(case.items) / statistics.median(found) for side, found in seconds.items()}
    pairs = list(zip(answers[ours], answers[harness], strict=True))
    return Comparison(
        rate[ours],
        rate[harness],
        statistics.mean(chosen(a) == chosen(b) for a, b in pairs),
        max(abs(x - y) for a, b in pairs for x, y in zip(a, b, strict=True)),
    )


def chosen(logprobs: tuple[float, ...]) -> int:
    return logprobs.index(max(logprobs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="cores to use; all if not given")
    given = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"There is no folder {DATA} with the data sets to measure on.")
    if given.threads:
        torch.set_num_threads(given.threads)
    model = load_model("smollm2-135m", "cpu")
    ours, harness = burnish_side(model), harness_side(model)
    print("task       shots  ours items/s  harness items/s  ratio  same choice  largest difference")
    for case in cases(given.items):
        found = compare(case, ours, harness, given.repeats)
        print(
            f"{case.task:10} {case.shots:5} {found.ours:13.2f} {found.harness:16.2f}"
            f" {found.ours / found.harness:6.2f} {found.identical:12.1%}"
            f" {found.difference:19.2e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
