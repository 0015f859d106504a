"""Compares two models on the test rows and certification items of a run.

A comparison is a run directory inside the run's, `comparisons/<other>/`, in which the other model
takes the place of the base. So it has the same ledger, verdict and report as any run.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from burnish.certification.alpha_ledger import CertLedger
from burnish.certification.budgets import Evidence
from burnish.certification.certify import cert_evidence, cert_ledger
from burnish.certification.fixed_sequence import certify
from burnish.certification.run_ledger import budgets_of, fill_ledger, leakage_warnings
from burnish.certification.verdict import decide
from burnish.errors import RunError
from burnish.evaluation.contamination import Text
from burnish.evaluation.contamination_report import leakage_of, learnt_rows
from burnish.evaluation.load_suite import load_suites
from burnish.evaluation.measure import measure, target_task
from burnish.evaluation.suite import Suite, split_suite
from burnish.evaluation.tasks import Task
from burnish.models.endpoint import RemoteModel
from burnish.models.from_run import open_tuned
from burnish.models.language_model import LanguageModel
from burnish.models.lineage import recipe_of
from burnish.models.load import context_length, load_model, load_tokenizer
from burnish.models.registry import resolve
from burnish.progress import Bars, on_timeline, phase
from burnish.recipe.schema import Recipe
from burnish.runs.atomic import new_folder
from burnish.runs.candidates import Candidate
from burnish.runs.directory import RunDirectory
from burnish.runs.levels import level_sentences
from burnish.runs.lock import alone_in
from burnish.runs.overlaps import Leakage
from burnish.runs.times import timed_run


@dataclass(frozen=True, slots=True)
class _Other:
    """The model that takes the place of the base, and its run if it has one."""

    model: LanguageModel | RemoteModel
    name: str
    run: RunDirectory | None = None

    @property
    def sha256(self) -> str:
        """The base model of these looks; for an untuned model the one that other runs use too."""
        untuned = isinstance(self.model, LanguageModel) and not self.model.adapter_sha256
        return self.model.source_sha256 if untuned else self.model.fingerprint

    def learnt(self) -> dict[str, Iterator[Text]]:
        """The rows that it was trained on, as far as they are known."""
        if self.run is None:
            return {}
        rows = learnt_rows(self.run, recipe_of(self.run.manifest()))
        return {f"{self.name}.{split}": texts for split, texts in rows.items()}


@on_timeline
def compare(
    run: Path | str,
    against: Path | str,
    *,
    served_name: str | None = None,
    quiet: bool = False,
) -> RunDirectory:
    """Measure the run's model against another one and decide by the run's budgets.

    Args:
        run: a certified run whose model generates text.
        against: the folder of another run, a model name, or the base URL of a server whose model
            has the run's tokenizer.
        served_name: the model's name on the server; the run's base model if None.
        quiet: show no progress bars.

    Raises:
        RunError: the run is not evaluated yet, its recipe has no general suite, or another process
            is using it.
    """
    directory = RunDirectory.open(run)
    recipe = recipe_of(directory.manifest())
    if directory.manifest().state != "certified" or not recipe.evaluate.general:
        raise RunError(
            f"{directory.path} was not evaluated with a general suite, so it cannot be compared",
            "run `burnish evaluate` on it first, with a general suite in its recipe",
            code="run_not_certified",
            path=str(directory.path),
            state=directory.manifest().state,
        )
    bars = Bars(quiet=quiet)
    with alone_in(directory):
        before = _measure_other(directory, recipe, _open(against, recipe, served_name), bars)
        with timed_run(before.comparison):
            return _measure_own(directory, recipe, before, bars)


@dataclass(frozen=True, slots=True)
class _Before:
    """What is known after the other model was measured and unloaded."""

    comparison: RunDirectory
    targets: list[Task]
    certs: list[Suite]
    leakage: Leakage
    ledger: CertLedger
    itself: Candidate | None


def _measure_other(directory: RunDirectory, recipe: Recipe, other: _Other, bars: Bars) -> _Before:
    targets = [target_task(recipe, directory, other.model, name) for name in ("", *recipe.tasks)]
    if directory.leakage() is None:
        raise RunError(
            f"{directory.path} is incomplete: leakage.json is missing",
            "copy the run again with all its files",
            code="run_file_missing",
            path=str(directory.path / "leakage.json"),
        )
    suites = load_suites(recipe.evaluate.general or (), directory.levels())
    certs = [split_suite(suite)[1] for suite in suites]
    certs = [_comparable(cert, other.model, directory) for cert in certs]
    # Computed again: the other model was trained on other rows, and a suite may have been edited.
    leakage = leakage_of(directory, recipe, certs, other.learnt())
    comparison = _begin(directory, other)
    comparison.write_leakage(leakage)
    tasks: list[Task] = [*targets, *(task for cert in certs for task in cert.tasks)]
    with phase("base answers"):
        measure(comparison, other.model, "base", tasks, bars)
    if isinstance(other.model, RemoteModel):
        other.model.close()
    ledger = cert_ledger(directory, other.sha256, certs)
    is_base = other.sha256 == directory.manifest().model["sha256"]
    itself = _candidate(directory) if is_base else None
    return _Before(comparison, targets, certs, leakage, ledger, itself)


def _measure_own(
    directory: RunDirectory, recipe: Recipe, before: _Before, bars: Bars
) -> RunDirectory:
    comparison, certs, leakage = before.comparison, before.certs, before.leakage
    model = open_tuned(directory)
    tasks: list[Task] = [task for cert in certs for task in cert.tasks]

    def evidence(_: Candidate) -> Evidence:
        with phase("certification"):
            measure(comparison, model, "tuned", tasks, bars)
        return cert_evidence(comparison, certs, "tuned", leakage, budgets_of(recipe))

    own = before.itself or Candidate(str(model.adapter_sha256), _last_step(directory), 1.0)
    certificate = certify([own], evidence, budgets_of(recipe), before.ledger, "The run's model")
    with phase("tuned answers"):
        measure(comparison, model, "tuned", before.targets, bars)
    rows = fill_ledger(comparison, recipe, certs, leakage, certificate.look.confidence)
    comparison.write_ledger(rows)
    verdict = decide(rows, recipe.budget.general, None, certificate)
    levels = level_sentences(directory.levels())
    reasons = (*verdict.reasons, *levels, *leakage_warnings(leakage, rows))
    comparison.write_verdict(replace(verdict, reasons=reasons))
    manifest = comparison.manifest()
    manifest.state = "certified"
    comparison.write_manifest(manifest)
    return comparison


def _open(against: Path | str, recipe: Recipe, served_name: str | None) -> _Other:
    if str(against).startswith(("http://", "https://")):
        source = resolve(recipe.model)
        name = served_name or source.name
        settings = recipe.model_settings
        tokenizer = load_tokenizer(source, settings.stop_tokens, thinking=settings.thinking)
        remote = RemoteModel(str(against), name, tokenizer, context_length(source))
        return _Other(remote, name)
    if (Path(against) / "manifest.json").exists():
        run = RunDirectory.open(against)
        return _Other(open_tuned(run), run.manifest().name, run)
    model = load_model(str(against))
    return _Other(model, model.name)


def _begin(directory: RunDirectory, other: _Other) -> RunDirectory:
    """Create the folder of the comparison with the run's data, or continue an earlier one."""
    fingerprint = other.model.fingerprint
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{other.name}-{fingerprint[-16:]}").strip("-")
    path = directory.path / "comparisons" / name
    if (path / "manifest.json").exists():
        return RunDirectory(path)
    manifest = directory.manifest()
    manifest = replace(
        manifest,
        name=f"{manifest.name} against {other.name}",
        state="trained",
        model={"name": other.name, "origin": "compared", "sha256": fingerprint},
        times={},
    )
    with new_folder(path) as new:
        RunDirectory.create(new, manifest)
        shutil.copytree(directory.path / "data", new / "data")
    return RunDirectory(path)


def _candidate(directory: RunDirectory) -> Candidate | None:
    """The candidate of the run's verdict; against the same base its look is repeated."""
    if not (directory.path / "frontier.json").exists():
        return None
    chosen = directory.manifest().training.get("chosen")
    return next((one for one in directory.frontier().candidates if one.label == chosen), None)


def _last_step(directory: RunDirectory) -> int:
    return max((int(event["step"]) for event in directory.events("train")), default=0)


def _comparable(cert: Suite, other: LanguageModel | RemoteModel, directory: RunDirectory) -> Suite:
    """Leave out distances from a base, and text loss if the tokens of the models differ."""
    recipe = recipe_of(directory.manifest())
    same_tokens = other.source_sha256 == directory.manifest().model["sha256"] or (
        other.name == recipe.model
    )
    same_tokens |= isinstance(other, RemoteModel)  # it is measured with the run's own tokens
    return replace(cert, openings=(), texts=cert.texts if same_tokens else ())
