"""Adapters that other tools trained, in PEFT format, taken over as runs that are trained."""

import filecmp
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape

from burnish.beginning import begin
from burnish.errors import DataError, ModelError, RunError
from burnish.models.adapter_files import CONFIG, WEIGHTS, adapter_settings, check_weights
from burnish.models.cache import sha256_of
from burnish.models.sources import resolve
from burnish.opening import open_run
from burnish.progress import Bars
from burnish.recipe import Recipe, build_recipe, changed_recipe
from burnish.recipe.paths import expanded
from burnish.resuming import continued
from burnish.run_directory import Finding, RunDirectory, remove_directory, replace_directory

# Of the verdict: the test rows are new to healing, but perhaps not to the adapter.
ELSEWHERE = (
    "Another tool trained the adapter, on rows that are not known here: where the test rows were "
    "among them, the gain flatters."
)


def is_foreign(folder: Path | str) -> bool:
    """Whether it is an adapter in PEFT format, and no run."""
    path = expanded(folder)
    return (path / CONFIG).exists() and not (path / "manifest.json").exists()


def adopt(
    folder: Path | str,
    data: Path | str | None,
    model: str,
    name: str | None,
    overrides: Mapping[str, Any],
    bars: Bars,
) -> RunDirectory:
    """The run that holds the adapter; one that was begun before is gone on with.

    Raises:
        RunError: the name is that of another run, or rows or settings have changed since.
        ModelError: the adapter is damaged or does not fit the model; no run is left behind.
    """
    folder = expanded(folder)
    values = adopted_recipe(folder, data, model, name)
    recipe = build_recipe(values, recipe_keys=set(), command_keys={"model", "data.train"})
    recipe = changed_recipe(recipe, overrides) if overrides else recipe
    directory = _begun(recipe, folder)
    if directory is None:
        directory = begin(recipe, bars)
        try:
            open_run(take_over(directory, folder))
            _warn_of_base(directory, recipe.model, bars)
        except BaseException:
            remove_directory(directory.path)  # nothing was measured; mended, it is taken over
            raise
    return directory


def _begun(recipe: Recipe, folder: Path | str) -> RunDirectory | None:
    """The run of an earlier call; None where there is none, or it got no further than its rows.

    Raises:
        RunError: it holds another adapter, or was begun with other rows or settings.
    """
    path = recipe.output / recipe.name
    if not path.exists():
        return None
    run = RunDirectory.open(path)
    manifest = run.manifest()
    if manifest.state != "created":
        kept, given = run.checkpoints / "step-0" / WEIGHTS, Path(folder) / WEIGHTS
        if not kept.exists() or not filecmp.cmp(kept, given, shallow=False):
            raise RunError(
                f"{path} is there and is not of {folder}", "name the new run with --name"
            )
        for rows, digest in manifest.data["sha256"].items():
            if Path(rows).exists() and sha256_of([Path(rows)]) != digest:
                raise RunError(
                    f"{path} was begun with other rows than {rows} holds now",
                    "put them back, or start anew under another --name",
                )
    return continued(recipe)


def _warn_of_base(directory: RunDirectory, model: str, bars: Bars) -> None:
    """Where the adapter names a base that is plainly not called as the model is.

    It is no more than a warning, for the same weights go by many names and lie at many places.
    """
    named = adapter_settings(directory.adapter).get("base_model_name_or_path")
    source = resolve(model)
    if not isinstance(named, str) or Path(named).expanduser().resolve() == source.path.resolve():
        return
    theirs, ours = _last_name(named), _last_name(source.name)
    if theirs in _letters(f"{source.name} {source.origin}") or ours in _letters(named):
        return
    message = (
        f"the adapter names {named} as its base, and {model} is given: where that is another "
        "model, name the adapter's own with --model"
    )
    directory.write_findings([*directory.findings(), Finding("base", "warning", message, 1)])
    bars.say(f"[yellow]warning[/] {escape(message)}")


def _last_name(model: str) -> str:
    """Of a path, or of org/name."""
    return _letters(re.split(r"[/:\\]", model.rstrip("/\\"))[-1].removesuffix(".gguf"))


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def adopted_recipe(
    folder: Path | str, data: Path | str | None, model: str, name: str | None
) -> dict[str, Any]:
    """The recipe that the adapter's own configuration stands for.

    Raises:
        ModelError: it is no LoRA adapter, its weights are no safetensors file, or it is damaged.
        DataError: no rows are named, so nothing says what it gained.
    """
    path = expanded(folder)
    config = adapter_settings(path)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{path} is an adapter of the kind {kind}", "give one of the kind LORA")
    if not (path / WEIGHTS).exists():
        raise ModelError(
            f"{path} has no {WEIGHTS}", "save it as safetensors; pickled weights are not opened"
        )
    check_weights(path)
    for key in ("r", "lora_alpha"):
        if not isinstance(config.get(key), int | float):
            raise ModelError(
                f"{path / CONFIG} has {config.get(key)!r} as {key}, which should be a number",
                "copy it there again, or save it anew",
            )
    if data is None:
        raise DataError(
            f"{path} comes without rows, so nothing says what it gained",
            "name rows of its task with --data",
        )
    return {
        "name": name or f"healed-{path.resolve().name}",
        "model": model,
        "data": {"train": str(data)},
        "method": "lora",
        "lora": {"rank": config["r"], "alpha": config["lora_alpha"]},
    }


def take_over(directory: RunDirectory, folder: Path | str) -> RunDirectory:
    """Puts the adapter into a run that was begun, as the weights that it ended with."""
    for place in (directory.adapter, directory.checkpoints / "step-0"):
        new = place.with_name(f".{place.name}.new")
        new.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG, WEIGHTS):
            shutil.copy2(Path(folder) / name, new / name)
        replace_directory(new, place)
    manifest = directory.manifest()
    manifest.adopted, manifest.state = True, "trained"
    directory.write_manifest(manifest)
    return directory
