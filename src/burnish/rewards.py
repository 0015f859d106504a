"""What an answer is worth: a scorer, a Python function, or a reward model that was trained here."""

import importlib.util
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from burnish.chat import Example
from burnish.errors import RecipeError
from burnish.evaluation.scorers import scorer
from burnish.lineage import tuned_sha256
from burnish.models.reward_model import RewardModel
from burnish.opening import check_reward_run, open_reward_model
from burnish.run_directory import RunDirectory
from burnish.training.objectives.grpo import Reward


def reward_of(name: str) -> Reward:
    """The reward that a recipe names: `FILE.py:FUNCTION`, a reward run's folder, or a scorer.

    A function gets the answers and their Examples and gives a number for each.

    Raises:
        RecipeError: there is no such file, function or scorer.
        RunError: the folder holds no reward model that was trained to the end.
    """
    if ".py:" in name:
        return _checked(_function(name), name)
    if Path(name).is_dir():
        return _reward_run(Path(name))
    if "/" in name:
        raise RecipeError(
            f"grpo.reward is {name}, and there is no such folder",
            "train the reward model first, or name its run's folder",
        )
    metric = scorer(name)
    grade = metric.item
    if grade is None:
        raise RecipeError(
            f"grpo.reward is {name}, which is no score of single answers",
            "name a scorer of single items, such as accuracy or rougeL",
        )

    def score(answers: Sequence[str], examples: Sequence[Example]) -> list[float]:
        pairs = zip(answers, examples, strict=True)
        return [grade(answer, example.expected) / metric.best for answer, example in pairs]

    return score


def graded_reward(name: str) -> tuple[Reward, str]:
    """The reward as a measure, and a text that changes when its rewards could.

    A reward model's number has no scale; its logistic function is the probability, by the model,
    that people prefer the answer to one of reward 0.
    """
    reward = reward_of(name)
    if not Path(name).is_dir():
        return reward, name
    mark = tuned_sha256(RunDirectory.open(name))

    def graded(answers: Sequence[str], examples: Sequence[Example]) -> list[float]:
        return [1 / (1 + math.exp(-value)) for value in reward(answers, examples)]

    return graded, f"{name} {mark}"


def _reward_run(folder: Path) -> Reward:
    """Loads the reward model when the first answer comes, so that a check of a recipe is quick."""
    check_reward_run(folder)

    @cache
    def model() -> RewardModel:
        return open_reward_model(folder)

    return lambda answers, examples: model().rewards(examples, answers)


def _function(name: str) -> Reward:
    file, _, function = name.rpartition(":")
    if not Path(file).is_file():
        raise RecipeError(f"grpo.reward names {file}, which is no file", "correct the path")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(found := getattr(module, function, None)):
        raise RecipeError(
            f"{file} has no function {function}", "name one that takes answers and examples"
        )
    reward: Reward = found
    return reward


def _checked(reward: Reward, name: str) -> Reward:
    """A reward of the wrong length would praise the wrong answers."""

    def checked(answers: Sequence[str], examples: Sequence[Example]) -> Sequence[float]:
        found = list(reward(answers, examples))
        if len(found) != len(answers):
            raise RecipeError(
                f"{name} gave {len(found)} rewards for {len(answers)} answers",
                "return one number for each answer",
            )
        return found

    return checked
