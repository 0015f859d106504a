"""The verbs: each stage reads and writes the run directory; notebooks and the CLI call these."""

import platform
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from transformers import PreTrainedTokenizerBase

from burnish.adopting import adopted_recipe, is_foreign, take_over
from burnish.chat import Example
from burnish.choosing import Search, choose, keep
from burnish.comparing import compare as compare  # a verb of notebooks
from burnish.data.load import Dataset, load
from burnish.data.render import Rendered
from burnish.errors import PreflightError, RecipeError, RunError
from burnish.evaluation.general import load_suites
from burnish.evaluation.leakage import leaks
from burnish.evaluation.suite import split_suite
from burnish.evaluation.tasks import Task
from burnish.healing import heal as pull_levers
from burnish.lineage import check_method, keep_earlier, recipe_of
from burnish.measurement import (
    budgets_of,
    check_budgets,
    check_scorers,
    fill_ledger,
    flattered,
    look_for_leakage,
    measure,
    suite_sizes,
    target_task,
)
from burnish.models.classifier import longest_text
from burnish.models.language_model import LanguageModel
from burnish.models.load import load_tokenizer, place
from burnish.models.sources import Source, resolve
from burnish.opening import Opened
from burnish.opening import open_classifier as open_classifier  # a verb of notebooks
from burnish.opening import open_run as open_run
from burnish.opening import open_tuned as open_tuned  # a verb of notebooks
from burnish.plan import Plan, make_plan
from burnish.preflight import MARKS, Check, Subject, preflight, refuse
from burnish.progress import Bars
from burnish.recipe import HEADS, Recipe, build_recipe, changed_recipe, load_recipe
from burnish.recipe.data import Data
from burnish.reports.card import write_card
from burnish.reports.page import write_page
from burnish.resuming import continued
from burnish.retention.power import power_headline
from burnish.retention.verdict import Head, decide
from burnish.run_directory import Finding, Manifest, RunDirectory
from burnish.training.loop import Listener, Loop
from burnish.tuning import learn, objective_of, open_training

_LIBRARIES = ("burnish", "torch", "transformers", "peft", "tokenizers", "numpy")


@dataclass(frozen=True)
class Checked:
    """The data, its rows of each split as the model would learn them, and what was found."""

    dataset: Dataset
    rendered: dict[str, list[Rendered]]
    findings: list[Finding]

    def learnt_tokens(self) -> dict[str, int]:
        """Tokens with a loss weight in each split."""
        return {
            name: sum(1 for row in rows for weight in row.weights if weight)
            for name, rows in self.rendered.items()
        }

    def kept(self, split: str) -> list[Example]:
        """The rows of a split that fit into the model."""
        inside = {row.id for row in self.rendered[split]}
        return [example for example in getattr(self.dataset, split) if example.id in inside]


def run(
    recipe: Path | str | Recipe, *, resume: bool = False, quiet: bool = False, **overrides: Any
) -> RunDirectory:
    """Rows to verdict: trains, measures base and tuned, decides, writes the report.

    Args:
        recipe: a recipe file, or a recipe that was loaded before.
        resume: go on with the run of that name where it stopped.
        quiet: no progress bars.
        overrides: recipe values, nested (`training={"epochs": 2}`) or dotted.
    """
    directory = train(recipe, resume=resume, quiet=quiet, **overrides)
    evaluate(directory, quiet=quiet)
    report(directory)
    return directory


def check(
    data: Path | str,
    model: str = "smollm2-135m",
    *,
    objective: str = "sft",
    drop_bad: bool = False,
    **columns: str,
) -> Checked:
    """Reads, checks, splits and renders a file as a run would; trains nothing."""
    values = {
        "model": model,
        "objective": objective,
        "data": {"train": str(data), "drop_bad": drop_bad, "columns": columns},
    }
    recipe = build_recipe(
        values, recipe_keys=set(), command_keys={"data.train", "model", "objective"}
    )
    return _prepare(recipe, resolve(model))


def train(
    recipe: Path | str | Recipe,
    *,
    resume: bool = False,
    quiet: bool = False,
    watch: Listener | None = None,
    **overrides: Any,
) -> RunDirectory:
    """Trains and keeps the adapter; measures nothing yet. `watch` hears the loop's events."""
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    check_scorers(chosen)
    check_method(chosen)
    suites = load_suites(chosen.evaluate.general or ())
    check_budgets(chosen, suites)  # an idle budget is found now, not after training
    bars = Bars(quiet=quiet)
    directory = continued(chosen) if resume else None
    if directory is None:
        directory = _begin(chosen, bars)
    if directory.manifest().state == "training":
        for suite in suites:
            _, cert = split_suite(suite)
            bars.say(power_headline(suite_sizes(cert), budgets_of(chosen)))
        try:
            learn(directory, chosen, bars, _first(directory, chosen, bars), watch)
        except PreflightError:
            shutil.rmtree(directory.path)  # nothing was trained; a corrected recipe starts anew
            raise
    return directory


def try_out(recipe: Path | str | Recipe, *, quiet: bool = False, **overrides: Any) -> list[Check]:
    """The preflight checks of a run, which is not started; nothing is kept."""
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    with _rehearsal(chosen, quiet=quiet) as directory:
        model, loop = open_training(directory, chosen)
        return preflight(_subject(directory, chosen, model, loop))


def evaluate(run: RunDirectory | Path | str, *, quiet: bool = False) -> RunDirectory:
    """Measures base and tuned on the same rows, fills the ledger and decides."""
    directory = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    manifest = directory.manifest()
    if manifest.state in ("created", "training"):
        raise RunError(
            f"{directory.path} is not trained to the end", "finish it with `burnish run --resume`"
        )
    if manifest.state == "certified":
        return directory
    recipe = recipe_of(manifest)
    bars = Bars(quiet=quiet)
    model = open_run(directory)
    halves = [split_suite(suite) for suite in load_suites(recipe.evaluate.general or ())]
    probes, certs = [probe for probe, _ in halves], [cert for _, cert in halves]
    tasks: list[Task] = [
        *(target_task(recipe, directory, model, name) for name in ("", *recipe.tasks)),
        *(task for cert in certs for task in cert.tasks),
    ]
    started = time.perf_counter()
    leakage = look_for_leakage(directory, recipe, [*probes, *certs])
    manifest.times["leakage"] = round(time.perf_counter() - started, 1)
    for finding in leaks(leakage):
        bars.say(f"[yellow]warning[/] {finding.message}")
    started = time.perf_counter()
    with model.base() as base:
        measure(directory, base, "base", tasks, bars)
    certificate = None
    search = None
    if isinstance(model, LanguageModel) and halves:
        search = Search(directory, recipe, model, probes, leakage, bars)
    head = _head(model)
    if search is not None and search.counted:
        del model  # the search may close it
        search.run()
        manifest.times["choose"] = round(time.perf_counter() - started, 1)
        if recipe.heal.minutes:
            pull_levers(search, recipe.heal.minutes, train, bars, anew=not manifest.adopted)
            leakage = search.leakage = look_for_leakage(directory, recipe, [*probes, *certs])
        certificate, shown = choose(search, certs)
        with search.at(shown) as chosen:
            measure(directory, chosen, "tuned", tasks, bars)
        keep(search, shown)
        manifest.training["chosen"] = shown.label
    else:
        measure(directory, model, "tuned", tasks, bars)
    manifest.times["evaluate"] = round(time.perf_counter() - started, 1)
    rows = fill_ledger(directory, recipe, certs, leakage)
    directory.write_ledger(rows)
    verdict = decide(rows, recipe.budget.general, head, certificate)
    directory.write_verdict(replace(verdict, reasons=(*verdict.reasons, *flattered(leakage, rows))))
    manifest.state = "certified"
    directory.write_manifest(manifest)
    return directory


def heal(
    run: Path | str,
    minutes: float = 30.0,
    *,
    data: Path | str | None = None,
    model: str = "smollm2-135m",
    name: str | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> RunDirectory:
    """Looks for a model that forgot less than the run's, within `minutes`, and decides anew.

    Args:
        run: a run that is trained, or the folder of an adapter in PEFT format.
        minutes: for all attempts together.
        data: of an adapter, the rows of its task; some of them judge and are not learnt.
        model: of an adapter, the model that it was made for.
        name: of an adapter, what the run is called; else as its folder.
        quiet: no progress bars.
        overrides: of an adapter, recipe values.

    Raises:
        RunError: the run is not trained, or there is no suite that says what it forgot.
        UserError: the adapter cannot be read, or does not fit the model.
    """
    bars = Bars(quiet=quiet)
    if is_foreign(run):
        values = adopted_recipe(run, data, model, name)
        recipe = build_recipe(values, recipe_keys=set(), command_keys={"model", "data.train"})
        recipe = changed_recipe(recipe, overrides) if overrides else recipe
        directory = RunDirectory(recipe.output / recipe.name)
        if not directory.path.exists():
            directory = take_over(_begin(recipe, bars), run)
    else:
        directory = RunDirectory.open(run)
    manifest = directory.manifest()
    recipe = recipe_of(manifest)
    if manifest.state in ("created", "training"):
        raise RunError(
            f"{directory.path} is not trained to the end", "finish it with `burnish run --resume`"
        )
    if not recipe.evaluate.general or recipe.objective in HEADS:
        raise RunError(
            f"{directory.path} has no general suite, so nothing says what it forgot",
            "set evaluate.general, and an objective whose model writes text",
        )
    then, recipe = recipe.heal.minutes, changed_recipe(recipe, {"heal.minutes": minutes})
    manifest.changes.append(
        {"key": "heal.minutes", "before": then, "after": minutes, "state": manifest.state}
    )
    manifest.recipe, manifest.origins = recipe.model_dump(mode="json"), dict(recipe.origins)
    manifest.state = "trained"
    directory.write_manifest(manifest)
    return evaluate(directory, quiet=quiet)


def report(run: RunDirectory | Path | str) -> Path:
    """Writes report.html and card.md; returns the page's path."""
    directory = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    page = write_page(directory)
    write_card(directory)
    return page


def tokenizer_of(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model by name."""
    return load_tokenizer(resolve(model))


def _head(model: Opened) -> Head | None:
    if isinstance(model, LanguageModel):
        return None
    with model.base() as base:
        return Head("an encoder" if model.body == "encoder" else "a decoder", base.name)


def plan(
    recipe: Path | str | Recipe,
    *,
    device: str | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Plan:
    """What the run would take, from shapes and a few of its steps; nothing is kept."""
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    with _rehearsal(chosen, quiet=quiet) as directory:
        return make_plan(directory, chosen, device=device)


@contextmanager
def _rehearsal(recipe: Recipe, *, quiet: bool) -> Iterator[RunDirectory]:
    """A run directory that holds the recipe's data and vanishes."""
    with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
        yield _begin(recipe.model_copy(update={"output": Path(folder)}), Bars(quiet=quiet))


def _subject(directory: RunDirectory, recipe: Recipe, model: Opened, loop: Loop) -> Subject:
    longest = recipe.training.max_length or model.context_length
    return Subject(
        model, loop, directory.split("train"), longest, on_earlier=recipe.init_from is not None
    )


def _first(directory: RunDirectory, recipe: Recipe, bars: Bars) -> Callable[[Opened, Loop], None]:
    """What comes before the first step: the preflight, which is told, logged, and may refuse."""

    def first(model: Opened, loop: Loop) -> None:
        if not recipe.training.preflight:
            return
        started = time.perf_counter()
        checks = preflight(_subject(directory, recipe, model, loop))
        seconds = round(time.perf_counter() - started, 1)
        directory.log("preflight", seconds=seconds, checks=[asdict(check) for check in checks])
        for check in checks:
            bars.say(f"{MARKS[check.passed]} {check.name:26}[dim]{escape(check.figure)}[/]")
        refuse(checks)

    return first


def _prepare(recipe: Recipe, source: Source, data: Data | None = None) -> Checked:
    """The recipe's main data set, or another of its tasks."""
    dataset, tokenizer = load(data or recipe.data, recipe.seed), load_tokenizer(source)
    objective, limit = objective_of(recipe, tokenizer), recipe.training.max_length
    objective.check(dataset.train)
    if recipe.objective in HEADS:  # an encoder has no place for a token beyond its longest text
        limit = min(limit or longest_text(source), longest_text(source))
    findings, rendered = list(dataset.findings), {}
    for split in ("train", "validation", "test"):
        examples = getattr(dataset, split)
        found = objective.render(examples, tokenizer, limit) if examples else ([], None)
        rendered[split] = found[0]
        findings += [found[1]] if found[1] else []
    checked = Checked(dataset, rendered, findings)
    counts = ", ".join(f"{name} {count}" for name, count in checked.learnt_tokens().items())
    total = sum(checked.learnt_tokens().values())
    findings.append(Finding("tokens", "info", f"{objective.learns} to be learnt: {counts}", total))
    return checked


def _begin(recipe: Recipe, bars: Bars) -> RunDirectory:
    if recipe.stages:
        raise RecipeError(
            f"the recipe has {len(recipe.stages)} stages, each a run of its own",
            "start them with `burnish run`, or from Python with burnish.stages.run_stages",
        )
    source = resolve(recipe.model)
    checked = _prepare(recipe, source)
    others = {name: _prepare(recipe, source, data) for name, data in recipe.tasks.items()}
    manifest = Manifest(
        name=recipe.name,
        state="created",
        recipe=recipe.model_dump(mode="json"),
        origins=dict(recipe.origins),
        versions={name: version(name) for name in _LIBRARIES}
        | {"python": platform.python_version()},
        model={"name": source.name, "origin": source.origin, "sha256": source.sha256},
        data={
            "sha256": {
                path: digest
                for part in (checked, *others.values())
                for path, digest in part.dataset.sha256.items()
            }
        },
        host={
            "machine": platform.machine(),
            "system": platform.system(),
            "threads": torch.get_num_threads(),
            "device": str(place(recipe.device)),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        },
    )
    directory = RunDirectory.create(recipe.output / recipe.name, manifest)
    for task, found in {"": checked, **others}.items():
        for split in found.rendered:
            examples = found.kept(split)
            directory.write_split(split, examples, task)
            manifest.data[f"{task}.{split}" if task else split] = len(examples)
    findings = [finding for part in (checked, *others.values()) for finding in part.findings]
    directory.write_findings(findings)
    manifest.lineage = keep_earlier(directory, recipe)
    manifest.state = "training"
    directory.write_manifest(manifest)
    for finding in findings:
        if finding.severity == "warning":
            bars.say(f"[yellow]warning[/] {finding.message}")
    return directory
