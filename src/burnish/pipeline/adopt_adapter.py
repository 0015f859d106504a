"""Imports PEFT adapters that other tools trained, as runs whose training has finished."""

import filecmp
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.markup import escape

from burnish.errors import DataError, ModelError, RunError
from burnish.models.adapter_files import CONFIG, WEIGHTS, adapter_settings, check_weights
from burnish.models.added_tokens import has_embeddings, split_adapter
from burnish.models.cache import files_sha256
from burnish.models.foreign_folders import import_problem, is_foreign_folder
from burnish.models.from_run import open_run
from burnish.models.registry import resolve
from burnish.pipeline.prepare import create_run
from burnish.pipeline.resume import continue_run
from burnish.progress import Bars
from burnish.recipe.paths import expanded
from burnish.recipe.schema import Recipe, build_recipe, changed_recipe
from burnish.runs.atomic import new_folder, remove_directory
from burnish.runs.directory import Finding, RunDirectory

# What is kept of a model whose weights themselves were tuned.
_WHOLE = ("model.safetensors", "config.json")
# Of the verdict: the test rows are new to healing, but perhaps not to the adapter.
TRAINED_ELSEWHERE = (
    "Another tool trained the adapter, and its training rows are not known. If they include test "
    "rows, the measured gain is too large."
)


def is_foreign(folder: Path | str, data: Path | str | None = None) -> bool:
    """Whether a folder is an adapter or model of another tool rather than a run; with `data`, which
    only adapters need, every folder that is not a run counts as one."""
    path = expanded(folder)
    named = data is not None and not (path / "manifest.json").exists()
    return named or is_foreign_folder(path)


def adopt(
    folder: Path | str,
    data: Path | str | None,
    model: str,
    name: str | None,
    overrides: Mapping[str, Any],
    bars: Bars,
) -> RunDirectory:
    """Imports an adapter as a run, or continues the run of an earlier import.

    Raises:
        RunError: another run has the name, or rows or settings have changed since the import.
        ModelError: the adapter is damaged or does not fit the model; no run is left behind.
    """
    folder = expanded(folder)
    values = adopted_recipe(folder, data, model, name)
    recipe = build_recipe(values, recipe_keys=set(), command_keys={"model", "data.train"})
    recipe = changed_recipe(recipe, overrides) if overrides else recipe
    with _split_adapter(folder, recipe, bars) as (recipe, parts):
        directory = _existing_run(recipe, folder, parts)
        if directory is None:
            directory = create_run(recipe, bars)
            try:
                open_run(install_adapter(directory, parts))
                _warn_of_other_base(directory, folder, model, bars)
            except BaseException:
                remove_directory(directory.path)  # so that a corrected adapter can be imported
                raise
    return directory


@contextmanager
def _split_adapter(folder: Path, recipe: Recipe, bars: Bars) -> Iterator[tuple[Recipe, Path]]:
    """The recipe of the run and the folder of its weights: those of the adapter, or what is left
    of it where it brings tokens, with which its base then lies next to the run.

    Raises:
        RunError: another base lies there.
        ModelError: no tokenizer names the tokens, or the adapter is of another base.
    """
    if not has_embeddings(folder):
        yield recipe, folder
        return
    target, placed = recipe.output / f"{recipe.name}-base", False
    recipe.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=recipe.output, prefix=".adopting-") as work:
        extended, rest = Path(work) / "base", Path(work) / "rest"
        found = split_adapter(folder, resolve(recipe.model), extended, rest)
        changes: dict[str, Any] = {"method": "full"} if found.whole else {}
        if found.extended:
            changes["model"] = str(target.absolute())
            placed = _place_base(extended, target)
        try:
            yield changed_recipe(recipe, changes), rest
        except BaseException:
            if placed:
                shutil.rmtree(target)
            raise
    if placed:
        bars.say(f"wrote the base model with the adapter's tokens to {target}; keep it for the run")


def _place_base(extended: Path, target: Path) -> bool:
    """Moves the base model next to its run; returns False where it was already there."""
    if not target.exists():
        extended.rename(target)
        return True
    if resolve(str(target)).sha256 != resolve(str(extended)).sha256:
        raise RunError(
            f"{target} already exists and is not the base model of this adapter",
            "choose another name for the run with --name",
            code="output_exists",
            path=str(target),
        )
    return False


def _existing_run(recipe: Recipe, folder: Path | str, parts: Path) -> RunDirectory | None:
    """Returns the run of an earlier import; None where there is none, or it has only its rows.

    Raises:
        RunError: the run has another adapter, or was started with other rows or settings.
    """
    path = recipe.output / recipe.name
    if not path.exists():
        return None
    run = RunDirectory.open(path)
    manifest = run.manifest()
    if manifest.state != "created":
        name = WEIGHTS if (parts / WEIGHTS).exists() else _WHOLE[0]
        kept, given = run.checkpoints / "step-0" / name, parts / name
        if not kept.exists() or not filecmp.cmp(kept, given, shallow=False):
            raise RunError(
                f"{path} already exists and holds a different adapter than {folder}",
                "choose another name with --name",
                code="run_exists",
                path=str(path),
                adapter=str(folder),
            )
        for rows, digest in manifest.data["sha256"].items():
            if Path(rows).exists() and files_sha256([Path(rows)]) != digest:
                raise RunError(
                    f"{rows} has changed since {path} was started",
                    "restore it, or start a new run with another --name",
                    code="rows_changed",
                    path=str(path),
                    rows=rows,
                )
    return continue_run(recipe)


def _warn_of_other_base(
    directory: RunDirectory, folder: Path | str, model: str, bars: Bars
) -> None:
    """Warns where the adapter's configuration names another base model.

    This is only a warning, because the same weights have many names and paths.
    """
    named = adapter_settings(Path(folder)).get("base_model_name_or_path")
    source = resolve(model)
    if not isinstance(named, str) or Path(named).expanduser().resolve() == source.path.resolve():
        return
    theirs, ours = _base_name(named), _base_name(source.name)
    if theirs in _letters(f"{source.name} {source.origin}") or ours in _letters(named):
        return
    message = (
        f"the adapter names {named} as its base model, but --model is {model}: if these are "
        "different models, set --model to the one the adapter was trained on"
    )
    directory.write_findings([*directory.findings(), Finding("base", "warning", message, 1)])
    bars.say(f"[yellow]warning[/] {escape(message)}")


def _base_name(model: str) -> str:
    """The last part of a path or of ORG/NAME, in lower case without punctuation."""
    return _letters(re.split(r"[/:\\]", model.rstrip("/\\"))[-1].removesuffix(".gguf"))


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def adopted_recipe(
    folder: Path | str, data: Path | str | None, model: str, name: str | None
) -> dict[str, Any]:
    """Returns the recipe values that the adapter's configuration implies.

    Raises:
        ModelError: the folder is not a LoRA adapter with safetensors weights, or it is damaged.
        DataError: no task data was named, so the gain cannot be measured.
    """
    path = expanded(folder)
    if problem := import_problem(path):
        raise problem
    config = adapter_settings(path)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"{path} is a {kind} adapter, but only LoRA adapters can be imported",
            "merge it into its base model with PEFT's merge_and_unload if its kind allows that, "
            "and set `model` in a recipe to the saved model",
            code="adapter_kind_not_supported",
            path=str(path),
            kind=kind,
        )
    check_weights(path)
    for key in ("r", "lora_alpha"):
        if not isinstance(config.get(key), int | float):
            raise ModelError(
                f"{key} in {path / CONFIG} is {config.get(key)!r}, which is not a number",
                "copy the adapter again, or save it again with PEFT",
                code="bad_adapter_settings",
                path=str(path / CONFIG),
                key=key,
                value=config.get(key),
            )
    if data is None:
        raise DataError(
            f"no task data was named for {path}, so its gain cannot be measured",
            "pass rows of its task with --data",
            code="rows_not_named",
            path=str(path),
        )
    return {
        "name": name or f"healed-{path.resolve().name}",
        "model": model,
        "data": {"train": str(data)},
        "method": "lora",
        "lora": {"rank": config["r"], "alpha": config["lora_alpha"]},
    }


def install_adapter(directory: RunDirectory, folder: Path | str) -> RunDirectory:
    """Copies the adapter into a new run, as the weights at the end of its training."""
    adapter = (Path(folder) / CONFIG).exists()
    weights = directory.path / ("adapter" if adapter else "model")
    for place in (weights, directory.checkpoints / "step-0"):
        with new_folder(place) as new:
            for name in (CONFIG, WEIGHTS) if adapter else _WHOLE:
                shutil.copy2(Path(folder) / name, new / name)
    manifest = directory.manifest()
    manifest.adopted, manifest.state = True, "trained"
    directory.write_manifest(manifest)
    return directory
