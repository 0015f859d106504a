"""The learning rate test for `learning_rate: auto`: short trials before the first step.

A few rates around the rule's take a few real steps each, from the same weights and on the same
batches, which are spread over the run. The held-out losses afterwards show whether the rule fits
this model and these rows. It is a range test (Smith 2015, arXiv 1506.01186) with separate trials
instead of one rising rate, so that no trial starts from weights that another one changed. The
model is restored afterwards.
"""

import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from burnish.errors import DivergedError, InterruptedRunError
from burnish.training.batches import Chosen
from burnish.training.loop import Loop
from burnish.training.objectives.base import Objective
from burnish.training.snapshot import restored_afterwards

# The test takes at most a tenth of the run's steps. A trial of fewer than 4 steps shows little more
# than the first step, and more than 16 steps show little that 16 do not.
_SHARE = 10
_FEWEST, _MOST = 4, 16
# Multiples of the rule's rate. Each is twice the one before, because closer rates have similar
# results. The first set with enough steps for each trial is used. A rate that is too high ruins a
# run and makes the model forget, one that is too low only slows it down, so lower ones come first.
_FACTORS = ((0.25, 0.5, 1.0, 2.0), (0.5, 1.0, 2.0), (0.5, 1.0))
# Held-out rows in groups, whose differences give the standard error. With more groups, the common
# beginning of the rows would be computed more often.
_HELD_OUT, _GROUPS = 25, 5


@dataclass(frozen=True)
class Design:
    """The design of a test: multiples of the rule's rate, steps of the run, held-out groups.

    `reason` is why no rate is tried; then the rest is empty.
    """

    factors: tuple[float, ...] = ()
    numbers: tuple[int, ...] = ()
    groups: tuple[tuple[Any, ...], ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class Trial:
    """A rate and the held-out loss of each group after its steps; no losses if it diverged."""

    rate: float
    losses: tuple[float, ...]

    @property
    def loss(self) -> float | None:
        """Mean loss of the groups, per unit of the objective."""
        return fmean(self.losses) if self.losses else None

    def error(self, best: "Trial") -> float | None:
        """Standard error of the difference from the best trial's loss, paired by group."""
        if not self.losses:
            return None
        differences = [own - other for own, other in zip(self.losses, best.losses, strict=True)]
        return stdev(differences) / math.sqrt(len(differences))


@dataclass(frozen=True)
class Screen:
    """The result of the test: the chosen rate, and the trials.

    Attributes:
        rule: the learning rate by the rule.
        chosen: the learning rate of the run.
        steps: optimizer steps of each trial.
        trials: by ascending rate.
        reason: why no other rate was tried; None if others were.
    """

    rule: float
    chosen: float
    steps: int = 0
    trials: tuple[Trial, ...] = ()
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the result for the manifest and events; the loss of a diverged trial is None."""
        if self.reason:
            return {"rule": self.rule, "chosen": self.chosen, "reason": self.reason}
        best = _best(self.trials)
        return {
            "rule": self.rule,
            "chosen": self.chosen,
            "steps": self.steps,
            "rates": [trial.rate for trial in self.trials],
            "losses": [trial.loss for trial in self.trials],
            "errors": [best and trial.error(best) for trial in self.trials],
        }

    def sentence(self) -> str:
        """Return the chosen rate and the reason as a line for the user."""
        if self.reason:
            return f"learning rate {self.chosen:.3g} by the rule: {self.reason}"
        tried = ", ".join(
            f"{trial.rate:.3g} " + ("diverged" if trial.loss is None else f"{trial.loss:.3f}")
            for trial in self.trials
        )
        return f"learning rate {self.chosen:.3g}, held-out loss after {self.steps} steps: {tried}"


def design(loop: Loop) -> Design:
    """Design the test for a run, without running it."""
    objective, steps = loop.objective, loop.batches.steps
    if type(objective).collect is not Objective.collect:
        return Design(reason="the objective samples new answers at each step")
    if not objective.additive:
        return Design(reason="the loss of a row depends on the other rows of its batch")
    budget = steps // _SHARE
    factors = next((some for some in _FACTORS if budget >= _FEWEST * len(some)), ())
    if not factors:
        needed = _SHARE * _FEWEST * len(_FACTORS[-1])
        return Design(reason=f"trying others takes a run of {needed} steps, this one has {steps}")
    each = min(budget // len(factors), _MOST)
    numbers = tuple((2 * index + 1) * steps // (2 * each) for index in range(each))
    groups = _groups(loop, numbers)
    if len(groups) < 2:
        return Design(reason="no held-out rows are left to compare rates on")
    return Design(factors, numbers, groups)


def screen(loop: Loop) -> Screen:
    """Try rates around the loop's own; the loop is unchanged afterwards.

    Raises:
        InterruptedRunError: SIGINT or SIGTERM was received; the run has not taken a step yet.
    """
    plan, rule = design(loop), loop.settings.learning_rate
    if plan.reason:
        return Screen(rule, rule, reason=plan.reason)
    with tempfile.TemporaryDirectory(prefix="burnish-screen-") as name:
        trials = tuple(_trial(loop, rule * times, plan, Path(name)) for times in plan.factors)
    return Screen(rule, choose(trials, rule), len(plan.numbers), trials)


def choose(trials: Sequence[Trial], rule: float) -> float:
    """Return the rate nearest the rule's of those that tie with the best; of two, the lower.

    A rate ties if its held-out loss is within one standard error of the best (Breiman et al.
    1984, section 3.4.3). Ties go to the rule because a few steps mislead both ways: greedy
    horizons favour rates that are too low (Wu et al. 2018, arXiv 1803.02021), and in the first
    steps a higher rate seems better only because it has changed the weights more. Measured
    with SmolLM2-135M on support-routing: after 4 steps twice the rule's rate led by 0.6
    standard errors, after 49 the two validation losses were 0.407 and 0.406; half the rule's rate,
    which was 11 standard errors worse after 4 steps, ended at 0.488.
    """
    best = _best(trials)
    if best is None:  # all trials diverged
        return min(trial.rate for trial in trials)
    tied = [trial.rate for trial in trials if _ties(trial, best)]
    return min(tied, key=lambda rate: (round(abs(math.log(rate / rule)), 6), rate))


def _ties(trial: Trial, best: Trial) -> bool:
    error = trial.error(best)
    return error is not None and fmean(trial.losses) - fmean(best.losses) <= error


def _best(trials: Sequence[Trial]) -> Trial | None:
    sound = [trial for trial in trials if trial.losses]
    return min(sound, key=lambda trial: fmean(trial.losses), default=None)


class _Miniature(Loop):
    """A run of a few steps that saves no checkpoints."""

    def _save(self) -> None:
        return


def _trial(loop: Loop, rate: float, plan: Design, folder: Path) -> Trial:
    """Take the trial's steps at another rate, with the run's schedule, and measure the loss."""
    settings = replace(loop.settings, learning_rate=rate, evaluations=0)
    batches = Chosen(loop.batches, plan.numbers)
    with restored_afterwards(loop.model, loop.objective.carried, folder):
        short = _Miniature(
            loop.model, batches, loop.objective, settings, {}, folder, lambda *_: None
        )
        try:
            short.run()
        except DivergedError:
            return Trial(rate, ())
        except InterruptedRunError as error:
            raise InterruptedRunError("stopped before the first step") from error
        loop.model.eval()
        losses = [loop.objective.validate(loop.network, group)["loss"] for group in plan.groups]
    return Trial(rate, tuple(losses) if all(map(math.isfinite, losses)) else ())


def _groups(loop: Loop, numbers: Sequence[int]) -> tuple[tuple[Any, ...], ...]:
    """Return validation items in groups; without any, training items that no trial reads.

    A trial's steps read at least as many items, so reading the groups costs no more than the steps.
    """
    read = [item for number in numbers for items in loop.batches.step(number) for item in items]
    held_out = [item for items in loop.validation.values() for item in items if item.learnt]
    if not held_out:
        known = {id(item) for item in read}
        everything = [item for items in loop.batches.sets.values() for item in items]
        held_out = [item for item in everything if item.learnt and id(item) not in known]
    random.Random(loop.batches.seed).shuffle(held_out)
    held_out = held_out[: min(_HELD_OUT, len(read))]
    return tuple(tuple(held_out[first::_GROUPS]) for first in range(min(_GROUPS, len(held_out))))
