"""Going on with a run: what of its recipe may have changed since it began, and what may not.

A continued run ends with the weights that it would have had without a stop, so whatever the
weights depend on must be as it was.
"""

import json
from pathlib import Path
from typing import Any

from burnish.errors import RunError
from burnish.models.cache import files_sha256
from burnish.models.lineage import recipe_of
from burnish.models.load import pick_device
from burnish.recipe.schema import Recipe, flat_values
from burnish.runs.directory import Manifest, RunDirectory, remove_directory

# Where the run lies; what only a search reads; what is tried out before the first step and undone;
# how many processes take the steps, and whether each keeps all weights.
_FREE = (
    *("name", "output", "tune.", "heal."),
    *("training.preflight", "training.workers", "training.fsdp"),
)
# Read after training; once there is a verdict they are what it was reached with.
_UNTIL_VERDICT = ("evaluate.", "budget.", "scale_search.")
# It is the place that counts, and `auto` names another one on another machine.
_PLACED = "device"


def continue_run(recipe: Recipe) -> RunDirectory | None:
    """The run to go on with; None where it never got as far as its data, and is removed.

    Raises:
        RunError: there is no such run, or the recipe changed in a way that matters to it.
    """
    path = recipe.output / recipe.name
    if not path.exists():
        raise RunError(
            f"there is no run {path} to continue",
            "start it without --resume",
            code="run_missing",
            path=str(path),
        )
    if not (path / "manifest.json").exists():
        raise RunError(
            f"{path} has no manifest.json, so it cannot be continued",
            "start again under another --name, or delete the folder and start without --resume",
            code="no_manifest",
            path=str(path),
        )
    directory = RunDirectory.open(path)
    manifest = directory.manifest()
    changes = _changes(manifest, recipe)
    refused = [change for change in changes if not _may_change(change["key"], manifest)]
    if refused:
        told = ", ".join(
            f"{change['key']} was {_as_json(change['before'])}, is {_as_json(change['after'])}"
            for change in refused
        )
        raise RunError(
            f"the recipe of {path} has changed since ({told})",
            "put it back, or start anew under another --name",
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
    """A sentence for each data file that is not what it was when the run took its rows."""
    manifest = directory.manifest()
    began = Path.cwd() / manifest.host.get("folder", "")
    sentences = []
    for name, digest in manifest.data.get("sha256", {}).items():
        files = [file for file in (Path(name), began / name) if file.is_file()]
        if any(_has_sha256(file, digest) for file in files):
            continue
        what = "has changed" if files else "has gone"
        sentences.append(
            f"{name} {what} since {directory.path} began, and the run goes on with the rows that "
            "it saved then: to train on other rows, start a run under another --name"
        )
    return sentences


def discard_order(directory: RunDirectory) -> None:
    """What is searched anew, or by other budgets, is tested in a new order."""
    (directory.path / "frontier.json").unlink(missing_ok=True)


def discard_verdict(directory: RunDirectory) -> None:
    """What healing begins with is the model as it was trained, and no verdict is about that one."""
    for name in ("verdict.json", "ledger.json", "report.html", "card.md"):
        (directory.path / name).unlink(missing_ok=True)


def _changes(manifest: Manifest, recipe: Recipe) -> list[dict[str, Any]]:
    """Values that are not what they were, in the order of the recipe's classes.

    A path may be written another way, from another folder, and name the file that it did.
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
