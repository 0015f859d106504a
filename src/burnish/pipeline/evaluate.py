"""The verb `evaluate`: tests the base and the tuned model on the same rows, and decides."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.markup import escape

from burnish.certification.certify import certify_candidates, release_candidate
from burnish.certification.ledger import LEVEL
from burnish.certification.run_ledger import fill_ledger, leakage_warnings
from burnish.certification.search import ScaleSearch
from burnish.certification.verdict import Head, decide
from burnish.errors import RunError
from burnish.evaluation.contamination import leaks
from burnish.evaluation.contamination_report import record_leakage
from burnish.evaluation.measure import measure, target_task
from burnish.evaluation.run_suites import run_suites, untrained_base
from burnish.evaluation.suite import split_suite
from burnish.evaluation.tasks import Task
from burnish.healing.heal import try_remedies
from burnish.models.from_run import Opened, open_run
from burnish.models.language_model import LanguageModel
from burnish.models.lineage import recipe_of
from burnish.parity.compare import ensure_parity
from burnish.pipeline.adopt_adapter import TRAINED_ELSEWHERE
from burnish.pipeline.train import train
from burnish.progress import Bars, on_timeline, phase
from burnish.runs.candidates import Candidate
from burnish.runs.directory import Manifest, RunDirectory
from burnish.runs.levels import level_sentences
from burnish.runs.lock import alone_in
from burnish.runs.times import timed_run

# Files of a verdict; where one is missing, the verdict is reached again from the results.
_VERDICT_FILES = ("ledger.json", "verdict.json")


@on_timeline
def evaluate(run: RunDirectory | Path | str, *, quiet: bool = False) -> RunDirectory:
    """Evaluates the base model and the tuned model of a run on the same rows, and decides."""
    directory = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    manifest = directory.manifest()
    if manifest.state in ("created", "training"):
        raise RunError(
            f"the training of {directory.path} has not finished",
            "finish it with `burnish run RECIPE --resume`",
            code="run_unfinished",
            path=str(directory.path),
        )
    bars = Bars(quiet=quiet)
    missing = [file for file in _VERDICT_FILES if not (directory.path / file).exists()]
    has_verdict = manifest.state == "certified" and not missing
    with nullcontext() if has_verdict else timed_run(directory):
        if not has_verdict:
            with alone_in(directory):
                _evaluate_and_decide(directory, manifest, bars)
        parity = ensure_parity(directory)
    if parity is not None and parity.difference:
        bars.say(f"[red]parity[/] {escape(parity.sentence)}")
    return directory


def _evaluate_and_decide(directory: RunDirectory, manifest: Manifest, bars: Bars) -> None:
    """Evaluates a trained run and writes its ledger and its verdict."""
    recipe = recipe_of(manifest)
    with phase("loading models"):
        model = open_run(directory)
    open_base = model.base if isinstance(model, LanguageModel) else partial(untrained_base, recipe)
    halves = [split_suite(suite) for suite in run_suites(directory, recipe, open_base, bars)]
    probes, certs = [probe for probe, _ in halves], [cert for _, cert in halves]
    tasks: list[Task] = [
        *(target_task(recipe, directory, model, name) for name in ("", *recipe.tasks)),
        *(task for cert in certs for task in cert.tasks),
    ]
    leakage = record_leakage(directory, recipe, [*probes, *certs])
    for finding in leaks(leakage):
        bars.say(f"[yellow]warning[/] {escape(finding.message)}")
    with phase("base answers"), model.base() as base:
        measure(directory, base, "base", tasks, bars)
    certificate = None
    search = None
    if isinstance(model, LanguageModel) and halves:
        with phase("base answers"):
            search = ScaleSearch(directory, recipe, model, probes, leakage, bars)
    head = _head_kind(model)
    if search is not None and search.counted_sections:
        del model  # the search may close it
        order = _find_candidates(search, manifest, bars)
        leakage = search.leakage = record_leakage(directory, recipe, [*probes, *certs])
        certificate, shown = certify_candidates(search, certs, order)
        with phase("tuned answers"), search.at(shown) as chosen:
            measure(directory, chosen, "tuned", tasks, bars)
        release_candidate(search, shown)
        manifest.training["chosen"] = shown.label
    else:
        with phase("tuned answers"):
            measure(directory, model, "tuned", tasks, bars)
    level = certificate.look.confidence if certificate else LEVEL
    rows = fill_ledger(directory, recipe, certs, leakage, level)
    directory.write_ledger(rows)
    verdict = decide(rows, recipe.budget.general, head, certificate)
    caveats = leakage_warnings(leakage, rows) + ([TRAINED_ELSEWHERE] if manifest.adopted else [])
    reasons = (*verdict.reasons, *level_sentences(directory.levels()), *caveats)
    directory.write_verdict(replace(verdict, reasons=reasons))
    manifest.state = "certified"
    directory.write_manifest(manifest)


def _find_candidates(search: ScaleSearch, manifest: Manifest, bars: Bars) -> list[Candidate]:
    """Searches candidates and tries remedies; returns an order that was fixed before a stop."""
    directory, minutes = search.directory, search.recipe.heal.minutes
    if (directory.path / "frontier.json").exists():
        return search.resume(directory.frontier())
    search.run()
    if minutes:
        with phase("healing"):
            try_remedies(search, minutes, train, bars, can_retrain=not manifest.adopted)
    return []


def _head_kind(model: Opened) -> Head | None:
    if isinstance(model, LanguageModel):
        return None
    with model.base() as base:
        return Head("an encoder" if model.body == "encoder" else "a decoder", base.name)
