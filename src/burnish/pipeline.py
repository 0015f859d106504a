"""The verbs: each stage reads and writes the run directory; notebooks and the CLI call these."""

import platform
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from burnish.chat import Example
from burnish.data.load import Dataset, load
from burnish.data.render import Rendered, render_all
from burnish.errors import RunError
from burnish.evaluation.suite import load_suite
from burnish.evaluation.tasks import Task
from burnish.measurement import check_scorers, fill_ledger, measure, target_task
from burnish.models.load import load_tokenizer
from burnish.models.sources import resolve
from burnish.progress import Bars
from burnish.recipe import Recipe, build_recipe, load_recipe
from burnish.reports.card import write_card
from burnish.reports.page import write_page
from burnish.retention.verdict import decide
from burnish.run_directory import Finding, Manifest, RunDirectory
from burnish.training.loop import Listener
from burnish.tuning import learn, recipe_of
from burnish.tuning import open_tuned as open_tuned  # a verb of notebooks

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
    data: Path | str, model: str = "smollm2-135m", *, drop_bad: bool = False, **columns: str
) -> Checked:
    """Reads, checks, splits and renders a file as a run would; trains nothing."""
    values = {
        "model": model,
        "data": {"train": str(data), "drop_bad": drop_bad, "columns": columns},
    }
    recipe = build_recipe(values, recipe_keys=set(), command_keys={"data.train", "model"})
    return _prepare(recipe, load_tokenizer(resolve(model)))


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
    if chosen.evaluate.general:
        load_suite(chosen.evaluate.general)  # a misspelt suite is found now, not after training
    bars = Bars(quiet=quiet)
    directory = _continue(chosen) if resume else None
    if directory is None:
        directory = _begin(chosen, bars)
    if directory.manifest().state == "training":
        learn(directory, chosen, bars, watch)
    return directory


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
    model = open_tuned(directory)
    suite = load_suite(recipe.evaluate.general) if recipe.evaluate.general else None
    target = target_task(recipe, directory, model)
    tasks: list[Task] = [
        target,
        *(suite.sections if suite else ()),
        *(suite.texts if suite else ()),
    ]
    started = time.perf_counter()
    with model.base():
        measure(directory, model, "base", tasks, bars)
    measure(directory, model, "tuned", tasks, bars)
    manifest.times["evaluate"] = round(time.perf_counter() - started, 1)
    rows = fill_ledger(directory, recipe, suite)
    directory.write_ledger(rows)
    directory.write_verdict(decide(rows, recipe.budget.general))
    manifest.state = "certified"
    directory.write_manifest(manifest)
    return directory


def report(run: RunDirectory | Path | str) -> Path:
    """Writes report.html and card.md; returns the page's path."""
    directory = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    page = write_page(directory)
    write_card(directory)
    return page


def tokenizer_of(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model by name."""
    return load_tokenizer(resolve(model))


def _prepare(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Checked:
    dataset = load(recipe.data, recipe.seed)
    findings, rendered = list(dataset.findings), {}
    for split in ("train", "validation", "test"):
        examples = getattr(dataset, split)
        found = (
            render_all(examples, tokenizer, recipe.training.max_length) if examples else ([], None)
        )
        rendered[split] = found[0]
        findings += [found[1]] if found[1] else []
    checked = Checked(dataset, rendered, findings)
    counts = ", ".join(f"{name} {count}" for name, count in checked.learnt_tokens().items())
    total = sum(checked.learnt_tokens().values())
    findings.append(Finding("tokens", "info", f"tokens to be learnt: {counts}", total))
    return checked


def _begin(recipe: Recipe, bars: Bars) -> RunDirectory:
    source = resolve(recipe.model)
    checked = _prepare(recipe, load_tokenizer(source))
    manifest = Manifest(
        name=recipe.name,
        state="created",
        recipe=recipe.model_dump(mode="json"),
        origins=dict(recipe.origins),
        versions={name: version(name) for name in _LIBRARIES}
        | {"python": platform.python_version()},
        model={"name": source.name, "origin": source.origin, "sha256": source.sha256},
        data={"sha256": checked.dataset.sha256},
        host={
            "machine": platform.machine(),
            "system": platform.system(),
            "threads": torch.get_num_threads(),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        },
    )
    directory = RunDirectory.create(recipe.output / recipe.name, manifest)
    for split in checked.rendered:
        examples = checked.kept(split)
        directory.write_split(split, examples)
        manifest.data[split] = len(examples)
    directory.write_findings(checked.findings)
    manifest.state = "training"
    directory.write_manifest(manifest)
    for found in checked.findings:
        if found.severity == "warning":
            bars.say(f"[yellow]warning[/] {found.message}")
    return directory


def _continue(recipe: Recipe) -> RunDirectory | None:
    """The run to go on with; None where it never got as far as its data."""
    path = recipe.output / recipe.name
    if not path.exists():
        raise RunError(f"there is no run {path} to continue", "start it without --resume")
    directory = RunDirectory.open(path)
    manifest = directory.manifest()
    now = recipe.model_dump(mode="json")
    if manifest.recipe != now:
        before, after = _flat(manifest.recipe), _flat(now)
        changed = ", ".join(key for key in after if before.get(key) != after[key])
        raise RunError(
            f"the recipe of {path} has changed since ({changed})",
            "put it back, or start anew under another --name",
        )
    if manifest.state == "created":
        shutil.rmtree(path)
        return None
    return directory


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat
