"""Runs that start from earlier runs, and how to open a chain of them.

A run copies the earlier run's manifest and tuned weights to `earlier/`, and the same again inside
of it if the earlier run had a predecessor. The files are hard links if the disk supports them, so
they take no space, and the earlier run may be deleted.

`LanguageModel.base()` is always the model that the recipe names: the chain is applied again
whenever the run is opened, and the weights that it changes are kept.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from burnish.errors import RecipeError, RunError
from burnish.models.adapt import (
    METHODS,
    TRAINABLE,
    load_adapter,
    load_weights,
    merge_adapters,
)
from burnish.models.adapter_files import safetensors_errors
from burnish.models.foreign_folders import import_problem, is_foreign_folder
from burnish.models.language_model import folder_sha256
from burnish.models.load import check_bitsandbytes
from burnish.models.registry import resolve
from burnish.recipe.schema import Recipe, changed_recipe, restore_recipe
from burnish.runs.directory import Manifest, RunDirectory


def with_recorded_thinking(recipe: Recipe, manifest: Manifest) -> Recipe:
    """A recipe that asks for answers with or without a thought as its run was started, where the
    recipe itself leaves it to the rows."""
    recorded = manifest.recipe.get("model_settings", {}).get("thinking")
    if recorded is None or recipe.model_settings.thinking is not None:
        return recipe
    return changed_recipe(recipe, {"model_settings.thinking": recorded})


def recipe_of(manifest: Manifest) -> Recipe:
    """The resolved recipe of a run.

    Raises:
        RunError: it has a key or a value that this version does not support.
    """
    try:
        return restore_recipe(manifest.recipe, manifest.origins)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        made = manifest.versions.get("burnish")
        raise RunError(
            f"cannot read the recipe of the run {manifest.name} ({key}: {first['msg']})",
            f"use the version of Burnish that created it{f', {made}' if made else ''}",
            code="recipe_unreadable",
            run=manifest.name,
            key=key,
            version=made,
        ) from error


def check_trained(directory: RunDirectory) -> None:
    """Checks that a run has tuned weights.

    Raises:
        RunError: its training did not finish, or the weights were deleted.
    """
    if directory.adapter.exists():
        return
    if directory.manifest().state in ("created", "training"):
        raise RunError(
            f"the training of {directory.path} has not finished",
            "finish it with `burnish run RECIPE --resume`",
            code="run_unfinished",
            path=str(directory.path),
        )
    raise RunError(
        f"{directory.path} has no tuned weights",
        "use a run that was trained, or train it again with another --name",
        code="no_tuned_weights",
        path=str(directory.path),
    )


def method_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings of the recipe's method, without learning rates."""
    name = recipe.method_traits.section
    section: BaseModel | None = getattr(recipe, name) if name else None
    return section.model_dump(exclude={"loraplus_ratio"}) if section is not None else {}


def check_method(recipe: Recipe, before: Recipe | None = None) -> None:
    """Whether the method can be had here and can start from `init_from`; before any work.

    `before` is the recipe of a run that `init_from` names and that is not begun yet.

    Raises:
        ModelError: qlora without bitsandbytes.
        RunError: `init_from` is no finished run.
        RecipeError: it has another base, or it and the method do not fit together.
    """
    if recipe.method_traits.four_bit:
        check_bitsandbytes()
    writes_text = recipe.objective_settings.writes_text
    if not writes_text and not recipe.method_traits.carries_head:
        raise RecipeError(
            f"method is {recipe.method}, which learns no head for the objective {recipe.objective}",
            "set method to lora or full",
            code="method_without_head",
            method=recipe.method,
            objective=recipe.objective,
        )
    if recipe.init_from is None:
        return
    if not writes_text:
        raise RecipeError(
            f"init_from is set, but the objective {recipe.objective} starts with a fresh head",
            "leave it out, or set objective to sft",
            code="fresh_head",
            objective=recipe.objective,
        )
    if before is not None:
        source = resolve(before.model)
        _check_base(recipe, source.name, source.sha256)
        _check_fit(recipe, before)
        return
    if is_foreign_folder(recipe.init_from):
        raise import_problem(recipe.init_from) or RunError(
            f"init_from is {recipe.init_from}, an adapter that another tool trained",
            f"make a run of it with `burnish heal {recipe.init_from} --data ROWS`, and name that",
            code="is_an_adapter",
            path=str(recipe.init_from),
        )
    earlier = RunDirectory.open(recipe.init_from)
    manifest = earlier.manifest()
    if manifest.state in ("created", "training") or not earlier.adapter.exists():
        raise RunError(
            f"init_from is {recipe.init_from}, which is not trained to the end",
            "finish it with `burnish run RECIPE --resume`, or name another run",
            code="run_unfinished",
            path=str(recipe.init_from),
        )
    _check_base(recipe, manifest.model["name"], manifest.model["sha256"])
    _check_fit(recipe, recipe_of(manifest))


def _check_base(recipe: Recipe, name: str, sha256: str) -> None:
    if sha256 != resolve(recipe.model).sha256:
        raise RecipeError(
            f"init_from is {recipe.init_from}, a run of {name}, and model is {recipe.model}",
            f"set model to {name}, or name a run of {recipe.model}",
            code="wrong_base",
            model=recipe.model,
            expected=name,
        )


def _check_fit(recipe: Recipe, before: Recipe) -> None:
    seen = f"init_from is a run with the method {before.method}"
    method, init = recipe.method, recipe.init
    fields: dict[str, Any] = {"method": method}
    traits, then_traits = recipe.method_traits, before.method_traits
    alike = traits.family == then_traits.family
    now, then = method_settings(recipe), method_settings(before)
    changed = [key for key in now if now[key] != then.get(key)] if alike else []
    if not then_traits.is_adapter:
        if not traits.four_bit:
            return
        code, remedy = "not_in_four_bits", "set method to lora"
        seen += ", whose weights cannot be quantized to 4 bits"
    elif init == "continue" and not alike:
        code, remedy = "method_differs", f"set method to {before.method}, or init to merge"
        seen += f", but init is continue, which trains the same adapter and not {method}"
    elif init == "continue" and changed:
        remedy = "restore these settings, or set init to merge or stack"
        values = ", ".join(f"{key} was {then[key]!r}" for key in changed)
        seen = f"init is continue, which trains the earlier adapter, but its {values}"
        code, fields["keys"] = "section_differs", changed
    elif init == "stack" and not (alike and traits.changes_weights):
        code, remedy = "not_stackable", "stack LoRA on LoRA or IA3 on IA3, or set init to merge"
        seen += f"; {method} cannot be stacked on it"
    elif init == "merge" and not then_traits.changes_weights:
        code, remedy = "not_mergeable", f"set init to continue and method to {before.method}"
        fields = {"method": before.method}
        seen += ", which cannot be merged into the weights"
    elif init == "merge" and traits.four_bit:
        code, remedy = "merge_in_four_bits", "set init to stack"
        seen = "init is merge, which would round the 4-bit weights again"
    else:
        return
    raise RecipeError(seen, remedy, code=code, earlier=before.method, **fields)


def copy_earlier_run(directory: RunDirectory, recipe: Recipe) -> dict[str, Any]:
    """Copies the run in `init_from` to `earlier/`; returns the manifest's `lineage`."""
    if recipe.init_from is None:
        return {}
    earlier = RunDirectory.open(recipe.init_from)
    manifest = earlier.manifest()
    for name in ("manifest.json", earlier.adapter.name, earlier.cert_uses.name, "earlier"):
        source, target = earlier.path / name, directory.earlier / name
        if source.is_dir():
            shutil.copytree(source, target, copy_function=link_or_copy)
        elif source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)  # a later stage overwrites it
    return {
        "path": str(recipe.init_from.resolve()),
        "model": manifest.model["name"],
        "method": manifest.recipe["method"],
        "sha256": folder_sha256(earlier.adapter),
        "init": recipe.init,
        "lineage": manifest.lineage,
    }


def starting_model(directory: RunDirectory, recipe: Recipe, module: Any) -> Any:
    """The model from which this run starts to train, made from the base model.

    With `stack` it has the earlier adapters, frozen; with `merge` they are merged into its weights;
    with `continue` it is the model from which the earlier run started. Changes `module` in place.
    """
    if recipe.init_from is None:
        return module
    earlier = RunDirectory.open(directory.earlier)
    before = recipe_of(earlier.manifest())
    if not before.method_traits.is_adapter:
        return apply_tuned(earlier, module)
    if recipe.init == "continue":
        return starting_model(earlier, before, module)
    # Each adapter of a chain gets its own name, by its depth in the chain.
    depth = len(earlier.path.parts)
    tuned = apply_tuned(
        earlier, module, name=f"earlier{depth}" if recipe.init == "stack" else TRAINABLE
    )
    return merge_adapters(tuned) if recipe.init == "merge" else tuned


def trainable_model(
    directory: RunDirectory, recipe: Recipe, module: Any, fresh: Sequence[str] = ()
) -> Any:
    """The model at the start of the run, with only the weights of the recipe's method trainable.

    `fresh` are the newly initialised modules of a head, which are trainable with any method.
    """
    start = starting_model(directory, recipe, module)
    if recipe.init_from is not None and recipe.init == "continue":
        earlier = RunDirectory.open(directory.earlier)
        if recipe_of(earlier.manifest()).method_traits.is_adapter:
            return load_adapter(start, earlier.adapter, trainable=True)
    options = method_settings(recipe)
    if fresh and recipe.method_traits.is_adapter:
        options["whole"] = fresh
    made = METHODS[recipe.method](start, seed=recipe.seed, **options)
    if not recipe.method_traits.is_adapter:
        for name in fresh:
            made.get_submodule(name).requires_grad_(True)
    return made


def apply_tuned(directory: RunDirectory, module: Any, *, name: str = TRAINABLE) -> Any:
    """The run's tuned model, made from the base model, whose weights may change in place.

    `name` is the name of its adapter, which differs from those of later adapters on it.
    """
    recipe = recipe_of(directory.manifest())
    if not recipe.method_traits.is_adapter:  # complete weights
        with safetensors_errors(directory.adapter):
            load_weights(module, directory.adapter)
        return module
    start = starting_model(directory, recipe, module)
    return load_adapter(start, directory.adapter, name=name)


def tuned_sha256(directory: RunDirectory) -> str:
    """A hash over the run's tuned weights and those of all earlier runs."""
    own = folder_sha256(directory.adapter)
    if not directory.earlier.exists():
        return own
    below = tuned_sha256(RunDirectory.open(directory.earlier))
    init = directory.manifest().recipe["init"]
    return hashlib.sha256(f"{own} {init} {below}".encode()).hexdigest()


def link_or_copy(source: str, target: str) -> None:
    """Creates a hard link, or a copy if the disk does not support links.

    Links are safe, because finished weights are never changed in place."""
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def needs_earlier_weights(lineage: Mapping[str, Any]) -> bool:
    """Whether the run's adapter needs the weights of an earlier run below it.

    `lineage` is the manifest entry of a run that started from an earlier one.
    """
    return lineage["init"] != "continue" or bool(lineage["lineage"])
