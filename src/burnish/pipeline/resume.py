"""Resuming a run: which values of its recipe may change, and which may not.

A resumed run ends with the same weights as an uninterrupted one, so nothing that the weights
depend on may change.
"""

import json
from pathlib import Path
from typing import Any

from burnish.errors import RunError
from burnish.models.cache import files_sha256
from burnish.models.lineage import recipe_of, with_recorded_thinking
from burnish.models.load import pick_device
from burnish.recipe.schema import Recipe, flat_values
from burnish.runs.atomic import remove_directory
from burnish.runs.directory import Manifest, RunDirectory

# Values that may always change: they decide where the run is, what a search tries, which checks run
# before the first step, and how processes share the work, but not which weights result.
_FREE = (
    *("name", "output", "sweep.", "heal."),
    *("training.preflight", "training.workers", "training.fsdp"),
)
# Values that are read after training and may change until there is a verdict.
_UNTIL_VERDICT = ("evaluate.", "budget.", "scale_search.")
# The actual device is compared, because `auto` chooses differently on another machine.
_PLACED = "device"


def continue_run(recipe: Recipe) -> RunDirectory | None:
    """Returns the run to resume; None where it has no rows yet, in which case it is removed.

    Raises:
        RunError: the run does not exist, or a recipe value has changed that must not change.
    """
    path = recipe.output / recipe.name
    if not path.exists():
        raise RunError(
            f"the run {path} does not exist, so it cannot be resumed",
            "start it without --resume",
            code="run_missing",
            path=str(path),
        )
    if not (path / "manifest.json").exists():
        raise RunError(
            f"{path} has no manifest.json, so it cannot be resumed",
            "start a run with another --name, or delete the folder and start without --resume",
            code="no_manifest",
            path=str(path),
        )
    directory = RunDirectory.open(path)
    manifest = directory.manifest()
    recipe = with_recorded_thinking(recipe, manifest)
    changes = _changes(manifest, recipe)
    refused = [change for change in changes if not _may_change(change["key"], manifest)]
    if refused:
        changed = ", ".join(
            f"{change['key']} was {_as_json(change['before'])}, is {_as_json(change['after'])}"
            for change in refused
        )
        raise RunError(
            f"the recipe has changed since {path} was started ({changed})",
            "restore these values, or start a new run with another --name",
            code="recipe_changed",
            path=str(path),
            changes={change["key"]: [change["before"], change["after"]] for change in refused},
        )
    if manifest.state == "created":
        remove_directory(path)
        return None
    if changes:
        manifest.name = recipe.name
        manifest.recipe, manifest.origins = recipe.model_dump(mode="json"), dict(recipe.origins)
        manifest.host["folder"] = str(Path.cwd())
        manifest.changes += [change for change in changes if _is_in(change["key"], _UNTIL_VERDICT)]
        directory.write_manifest(manifest)
        if any(_is_in(change["key"], _UNTIL_VERDICT) for change in changes):
            discard_order(directory)
    return directory


def warnings_about_changed_files(directory: RunDirectory) -> list[str]:
    """Returns a warning for each data file that has changed since the run saved its rows."""
    manifest = directory.manifest()
    began = Path.cwd() / manifest.host.get("folder", "")
    sentences = []
    for name, digest in manifest.data.get("sha256", {}).items():
        files = [file for file in (Path(name), began / name) if file.is_file()]
        if any(_has_sha256(file, digest) for file in files):
            continue
        change = "has changed" if files else "was deleted"
        sentences.append(
            f"{name} {change} since {directory.path} was started, and the run continues with the "
            "rows that it saved: to train on other rows, start a run with another --name"
        )
    return sentences


def discard_order(directory: RunDirectory) -> None:
    """Deletes the order of the candidates, because a new search or other budgets change it."""
    (directory.path / "frontier.json").unlink(missing_ok=True)


def discard_verdict(directory: RunDirectory) -> None:
    """Deletes the verdict and the report, because healing starts from the model as trained."""
    for name in ("verdict.json", "ledger.json", "report.html", "card.md"):
        (directory.path / name).unlink(missing_ok=True)


def _changes(manifest: Manifest, recipe: Recipe) -> list[dict[str, Any]]:
    """Returns the values that have changed, in the order of the recipe's classes.

    A path may be written differently, from another folder, and still name the same file.
    """
    before, here = recipe_of(manifest), Path.cwd()
    then, now = dict(flat_values(before)), dict(flat_values(recipe))
    began = here / manifest.host.get("folder", "")
    placed_then, placed_now = dict(flat_values(before, began)), dict(flat_values(recipe, here))
    changes = [
        {"key": key, "before": then.get(key), "after": now.get(key), "state": manifest.state}
        for key in {**now, **then}
        if then.get(key) != now.get(key)
        and placed_then.get(key) != placed_now.get(key)
        and key != _PLACED
    ]
    was, present = manifest.host.get(_PLACED), str(pick_device(recipe.device))
    if was not in (None, present):
        changes.append({"key": _PLACED, "before": was, "after": present, "state": manifest.state})
    return changes


def _may_change(key: str, manifest: Manifest) -> bool:
    decided = manifest.state in ("evaluated", "certified")
    if key == _PLACED:
        return manifest.state != "training"
    return _is_in(key, _FREE) or (_is_in(key, _UNTIL_VERDICT) and not decided)


def _has_sha256(file: Path, digest: str) -> bool:
    try:
        return files_sha256([file]) == digest
    except OSError:  # it may not be read any more
        return False


def _is_in(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == part or (part.endswith(".") and key.startswith(part)) for part in sections)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
