"""Rewards of answers: from a scorer, a function, a grader, or a reward model."""

import hashlib
import importlib.util
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from burnish.conversation import Example, Message
from burnish.data.turns import ROLES
from burnish.errors import GraderError, RecipeError, quantity
from burnish.evaluation.graders import (
    ChatFunction,
    Grader,
    GraderModels,
    Sample,
    SamplingRequest,
    read_grader,
    run,
)
from burnish.evaluation.scorers import scorer
from burnish.models.from_run import check_reward_run, open_reward_model
from burnish.models.interface import Sampling
from burnish.models.language_model import LanguageModel
from burnish.models.lineage import tuned_sha256
from burnish.models.load import load_model
from burnish.models.reward_model import RewardModel
from burnish.runs.directory import RunDirectory

# (answers, their rows) -> one reward per answer, higher is better.
Reward = Callable[[Sequence[str], Sequence[Example]], Sequence[float]]


_HOPELESS = 16  # so many first answers without a grade are an error


def load_reward(name: str) -> Reward:
    """Load the reward of a recipe: `FILE.py:FUNCTION`, `GRADER.json`, a folder, or a scorer.

    A function takes the answers and their Examples and returns a number for each. A folder is a run
    that trained a reward model. Graders use the models of this machine by name.

    Raises:
        RecipeError: the file, function or scorer does not exist.
        GraderError: the file is not a valid grader.
        RunError: the folder is not a finished run of a reward model.
    """
    if ".py:" in name:
        return _checked(_function(name), name)
    if name.endswith(".json"):
        models = GraderModels(local_chat())
        return grader_reward(read_grader(Path(name), models), models)
    if Path(name).is_dir():
        return _reward_run(Path(name))
    if "/" in name:
        raise RecipeError(
            f"grpo.reward is {name}, but this folder does not exist",
            "train the reward model first, or set the folder of its run",
            code="folder_missing",
            key="grpo.reward",
            path=name,
        )
    metric = scorer(name)
    grade = metric.item
    if grade is None:
        raise RecipeError(
            f"grpo.reward is {name}, which does not score single answers",
            "use a scorer of single items, such as accuracy or rougeL",
            code="not_an_item_scorer",
            key="grpo.reward",
            scorer=name,
        )

    def score(answers: Sequence[str], examples: Sequence[Example]) -> list[float]:
        pairs = zip(answers, examples, strict=True)
        return [grade(answer, example.expected) / metric.best for answer, example in pairs]

    return score


def graded_reward(name: str) -> tuple[Reward, str]:
    """The reward as a measurement, and a text that changes whenever its values could.

    The scale of a reward model is arbitrary. Its logistic function is the model's probability that
    people prefer the answer to one with reward 0.
    """
    reward = load_reward(name)
    if name.endswith(".json"):
        return reward, f"{name} {hashlib.sha256(Path(name).read_bytes()).hexdigest()}"
    if not Path(name).is_dir():
        file = Path(name.rpartition(":")[0])
        code = file.read_bytes() if file.is_file() else b""
        return reward, f"{name} {hashlib.sha256(code).hexdigest()}"
    mark = tuned_sha256(RunDirectory.open(name))

    def graded(answers: Sequence[str], examples: Sequence[Example]) -> list[float]:
        return [1 / (1 + math.exp(-value)) for value in reward(answers, examples)]

    return graded, f"{name} {mark}"


def grader_reward(grader: Grader, models: GraderModels) -> Reward:
    """A grader as a reward; an answer that cannot be graded gets 0, as in the API.

    To expose a grader that never works, the reward raises GraderError if the grader model fails
    (but not if a text is too long), and if none of the first answers could be graded.
    """
    outcomes: Counter[bool] = Counter()

    def graded(answer: str, example: Example) -> float:
        outcome = run(grader, Sample(answer, grader_item(example)), models)
        outcomes[not outcome.errors] += 1
        hopeless = not outcomes[True] and outcomes[False] >= _HOPELESS
        for error in outcome.errors:
            at_fault = error.flag in ("model_grader_server_error", "other_error")
            if (at_fault and error.kind != "length") or hopeless:
                raise GraderError(
                    f"the grader cannot grade ({error.message})",
                    "correct the grader",
                    code="nothing_graded",
                    flag=error.flag,
                    error=error.message,
                )
        return outcome.reward

    return lambda answers, examples: list(map(graded, answers, examples))


def grader_item(example: Example) -> dict[str, Any]:
    """The `item` of graders: the row's extra fields, its messages, and the expected answer."""
    turns = [{"role": turn.role, "content": turn.content} for turn in example.prompt]
    fields = {"messages": turns, "expected": example.expected or None, "label": example.label}
    return {k: v for k, v in fields.items() if v is not None} | dict(example.item or {})


def local_chat() -> ChatFunction:
    """Returns a function that generates with local models by name, loaded on first use."""

    @cache
    def model(name: str) -> LanguageModel:
        return load_model(name)

    def ask(name: str, messages: Sequence[Mapping[str, str]], request: SamplingRequest) -> str:
        turns = tuple(Message(ROLES[m["role"]], m["content"]) for m in messages)
        plain = Sampling()
        sampling = Sampling(
            request.max_tokens or plain.max_new_tokens,
            temperature=request.temperature or plain.temperature,
            top_p=request.top_p or plain.top_p,
            seed=request.seed or plain.seed,
        )
        return model(name).generate([turns], sampling)[0].text

    return ask


def _reward_run(folder: Path) -> Reward:
    """Load the reward model with the first answer, so that checking a recipe is fast."""
    check_reward_run(folder)

    @cache
    def model() -> RewardModel:
        return open_reward_model(folder)

    return lambda answers, examples: model().rewards(examples, answers)


def _function(name: str) -> Reward:
    file, _, function = name.rpartition(":")
    if not Path(file).is_file():
        raise RecipeError(
            f"grpo.reward names the file {file}, which does not exist",
            "correct the path",
            code="file_missing",
            key="grpo.reward",
            path=file,
        )
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(found := getattr(module, function, None)):
        raise RecipeError(
            f"{file} has no function {function}",
            "name a function that takes answers and examples",
            code="function_missing",
            key="grpo.reward",
            path=file,
            function=function,
        )
    reward: Reward = found
    return reward


def _checked(reward: Reward, name: str) -> Reward:
    """Check the number of rewards: a wrong one would assign them to the wrong answers."""

    def checked(answers: Sequence[str], examples: Sequence[Example]) -> Sequence[float]:
        rewards = list(reward(answers, examples))
        if len(rewards) != len(answers):
            raise RecipeError(
                f"{name} returned {quantity(len(rewards), 'reward')} for "
                + quantity(len(answers), "answer"),
                "return one number for each answer",
                code="wrong_count_of_rewards",
                reward=name,
                count=len(rewards),
                expected=len(answers),
            )
        return rewards

    return checked
