"""The remedies of healing: what each changes in the recipe of the run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from burnish.recipe.certification import REPLAYED
from burnish.recipe.schema import Recipe
from burnish.runs.directory import RunDirectory
from burnish.training.anchor import TOLERATED

# Anchor conversations per step while the training continues.
_ANCHORS_PER_STEP = 8

Settings = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Remedy:
    """One way to forget less.

    Attributes:
        name: part of the name of the attempt's folder.
        description: what the remedy does, as a phrase without a subject.
        settings: returns the recipe values that the remedy changes; None where it does not apply.
        share: the expected training time, as a share of the run's.
        on_prompts: whether it trains only on general prompts that the base model wrote.
    """

    name: str
    description: str
    settings: Callable[[Recipe, "RemedyContext"], Settings | None]
    share: float = 1.0
    on_prompts: bool = False


@dataclass(frozen=True, slots=True)
class RemedyContext:
    """What remedies start from: the run, its learning rate, and whether it can be retrained."""

    run: RunDirectory
    rate: float
    can_retrain: bool


def _continue_with_kl(recipe: Recipe, context: RemedyContext) -> Settings | None:
    """Continues from the last weights with a KL penalty, half the rate and half the epochs."""
    if not recipe.method_traits.is_lora or not recipe.objective_settings.can_anchor:
        return None
    return _continue_training(recipe, context) | {
        "training.epochs": recipe.training.epochs / 2 if context.can_retrain else 1.0,
        "replay.rows": REPLAYED,
        "replay.mode": "anchor",
        "replay.anchors_per_step": _ANCHORS_PER_STEP,
    }


def _retrain_with_kl(recipe: Recipe, context: RemedyContext) -> Settings | None:
    if not context.can_retrain or not recipe.objective_settings.can_anchor:
        return None
    anchored = recipe.replay.rows and recipe.replay.mode == "anchor"
    tolerated = recipe.replay.target_kl or TOLERATED * recipe.budget.general
    return {
        "replay.rows": max(recipe.replay.count, REPLAYED),
        "replay.mode": "anchor",
        "replay.target_kl": tolerated / 2 if anchored else tolerated,
    }


def _retrain_at_half_rate(recipe: Recipe, context: RemedyContext) -> Settings | None:
    return {"training.learning_rate": context.rate / 2} if context.can_retrain else None


def _train_uncertain_tokens(recipe: Recipe, context: RemedyContext) -> Settings | None:
    return _with_focus(recipe, context, "entropy")


def _train_likely_tokens(recipe: Recipe, context: RemedyContext) -> Settings | None:
    return _with_focus(recipe, context, "likely")


def _with_focus(recipe: Recipe, context: RemedyContext, focus: str) -> Settings | None:
    weighting = getattr(recipe.objective_settings, "token_weighting", None)
    fits = context.can_retrain and weighting not in (None, focus)
    return {f"{recipe.objective}.token_weighting": focus} if fits else None


def _retrain_with_replay(recipe: Recipe, context: RemedyContext) -> Settings | None:
    fits = context.can_retrain and recipe.objective_settings.rows.replies and not recipe.replay.rows
    return {"replay.rows": REPLAYED, "replay.mode": "text"} if fits else None


def _distill_own_answers(recipe: Recipe, context: RemedyContext) -> Settings | None:
    """Distils the base into the model's own answers to general prompts (GKD, reverse KL)."""
    if not recipe.method_traits.is_lora or recipe.tasks:
        return None
    return _continue_training(recipe, context) | {
        "objective": "distill",
        "distill.on_policy": True,
        "distill.kl_direction": "reverse",
        "distill.max_new_tokens": 40,
        "replay.rows": 0,
        "training.epochs": 2.0,
    }


def _continue_training(recipe: Recipe, context: RemedyContext) -> Settings:
    """Continues the training of the run's last weights at half the learning rate."""
    return {
        "init_from": str(context.run.path),
        "init": "continue",
        "training.learning_rate": context.rate / 2,
    }


# The remedies that kept most in bench/forgetting.py come first.
REMEDIES = (
    Remedy(
        "continue",
        "continues from the last checkpoint with a KL penalty to the base",
        _continue_with_kl,
        0.8,
    ),
    Remedy(
        "anchor",
        "retrains with a KL penalty to the base on replayed conversations",
        _retrain_with_kl,
        1.4,
    ),
    Remedy(
        "replay",
        "retrains with replayed conversations mixed in",
        _retrain_with_replay,
        1.5,
    ),
    Remedy("rate", "retrains at half the learning rate", _retrain_at_half_rate),
    Remedy(
        "entropy",
        "retrains with tokens weighted by the model's uncertainty (EAFT)",
        _train_uncertain_tokens,
    ),
    Remedy(
        "likely",
        "retrains only on tokens that are likely under the base (STM)",
        _train_likely_tokens,
    ),
    Remedy(
        "on-policy",
        "distils the base on the model's own answers (on-policy)",
        _distill_own_answers,
        on_prompts=True,
    ),
)
