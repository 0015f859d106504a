"""A short screen of learning rates before the first step: what `learning_rate: auto` stands for.

A few rates around the rule's each take a few real steps from the same start, on the same batches,
which lie spread over the run, and the held-out losses after them tell whether the rule fits this
model and these rows. It is a range test (Smith 2015, arXiv 1506.01186) of separate trials instead
of one rising rate, so that no trial inherits what the one before did to the weights. Afterwards
nothing is left of it.
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
from burnish.training.snapshot import undone

# The screen may take a tenth of the run's steps. A trial of fewer than 4 steps shows nothing but
# the first step, and one of more than 16 little that 16 do not show.
_SHARE = 10
_FEWEST, _MOST = 4, 16
# Multiples of the rule's rate, each twice the one before, since nearer ones end alike; the first
# set that leaves enough steps for each is taken. A rate that is too high ruins a run and costs what
# the model knew, one too low only slows it, so there is more room below the rule than above.
_FACTORS = ((0.25, 0.5, 1.0, 2.0), (0.5, 1.0, 2.0), (0.5, 1.0))
# Held-out rows, read in groups: what differs between groups gives the standard error. More groups
# would compute what all rows begin with more often.
_HELD, _GROUPS = 25, 5


@dataclass(frozen=True)
class Design:
    """What a screen will do: the factors tried, the run's steps each takes, the groups judged by.

    `reason` says why nothing is tried; then the rest is empty.
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
        """Mean over the groups, a unit of the objective."""
        return fmean(self.losses) if self.losses else None

    def error(self, best: "Trial") -> float | None:
        """Standard error of how far this one is behind the best, paired by group."""
        if not self.losses:
            return None
        behind = [own - other for own, other in zip(self.losses, best.losses, strict=True)]
        return stdev(behind) / math.sqrt(len(behind))


@dataclass(frozen=True)
class Screen:
    """The rate chosen and what it was chosen from.

    Attributes:
        rule: the rate of the rule, around which others were tried.
        chosen: the rate that the run takes.
        steps: optimizer steps that each trial took.
        trials: by ascending rate.
        reason: why no rate but the rule's was tried.
    """

    rule: float
    chosen: float
    steps: int = 0
    trials: tuple[Trial, ...] = ()
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the manifest and the events; a loss is None where a trial diverged."""
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
        """What was chosen, and why."""
        if self.reason:
            return f"learning rate {self.chosen:.3g} by the rule: {self.reason}"
        tried = ", ".join(
            f"{trial.rate:.3g} " + ("diverged" if trial.loss is None else f"{trial.loss:.3f}")
            for trial in self.trials
        )
        return f"learning rate {self.chosen:.3g}, held-out loss after {self.steps} steps: {tried}"


def design(loop: Loop) -> Design:
    """How the run's rate would be screened; nothing is tried yet."""
    objective, steps = loop.objective, loop.batches.steps
    if type(objective).collect is not Objective.collect:
        return Design(reason="the objective samples new answers at each step")
    if not objective.additive:
        return Design(reason="the loss of a row depends on the rows that it is read with")
    budget = steps // _SHARE
    factors = next((some for some in _FACTORS if budget >= _FEWEST * len(some)), ())
    if not factors:
        needed = _SHARE * _FEWEST * len(_FACTORS[-1])
        return Design(reason=f"a run of {steps} steps is too short to try others, {needed} are not")
    each = min(budget // len(factors), _MOST)
    numbers = tuple((2 * place + 1) * steps // (2 * each) for place in range(each))
    groups = _groups(loop, numbers)
    if len(groups) < 2:
        return Design(reason="no rows are left to judge others by")
    return Design(factors, numbers, groups)


def screen(loop: Loop) -> Screen:
    """Tries rates around the loop's own and puts weights, optimizer and random states back.

    Raises:
        InterruptedRunError: SIGINT or SIGTERM came; the run has taken no step yet.
    """
    plan, rule = design(loop), loop.settings.learning_rate
    if plan.reason:
        return Screen(rule, rule, reason=plan.reason)
    with tempfile.TemporaryDirectory(prefix="burnish-screen-") as name:
        trials = tuple(_trial(loop, rule * times, plan, Path(name)) for times in plan.factors)
    return Screen(rule, choose(trials, rule), len(plan.numbers), trials)


def choose(trials: Sequence[Trial], rule: float) -> float:
    """Of the rates that tie with the best, the one nearest the rule's; of two as near, the lower.

    A rate ties if its held-out loss is within one standard error of the best (Breiman et al.
    1984, section 3.4.3). Ties go to the rule because a few steps mislead both ways: greedy
    horizons favour rates that are too low (Wu et al. 2018, arXiv 1803.02021), and before anything
    has had time to travel, a higher rate seems better only because it travelled farther. Measured
    with SmolLM2-135M on support-routing: after 4 steps twice the rule's rate led by 0.6
    standard errors, after 49 the two validation losses were 0.407 and 0.406; half of it, which was
    11 standard errors behind after 4 steps, ended at 0.488.
    """
    best = _best(trials)
    if best is None:  # all diverged
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
    """A run of few steps that leaves no files."""

    def _save(self) -> None:
        return


def _trial(loop: Loop, rate: float, plan: Design, folder: Path) -> Trial:
    """The run in miniature, its schedule included, at another rate."""
    settings = replace(loop.settings, learning_rate=rate, evaluations=0)
    batches = Chosen(loop.batches, plan.numbers)
    with undone(loop.model, loop.objective.carried, folder):
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
    """Held-out items in groups; of the training items that no trial reads without validation.

    They are no more than one trial's steps read, so reading them costs no more than those steps.
    """
    read = [item for number in numbers for items in loop.batches.step(number) for item in items]
    held = [item for items in loop.validation.values() for item in items if item.learnt]
    if not held:
        known = {id(item) for item in read}
        everything = [item for items in loop.batches.sets.values() for item in items]
        held = [item for item in everything if item.learnt and id(item) not in known]
    random.Random(loop.batches.seed).shuffle(held)
    held = held[: min(_HELD, len(read))]
    return tuple(tuple(held[first::_GROUPS]) for first in range(min(_GROUPS, len(held))))
