"""The verbs: each stage reads and writes the run directory; notebooks and the CLI call these."""

import platform
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from burnish.chat import Example
from burnish.data.load import Dataset, load
from burnish.data.render import render_all
from burnish.errors import RunError
from burnish.evaluation.suite import load_suite
from burnish.evaluation.tasks import Task
from burnish.measurement import check_scorers, fill_ledger, measure, target_task
from burnish.models.adapt import add_lora, load_weights, save_weights
from burnish.models.branches import Row
from burnish.models.language_model import LanguageModel, folder_sha256
from burnish.models.load import load_model, load_tokenizer, place
from burnish.models.sources import resolve
from burnish.progress import Bars
from burnish.recipe import Recipe, build_recipe, load_recipe
from burnish.reports.card import write_card
from burnish.reports.page import write_page
from burnish.retention.verdict import decide
from burnish.run_directory import Finding, Manifest, RunDirectory, replace_directory
from burnish.training.batches import Batches
from burnish.training.checkpoint import saved_steps
from burnish.training.loop import Loop, Settings
from burnish.training.objectives import OBJECTIVES
from burnish.training.schedule import automatic_rate

_LIBRARIES = ("burnish", "torch", "transformers", "peft", "tokenizers", "numpy")


@dataclass(frozen=True)
class Checked:
    """What `check` saw: the data, and the rows as the model would learn them."""

    dataset: Dataset
    rendered: list[Any]
    findings: list[Finding]


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
    dataset = load(recipe.data, recipe.seed)
    tokenizer = load_tokenizer(resolve(model))
    rendered, finding = render_all(dataset.train, tokenizer, recipe.training.max_length)
    return Checked(dataset, rendered, [*dataset.findings, *([finding] if finding else [])])


def train(
    recipe: Path | str | Recipe, *, resume: bool = False, quiet: bool = False, **overrides: Any
) -> RunDirectory:
    """Trains and keeps the adapter; measures nothing yet."""
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    check_scorers(chosen)
    bars = Bars(quiet=quiet)
    directory = _continue(chosen) if resume else None
    if directory is None:
        directory = _begin(chosen, bars)
    if directory.manifest().state in ("created", "training"):
        _learn(directory, chosen, bars)
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


def open_tuned(run: RunDirectory | Path | str) -> LanguageModel:
    """The run's model with its adapter on; `model.base()` switches it off."""
    directory = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    recipe = recipe_of(directory.manifest())
    if not directory.adapter.exists():
        raise RunError(f"{directory.path} has no adapter yet", "train it with `burnish run`")
    if recipe.method == "full":
        return _open_full(recipe, directory)
    return load_model(recipe.model, recipe.device, directory.adapter)


def tokenizer_of(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model by name."""
    return load_tokenizer(resolve(model))


def recipe_of(manifest: Manifest) -> Recipe:
    """The resolved recipe that a run was made with."""
    keys = {key for key, origin in manifest.origins.items() if origin == "recipe"}
    command = {key for key, origin in manifest.origins.items() if origin == "command line"}
    return build_recipe(manifest.recipe, recipe_keys=keys, command_keys=command)


def _begin(recipe: Recipe, bars: Bars) -> RunDirectory:
    dataset = load(recipe.data, recipe.seed)
    source = resolve(recipe.model)
    manifest = Manifest(
        name=recipe.name,
        state="created",
        recipe=recipe.model_dump(mode="json"),
        origins=dict(recipe.origins),
        versions={name: version(name) for name in _LIBRARIES}
        | {"python": platform.python_version()},
        model={"name": source.name, "origin": source.origin, "sha256": source.sha256},
        data={"sha256": dataset.sha256},
        host={
            "machine": platform.machine(),
            "system": platform.system(),
            "threads": torch.get_num_threads(),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        },
    )
    rendered, finding = render_all(
        dataset.train, load_tokenizer(source), recipe.training.max_length
    )
    kept = {row.id for row in rendered}
    findings = [*dataset.findings, *([finding] if finding else [])]
    directory = RunDirectory.create(recipe.output / recipe.name, manifest)
    splits = {
        "train": [example for example in dataset.train if example.id in kept],
        "validation": dataset.validation,
        "test": dataset.test,
    }
    for name, examples in splits.items():
        directory.write_split(name, examples)
    directory.write_findings(findings)
    manifest.data |= {name: len(examples) for name, examples in splits.items()}
    manifest.state = "training"
    directory.write_manifest(manifest)
    for found in findings:
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


def _learn(directory: RunDirectory, recipe: Recipe, bars: Bars) -> None:
    manifest = directory.manifest()
    model = load_model(recipe.model, recipe.device)
    bars.say(f"{model.name} on {place(recipe.device)}")
    limit = recipe.training.max_length or model.context_length
    rows = _rows(directory.split("train"), model, limit)
    held_out = directory.split("validation")
    validation = _rows(held_out, model, limit) if held_out else []
    module = _adapt(model, recipe)
    settings = _settings(recipe, model)
    batches = Batches(
        rows,
        recipe.training.batch_size,
        recipe.training.accumulation,
        recipe.training.epochs,
        recipe.seed,
    )
    with bars.training(batches.steps) as show:

        def listen(phase: str, values: dict[str, Any]) -> None:
            directory.log(phase, **values)
            show(phase, values)

        loop = Loop(
            module,
            batches,
            OBJECTIVES[recipe.objective],
            settings,
            validation,
            directory.checkpoints,
            listen,
        )
        directory.drop_events_after(max(saved_steps(directory.checkpoints), default=0))
        started = time.perf_counter()
        progress = loop.run(resume=True)
    manifest.times["train"] = round(time.perf_counter() - started, 1)
    _keep(module, directory, recipe)
    manifest.training = {
        "learning_rate": settings.learning_rate,
        "steps": progress.step,
        "tokens": progress.tokens,
        "best_step": progress.best_step,
        "stopped_early": progress.stopped,
        "trainable_parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "device": str(place(recipe.device)),
    }
    manifest.state = "trained"
    directory.write_manifest(manifest)


def _rows(examples: Sequence[Example], model: LanguageModel, limit: int) -> list[Row]:
    rendered, _ = render_all(examples, model.tokenizer, limit)
    return [Row(row.tokens, row.weights) for row in rendered]


def _adapt(model: LanguageModel, recipe: Recipe) -> Any:
    torch.manual_seed(recipe.seed)
    if recipe.method == "full":
        return model.module
    return add_lora(model.module, seed=recipe.seed, **recipe.lora.model_dump())


def _settings(recipe: Recipe, model: LanguageModel) -> Settings:
    given = recipe.training
    rate = given.learning_rate
    if rate == "auto":
        rate = automatic_rate(recipe.method, int(model.network.config.hidden_size))
    return Settings(
        learning_rate=float(rate),
        schedule=given.schedule,
        warmup=given.warmup,
        weight_decay=given.weight_decay,
        clip=given.clip,
        evaluations=given.evaluations,
        checkpoints=given.checkpoints,
        patience=given.patience,
    )


def _keep(module: Any, directory: RunDirectory, recipe: Recipe) -> None:
    """Writes the tuned weights whole, then puts them in their place."""
    name = "model" if recipe.method == "full" else "adapter"
    new = directory.path / f".{name}.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    save_weights(module, new)
    replace_directory(new, directory.path / name)


def _open_full(recipe: Recipe, directory: RunDirectory) -> LanguageModel:
    model = load_model(recipe.model, recipe.device)
    model.keep_base()
    load_weights(model.module, directory.adapter)
    model.adapter_sha256 = folder_sha256(directory.adapter)
    return model


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat
