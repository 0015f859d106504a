"""The pairs of recipes/courteous-replies: what its README says of them holds."""

import json
from pathlib import Path
from statistics import median

from burnish.conversation import Message
from burnish.data.checks.dataset import normalised
from burnish.data.load import load
from burnish.recipe.data import Data

FOLDER = Path(__file__).parents[2] / "recipes" / "courteous-replies"


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]


PAIRS, PROMPTS = rows("preferences.jsonl"), rows("prompts.jsonl")


def test_no_message_and_no_reply_comes_twice() -> None:
    messages = [normalised((Message("user", row["prompt"]),)) for row in PAIRS + PROMPTS]
    replies = [
        normalised((Message("assistant", row[side]),))
        for row in PAIRS
        for side in ("chosen", "rejected")
    ]
    assert len(set(messages)) == len(messages) == 300
    assert len(set(replies)) == len(replies) == 360


def test_length_does_not_tell_the_better_reply() -> None:
    chosen = [len(row["chosen"].split()) for row in PAIRS]
    rejected = [len(row["rejected"].split()) for row in PAIRS]
    assert all(12 <= count <= 35 for count in chosen)
    assert 0.8 < median(rejected) / median(chosen) < 1.25
    longer = sum(a > b for a, b in zip(chosen, rejected, strict=True))
    assert 0.4 < longer / len(PAIRS) < 0.6


def test_the_pairs_load_without_a_finding() -> None:
    split = {"validation": 0.1, "test": 0.2}
    data = Data.model_validate({"train": FOLDER / "preferences.jsonl", "split": split})
    dataset = load(data, seed=0)
    assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == len(PAIRS)
    assert dataset.findings == []
