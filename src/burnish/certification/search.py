"""The search for the best model within the budgets, on PROBE and the validation rows alone.

A candidate is a checkpoint at a scale of its adapter. All scales of a checkpoint share one set of
weights. The scale is found by bisection rather than on a grid.
"""

import gc
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from burnish.certification.budgets import text_rise
from burnish.certification.forecast import Forecast
from burnish.certification.ledger import Pair, paired_scores
from burnish.certification.run_ledger import budgets_of, excluded_sections
from burnish.errors import RunError
from burnish.evaluation.measure import LEAST_TESTED, measure, target_task, tested
from burnish.evaluation.statistics import (
    BoolArray,
    macro_paired,
    paired_bootstrap,
    paired_outcomes,
)
from burnish.evaluation.suite import Suite
from burnish.evaluation.tasks import Task, TextLossTask
from burnish.models.adapter_scale import is_scalable
from burnish.models.from_run import open_tuned
from burnish.models.language_model import LanguageModel, folder_sha256
from burnish.progress import Bars, counts_to
from burnish.recipe.schema import Recipe
from burnish.runs.candidates import Candidate, Frontier, Range
from burnish.runs.directory import RunDirectory
from burnish.runs.overlaps import Leakage
from burnish.training.checkpoint import saved_steps

# An earlier checkpoint with more than this many times the best validation loss is undertrained.
_BEHIND = 1.1
# The best checkpoint, and the earlier one that forgot least.
_CHECKPOINTS = 2
# Bounds of the next scale after a loss over budget, as a share of the previous scale.
_SHORTEST, _LONGEST = 0.25, 0.8


class ScaleSearch:
    """Measures candidates on PROBE and the validation rows, each only once.

    Args:
        directory: the run, whose checkpoints are the weights of the candidates.
        recipe: its recipe.
        model: the run's model; the search changes its weights and scale.
        probes: the PROBE parts of the suites.
        leakage: the sections with items in the training data.
        bars: progress bars.
    """

    def __init__(
        self,
        directory: RunDirectory,
        recipe: Recipe,
        model: LanguageModel,
        probes: Sequence[Suite],
        leakage: Leakage,
        bars: Bars,
    ) -> None:
        self.directory, self.recipe = directory, recipe
        self._model: LanguageModel | None = model
        self.probes, self.leakage, self.bars = probes, leakage, bars
        self.budgets = budgets_of(recipe)
        self.candidates: dict[str, Candidate] = {}
        self.runs = {"": directory}
        self._loaded: tuple[str, int] | None = None
        self._seconds = 0.0
        self.target = _validation_task(directory, recipe, model)
        tasks = [task for probe in probes for task in probe.tasks]
        with model.base() as base:
            self._measure(base, "base", [*tasks, *self._target_tasks])
        means = ((probe.name, counted_sections(directory, probe, leakage)) for probe in probes)
        self.counted_sections = [(suite, names) for suite, names in means if names]

    @property
    def model(self) -> LanguageModel:
        """The run's model, as any of the candidates; see `at`."""
        assert self._model is not None, "the search is closed"
        return self._model

    @contextmanager
    def model_unloaded(self) -> Iterator[None]:
        """Unload the model within a `with` block, to make room for training."""
        self._model, self._loaded = None, None
        gc.collect()
        try:
            yield
        finally:
            self._model = open_tuned(self.directory)

    @property
    def forecast(self) -> Forecast:
        """The expected results on CERT, given all candidates measured so far."""
        return Forecast(self.candidates.values(), self.budgets)

    @property
    def seconds_per_candidate(self) -> float:
        """Average seconds to measure one candidate in full."""
        measured = sum(one.drop is not None for one in self.candidates.values())
        return self._seconds / max(1, measured)

    @property
    def _target_tasks(self) -> list[Task]:
        return [self.target] if self.target is not None else []

    @counts_to("candidates")
    def run(self, attempt: str = "", among: RunDirectory | None = None) -> None:
        """Search the checkpoints of the run, or of the run of a healing attempt.

        An earlier checkpoint is searched only if PROBE puts the best one outside the budgets at
        every scale: it takes as long to measure, and it was trained for fewer steps.
        """
        self.runs[attempt] = among or self.directory
        for start in self._checkpoints(attempt):
            self._bisect_scale(start)
            own = [one for one in self.candidates.values() if one.attempt == attempt]
            if any(one.drop is not None and self._estimates_fit(one) for one in own):
                break

    def resume(self, frontier: Frontier) -> list[Candidate]:
        """Restore a finished search; returns its order of testing."""
        for candidate in frontier.candidates:
            self.candidates[candidate.key] = candidate
            attempt = candidate.attempt
            self.runs[attempt] = RunDirectory(self.directory.path / "heal" / attempt)
        self.runs[""] = self.directory
        return [frontier.candidates[index] for index in frontier.order]

    def unscaled(self) -> Candidate:
        """The best checkpoint as it was trained, measured in full."""
        return self._measure_full(self._measure_cheap(next(self._checkpoints(""))))

    def with_layer_slope(self, slope: float) -> None:
        """Search the best checkpoint with a smaller adapter scale in the first layers."""
        self._bisect_scale(replace(next(self._checkpoints("")), slope=slope))

    def best_within_budget(self) -> Candidate | None:
        """The candidate with the largest gain that is expected to stay within every budget."""
        forecast = self.forecast
        measured = [one for one in self.candidates.values() if one.drop is not None]
        fitting = [one for one in measured if forecast.within_budget(one)]
        return max(fitting, key=lambda one: one.worth or 0.0, default=None)

    def _checkpoints(self, attempt: str) -> Iterator[Candidate]:
        """Unscaled checkpoints: the best by validation loss, then near ones that forgot less."""
        run = self.runs[attempt]
        steps = checkpoint_steps(run)
        losses = {
            int(event["step"]): float(event["loss"])
            for event in run.events("validation")
            if int(event["step"]) in steps
        }
        at = {step: self._candidate(attempt, step) for step in steps}
        if not losses:
            yield at[steps[-1]]
            return
        best = min(losses, key=losses.__getitem__)
        yield at[best]
        near = [s for s in losses if s < best and losses[s] <= _BEHIND * losses[best]]
        if not near or not is_scalable(self.model.module):
            return
        harm = {step: _cheap_drop(self._measure_cheap(at[step])) for step in [best, *near]}
        gentler = sorted((s for s in near if harm[s] < harm[best]), key=harm.__getitem__)
        yield from (at[step] for step in gentler[: _CHECKPOINTS - 1])

    def _candidate(self, attempt: str, step: int) -> Candidate:
        weights = folder_sha256(self.runs[attempt].checkpoints / f"step-{step}")
        return Candidate(weights, step, 1.0, attempt=attempt)

    def _bisect_scale(self, start: Candidate) -> None:
        """Find the largest scale that is expected to stay within every budget, in two stages.

        Text loss needs no generation, so a bisection on it alone comes first. Then the suite is
        measured. If it lost too much, the next scale is the one at which the loss would fit if it
        grows with the square of the scale, as any loss does near the base. If the unscaled
        checkpoint is well within all budgets, the largest scale is tried too: it may gain more.
        """
        candidate = self._measure_full(self._bisect_by_text_loss(start))
        for _ in range(1, self.recipe.scale_search.bisection_steps):
            if self.forecast.within_budget(candidate) or not is_scalable(self.model.module):
                break
            worst = self.forecast.upper_drop(candidate)  # if the suite gained, prose lost too much
            shorter = math.sqrt(self.budgets.general / worst) if worst > 0 else _LONGEST
            scale = candidate.scale * min(max(shorter, _SHORTEST), _LONGEST)
            candidate = self._measure_full(
                self._measure_cheap(self._scaled(start, round(scale, 3)))
            )
        more = self.recipe.scale_search.max_scale > 1 and is_scalable(self.model.module)
        if candidate.scale == 1 and more and self._has_room(candidate):
            beyond = self._measure_cheap(self._scaled(start, self.recipe.scale_search.max_scale))
            if self.forecast.within_budget(beyond):
                self._measure_full(beyond)

    def _bisect_by_text_loss(self, start: Candidate) -> Candidate:
        """Bisect on text loss between the base and the unscaled checkpoint."""
        best = self._measure_cheap(start)
        if self.forecast.within_budget(best) or not is_scalable(self.model.module):
            return best
        low, high = 0.0, 1.0
        for _ in range(self.recipe.scale_search.bisection_steps):
            middle = (low + high) / 2
            candidate = self._measure_cheap(self._scaled(start, middle))
            low, high = (middle, high) if self.forecast.within_budget(candidate) else (low, middle)
            best = candidate if low == middle or low == 0 else best
        return best

    def _scaled(self, start: Candidate, scale: float) -> Candidate:
        return replace(
            start, scale=scale, slope=start.slope or self.recipe.scale_search.layer_slope
        )

    def _measure_cheap(self, new: Candidate) -> Candidate:
        """Measure KL and text loss, which need neither generation nor choices."""
        if new.key not in self.candidates:
            with self.at(new):
                label = label_of(new)
                self._measure(self.model, label, [*self._parts("texts"), *self._parts("openings")])
            rises = [
                text_rise({t.name: paired_scores(self._pair(label, t.name)) for t in texts}, 0.95)[
                    0
                ]
                for texts in (probe.texts for probe in self.probes)
                if texts
            ]
            far = [self.directory.results(label, task.name) for task in self._parts("openings")]
            kl = [result.score for results in far for result in results]
            rise = max(rises, default=None)
            self.candidates[new.key] = replace(
                new, text_loss=rise, kl=float(np.mean(kl)) if kl else None
            )
        return self.candidates[new.key]

    def _measure_full(self, candidate: Candidate) -> Candidate:
        """Measure the target score on the validation rows and the suite's accuracy."""
        if self.candidates[candidate.key].drop is not None:
            return self.candidates[candidate.key]
        label, started = label_of(candidate), time.monotonic()
        with self.at(candidate):
            self._measure(self.model, label, [*self._parts("sections"), *self._target_tasks])
        self._seconds += time.monotonic() - started
        drop, low, high = max(self._drop(label, *one) for one in self.counted_sections)
        gain, gain_range = self._gain(label)
        self.candidates[candidate.key] = replace(
            candidate,
            gain=gain,
            gain_range=gain_range,
            drop=drop,
            drop_range=(low, high),
        )
        return self.candidates[candidate.key]

    def _drop(self, label: str, suite: str, names: Sequence[str]) -> tuple[float, float, float]:
        """Points by which the suite mean fell, with its interval: drop, low, high.

        For a suite with a budget of its own, in points of the general budget: every suite has to
        stay within its budget, and a candidate is judged by the one that uses most of it.
        """
        means = macro_paired({name: _outcomes(self._pair(label, name)) for name in names})
        points = 100 * self.budgets.general / self.budgets.of(suite)
        ends = means.interval
        return -points * means.delta, -points * ends.high, -points * ends.low

    def _gain(self, label: str) -> tuple[float | None, Range | None]:
        """Points gained on the validation rows, with the interval; None without such rows."""
        if self.target is None:
            return None, None
        base, own = paired_scores(self._pair(label, self.target.name))
        sign = -1 if isinstance(self.target, TextLossTask) else 1
        if set(np.unique([base, own])) <= {0.0, 1.0}:
            paired = paired_outcomes(base > 0.5, own > 0.5)
            return 100 * paired.delta, (100 * paired.interval.low, 100 * paired.interval.high)
        interval = paired_bootstrap(sign * base, sign * own, seed=self.recipe.seed)
        return 100 * sign * float((own - base).mean()), (100 * interval.low, 100 * interval.high)

    def _estimates_fit(self, candidate: Candidate) -> bool:
        """Whether its estimates are within the budgets, regardless of their bounds."""
        rise, allowed = candidate.text_loss, self.budgets.text_loss
        prose = allowed is None or rise is None or rise < allowed
        return prose and (candidate.drop or 0.0) < self.budgets.general

    def _has_room(self, candidate: Candidate) -> bool:
        """Whether a candidate is far enough within the budgets to try a larger scale."""
        allowed = self.budgets.text_loss
        return (candidate.drop or 0.0) < 0 and (
            allowed is None or (candidate.text_loss or 0.0) < allowed / 2
        )

    @contextmanager
    def at(self, candidate: Candidate) -> Iterator[LanguageModel]:
        """Turn the model into this candidate within a `with` block."""
        checkpoint = candidate.attempt, candidate.step
        if self._loaded != checkpoint:
            run = self.runs[candidate.attempt]
            self.model.use_weights(run.checkpoints / f"step-{candidate.step}")
            self._loaded = checkpoint
        if (candidate.scale, candidate.slope) == (1.0, 0.0):
            yield self.model
            return
        with self.model.at_scale(candidate.scale, candidate.slope) as model:
            yield model

    def _measure(self, model: LanguageModel, label: str, tasks: Sequence[Task]) -> None:
        measure(self.directory, model, label, tasks, self.bars)

    def _parts(self, kind: Literal["sections", "texts", "openings"]) -> list[Any]:
        return [task for probe in self.probes for task in getattr(probe, kind)]

    def _pair(self, label: str, task: str) -> Pair:
        return self.directory.results("base", task), self.directory.results(label, task)


def checkpoint_steps(run: RunDirectory) -> list[int]:
    """The steps of the run's checkpoints.

    Raises:
        RunError: there are none.
    """
    steps = saved_steps(run.checkpoints)
    if not steps:
        raise RunError(
            f"the checkpoints of {run.path} have been deleted",
            "choose a run that still has its checkpoints",
            code="no_checkpoints",
            path=str(run.path),
        )
    return steps


def counted_sections(directory: RunDirectory, suite: Suite, leakage: Leakage) -> list[str]:
    """The sections in the suite mean; the base has to be measured on them already."""
    excluded = excluded_sections(directory, suite, leakage)
    return [task.name for task in suite.sections if task.name not in excluded]


def _cheap_drop(screened: Candidate) -> float:
    """Text loss, or the distance from the base if the suite has no prose; needs no generation."""
    return (screened.kl or 0.0) if screened.text_loss is None else screened.text_loss


def label_of(candidate: Candidate) -> str:
    """The candidate's label in the results folder, such as `step-40-scale-0.75`."""
    tilted = f"-slope-{candidate.slope:g}" if candidate.slope else ""
    healed = f"{candidate.attempt}-" if candidate.attempt else ""
    return f"{healed}step-{candidate.step}-scale-{candidate.scale:g}{tilted}"


def _outcomes(pair: Pair) -> tuple[BoolArray, BoolArray]:
    base, own = paired_scores(pair)
    return base > 0.5, own > 0.5


def _validation_task(directory: RunDirectory, recipe: Recipe, model: LanguageModel) -> Task | None:
    """The target task on the validation rows; None if they are too few to show a gain."""
    if len(tested(directory.split("validation"))) < LEAST_TESTED:
        return None
    return target_task(recipe, directory, model, split="validation")
