"""The search behind `burnish sweep`: hyperparameters that learn the task best within the budget.

Every trial is a run directory of its own in `<output>/<name>-sweep`. A trial is trained, scored by
its lowest validation loss, and measured on the suite's PROBE, never on its CERT or on the test set.
Losses are compared only among trials within the budget: a trial whose mean on PROBE fell by more
points than `budget.general` never wins, however low its loss. This drop is an estimate, not an
upper bound, because a search only chooses; `burnish run` decides afterwards.

Optuna's tree-structured Parzen estimator proposes the settings (Bergstra et al. 2011, NeurIPS 24).
A trial whose validation loss lies behind the median of the trials inside the budget, at the same
share of the training, is stopped early (the median rule of Golovin et al. 2017, KDD).
"""

import gc
import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from burnish.certification.ledger import general_row
from burnish.certification.run_ledger import budgets_of
from burnish.certification.search import counted_sections
from burnish.errors import DataError, RecipeError, RunError, UserError, quantity
from burnish.evaluation.contamination_report import record_leakage
from burnish.evaluation.load_suite import load_suites
from burnish.evaluation.measure import measure
from burnish.evaluation.suite import split_suite
from burnish.pipeline import verbs
from burnish.progress import Bars, on_timeline
from burnish.recipe.schema import Recipe, changed_recipe
from burnish.runs.directory import LedgerRow, RunDirectory
from burnish.sweep.page import TrialRow, write_trials
from burnish.sweep.space import rounded, search_space, suggest
from burnish.sweep.study import open_study
from burnish.training.loop import Listener

_PEERS = 2  # finished trials within the budget before a trial may be stopped early
_RANDOM = 5  # random trials before the estimator proposes settings

State = Literal["running", "done", "stopped early", "failed"]
_STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial of a sweep; values that were not measured are None.

    Attributes:
        number: counted from 0.
        state: whether the trial is running, done, stopped early or failed.
        settings: recipe values by dotted key.
        validation: the lowest validation loss so far.
        general: the suite's ledger row on PROBE, with the base and the tuned model.
        inside: whether the drop is within the budget; always true without a general suite.
        reason: why the trial was stopped early, repeated or failed.
        code: the error code of a failed trial.
    """

    number: int
    state: State
    settings: Mapping[str, Any]
    validation: float | None = None
    general: LedgerRow | None = None
    inside: bool | None = None
    reason: str | None = None
    code: str | None = None

    def describe_state(self) -> str:
        """Returns the state of the trial in words, with the reason where there is one."""
        state = "over the budget" if self.inside is False else self.state
        return f"{state}: {self.reason}" if self.reason else state


@dataclass(frozen=True, slots=True)
class SweepResult:
    """All trials of a sweep, and the best one: None if no trial finished within the budget."""

    folder: Path
    budget: float | None
    trials: Sequence[Trial]
    best: Trial | None

    def rows(self) -> list[TrialRow]:
        """Returns the trials as rows of the page, with drops and intervals in points."""
        return [
            TrialRow(
                trial.number,
                "best" if trial is self.best else trial.describe_state(),
                trial.settings,
                trial.validation,
                _drop(trial.general) if trial.general else None,
            )
            for trial in self.trials
        ]


@on_timeline
def run_sweep(recipe: Recipe, trials: int, *, quiet: bool = False) -> SweepResult:
    """Runs trials until `trials` of them have ended, including those of an interrupted sweep.

    Raises:
        RecipeError: the space has a key that cannot be searched, or an invalid value.
        RunError: the folder contains a sweep of another recipe, or another process works in it.
        InterruptedRunError: SIGINT or SIGTERM arrived; the same call continues the sweep.
    """
    space = search_space(recipe)
    _check_validation(recipe)
    folder = recipe.output / f"{recipe.name}-sweep"
    with open_study(folder, recipe, space) as study:
        work = _Sweep(recipe, space, folder, study, Bars(quiet=quiet))
        while (ended := _ended(study)) < trials:
            # One seed per trial, so that an interrupted sweep proposes the same settings.
            seed = recipe.seed * 10_007 + ended
            study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM)
            work.run(_next(study), trials)
        result = work.result()
        write_trials(folder, f"{recipe.name}: hyperparameter sweep", result.rows(), result.budget)
        return result


@dataclass
class _Sweep:
    recipe: Recipe
    space: Mapping[str, Sequence[Any]]
    folder: Path
    study: optuna.Study
    bars: Bars

    def run(self, trial: optuna.Trial, trials: int) -> None:
        settings = {key: suggest(trial, key, values) for key, values in self.space.items()}
        values = ", ".join(f"{key}={value}" for key, value in settings.items())
        self.bars.say(f"[bold]trial {trial.number}[/] ({trial.number + 1} of {trials}): {values}")
        directory = RunDirectory(self.folder / f"trial-{trial.number}")
        try:
            if (twin := self._twin(settings)) is not None:
                self._repeat(trial, twin)
            else:
                self._measured(trial, directory, settings)
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except (torch.OutOfMemoryError, MemoryError):
            reason = "out of memory while measuring the general suite"
            self._fail(trial, reason, code="out_of_memory")
        except UserError as error:
            # An error before the training began is the recipe's, so every trial would fail.
            if isinstance(error, RunError | DataError) or not _has_begun(directory):
                raise
            self._fail(trial, str(error), code=error.code)
        # A trial that has ended is never resumed, so only its adapter is kept.
        shutil.rmtree(directory.checkpoints, ignore_errors=True)
        gc.collect()  # the model of a trial that raised hangs on its traceback
        self._say(self.trial(self.study.trials[trial.number]))

    def result(self) -> SweepResult:
        trials = [self.trial(frozen) for frozen in self.study.trials]
        done = [trial for trial in trials if trial.state == "done" and trial.inside]
        best = min(done, key=lambda trial: trial.validation or 0.0, default=None)
        budget = self.recipe.budget.general if self.recipe.evaluate.general else None
        return SweepResult(self.folder, budget, trials, best)

    def trial(self, frozen: FrozenTrial) -> Trial:
        row = frozen.user_attrs.get("general")
        losses = frozen.intermediate_values.values()
        return Trial(
            frozen.number,
            _STATES[frozen.state],
            {key: rounded(value) for key, value in frozen.params.items()},
            min(losses) if losses else None,
            LedgerRow(**row) if row else None,
            _inside(frozen) if frozen.state == TrialState.COMPLETE else None,
            frozen.user_attrs.get("reason"),
            frozen.user_attrs.get("code"),
        )

    def _measured(
        self, trial: optuna.Trial, directory: RunDirectory, settings: Mapping[str, Any]
    ) -> None:
        """Trains and measures a trial, and reports the result to the study."""
        place = {"name": directory.path.name, "output": str(self.folder), "sweep.space": {}}
        recipe = changed_recipe(self.recipe, {**settings, **place})
        if directory.path.exists() and not (directory.path / "manifest.json").exists():
            shutil.rmtree(directory.path)  # killed after the folder was created
        verbs.train(
            recipe,
            resume=directory.path.exists(),
            quiet=self.bars.console.quiet,
            on_event=self._event_listener(trial, recipe),
        )
        losses = [event["loss"] for event in directory.events("validation")]
        losses = [loss for loss in losses if math.isfinite(loss)]
        if not losses:
            raise DataError(
                "no row is left for validation",
                "raise data.split.validation",
                code="no_validation_rows",
            )
        row = self._general(directory, recipe)
        if row is not None:
            trial.set_user_attr("general", asdict(row))
            if "general" not in trial.constraints:
                trial.set_constraint("general", -row.delta * 100 - 100 * (row.budget or 0))
        self.study.tell(trial, min(losses))

    def _event_listener(self, trial: optuna.Trial, recipe: Recipe) -> Listener:
        """Returns a listener that reports validation losses and stops a trial that falls behind."""
        steps = 0

        def on_event(phase: str, values: dict[str, Any]) -> None:
            nonlocal steps
            if phase == "train":
                steps = values["steps"]
            if phase != "validation" or not math.isfinite(values["loss"]):
                return
            turn = values["step"] * recipe.training.evaluations // steps
            reported = self.study.trials[trial.number].intermediate_values
            if turn not in reported:  # a resumed trial repeats some of its evaluations
                trial.report(values["loss"], turn)
            if turn < recipe.training.evaluations and _is_behind(self.study, trial.number):
                share = f"{100 * values['step'] / steps:.0f}% of its steps"
                trial.set_user_attr("reason", f"validation loss above the median after {share}")
                raise optuna.TrialPruned

        return on_event

    def _general(self, directory: RunDirectory, recipe: Recipe) -> LedgerRow | None:
        if recipe.evaluate.general is None:
            return None
        suites = [split_suite(suite)[0] for suite in load_suites(recipe.evaluate.general)]
        sections = [task for suite in suites for task in suite.sections]
        model = verbs.open_tuned(directory)
        with model.base():  # answers are cached after the first trial
            measure(directory, model, "base", sections, self.bars)
        measure(directory, model, "tuned", sections, self.bars)
        leakage = record_leakage(directory, recipe, suites)
        rows = []
        for suite in suites:
            pairs = {
                name: (directory.results("base", name), directory.results("tuned", name))
                for name in counted_sections(directory, suite, leakage)
            }
            if pairs:
                budget = budgets_of(recipe).of(suite.name)
                rows.append(general_row(suite.name, pairs, budget))
        # Every suite must stay within its budget, so the one that uses most of it counts.
        return min(rows, key=lambda row: row.delta / (row.budget or 1), default=None)

    def _twin(self, settings: Mapping[str, Any]) -> FrozenTrial | None:
        """Returns an earlier trial with the same settings, which would give the same result."""
        for frozen in self.study.get_trials(deepcopy=False):
            same = {key: rounded(value) for key, value in frozen.params.items()} == settings
            if same and frozen.state.is_finished() and "twin" not in frozen.user_attrs:
                return frozen
        return None

    def _repeat(self, trial: optuna.Trial, twin: FrozenTrial) -> None:
        trial.set_user_attr("twin", twin.number)
        trial.set_user_attr("reason", f"same settings as trial {twin.number}")
        if "general" in twin.user_attrs:
            trial.set_user_attr("general", twin.user_attrs["general"])
        for key in twin.constraints.keys() - trial.constraints.keys():
            trial.set_constraint(key, twin.constraints[key])
        known = self.study.trials[trial.number].intermediate_values
        for turn, loss in twin.intermediate_values.items():
            if turn not in known:
                trial.report(loss, turn)
        done = twin.state == TrialState.COMPLETE
        self.study.tell(trial, twin.value if done else None, state=twin.state)

    def _fail(self, trial: optuna.Trial, reason: str, code: str) -> None:
        trial.set_user_attr("reason", reason)
        trial.set_user_attr("code", code)
        self.study.tell(trial, state=TrialState.FAIL)

    def _say(self, trial: Trial) -> None:
        parts: list[str] = [trial.state]
        if trial.validation is not None:
            parts.append(f"validation loss {trial.validation:.4f}")
        if trial.general is not None:
            parts.append(f"drop {format_drop(trial.general)}")
        if trial.inside is False:
            parts.append(f"over the budget of {quantity(self.recipe.budget.general, 'point')}")
        parts += [trial.reason] if trial.reason else []
        best = self.result().best
        if best is not None and best.number == trial.number:
            parts.append("[green]best so far[/]")
        self.bars.say("  " + "; ".join(parts))


def format_drop(row: LedgerRow) -> str:
    """Returns the drop of the PROBE mean in points with its 95% interval; a gain is negative."""
    low, drop, high = _drop(row)
    return f"{drop:+z.1f} points ({low:+z.1f} to {high:+z.1f})"


def _drop(row: LedgerRow) -> tuple[float, float, float]:
    """Low end, estimate and high end of the drop in points; 0.0 rather than a negative zero."""
    return -row.high * 100 + 0.0, -row.delta * 100 + 0.0, -row.low * 100 + 0.0


def _next(study: optuna.Study) -> optuna.Trial:
    """Returns the interrupted trial, or a new one."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return optuna.Trial(study, running[0]._trial_id) if running else study.ask()


def _ended(study: optuna.Study) -> int:
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def _has_begun(directory: RunDirectory) -> bool:
    return directory.path.exists() and directory.manifest().state in ("training", "trained")


def _is_behind(study: optuna.Study, number: int) -> bool:
    """Whether the lowest loss so far is above the median of finished trials at the same step."""
    trials = study.get_trials(deepcopy=False)
    losses = trials[number].intermediate_values
    turn = max(losses)
    peers = [
        min(loss for at, loss in peer.intermediate_values.items() if at <= turn)
        for peer in trials
        if peer.state == TrialState.COMPLETE
        and _inside(peer)
        and min(peer.intermediate_values) <= turn
    ]
    return len(peers) >= _PEERS and min(losses.values()) > statistics.median(peers)


def _inside(trial: FrozenTrial) -> bool:
    return all(excess <= 0 for excess in trial.constraints.values())


def _check_validation(recipe: Recipe) -> None:
    if recipe.training.evaluations == 0:
        key, seen = "training.evaluations", "training.evaluations is 0"
        remedy = "set training.evaluations to 4"
    elif recipe.data.validation is None and recipe.data.split.validation == 0:
        key, seen = "data.split.validation", "data.split.validation is 0"
        remedy = "raise data.split.validation, or set data.validation to a file"
    else:
        return
    seen += ", but trials are compared by their validation loss"
    raise RecipeError(seen, remedy, code="no_validation", key=key, value=0)
