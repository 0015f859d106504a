"""The reward of a job: its grader, asked about sampled answers and the rows that they answer."""

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.chat import Example
from burnish.errors import RecipeError
from burnish.run_directory import read_lines
from burnish.training.objectives.grpo import Reward

# The API's grader, a row of the training file, the answer -> its reward.
Grade = Callable[[Mapping[str, Any], Mapping[str, Any], str], float]


def job_reward(folder: Path, grade: Grade | None = None) -> Reward:
    """The reward that `reward.py` in a job's folder names; `grade` is the installation's."""
    grader = json.loads((folder / "grader.json").read_text(encoding="utf-8"))
    items = {row["id"]: row["item"] for row in read_lines(folder / "items.jsonl")}
    asked = grade or _graders()

    def reward(answers: Sequence[str], examples: Sequence[Example]) -> list[float]:
        pairs = zip(answers, examples, strict=True)
        return [asked(grader, items[example.id], answer) for answer, example in pairs]

    return reward


def _graders() -> Grade:
    try:
        found: Grade = importlib.import_module("burnish.serving.graders").grade
    except (ImportError, AttributeError) as error:
        raise RecipeError(
            "this installation has no graders", "learn from answers or preferences instead"
        ) from error
    return found
