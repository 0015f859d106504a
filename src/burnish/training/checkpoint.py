"""Checkpoints: a folder a step, complete or absent; the last good one survives every accident."""

import json
import re
import shutil
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from burnish.errors import RunError
from burnish.models.adapt import load_weights, save_weights
from burnish.runs.atomic import new_folder, remove_directory

# What a checkpoint has beside its weights.
_TO_GO_ON = ("optimizer.pt", "random.pt", "progress.json")
Moments = dict[str, dict[str, torch.Tensor]]
# A damaged newest checkpoint must leave one to go on from.
_RESUMABLE = 2


@dataclass
class Progress:
    """Where a run stands; with the weights and the optimizer it is all that resuming needs."""

    step: int = 0
    tokens: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    passes_without_progress: int = 0
    stopped: bool = False
    carried: dict[str, float] = field(default_factory=dict)


def moments(model: Any, optimizer: torch.optim.Optimizer) -> Moments:
    """What the optimizer knows of each parameter, by the parameter's name."""
    return {n: optimizer.state[p] for n, p in model.named_parameters() if p in optimizer.state}


def save(folder: Path, model: Any, found: Moments, progress: Progress) -> Path:
    """Writes `folder/step-<n>` under a hidden name and renames it when it is whole."""
    path = folder / f"step-{progress.step}"
    with new_folder(path) as new:
        save_weights(model, new)
        save_tensors(found, new / "optimizer.pt")
        save_tensors(_random_states(), new / "random.pt")
        (new / "progress.json").write_text(json.dumps(asdict(progress)))
    return path


def save_tensors(found: Any, path: Path) -> None:
    """As torch.save, which given a name would hide why it could not write."""
    with path.open("wb") as file:
        torch.save(found, file)


def load(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> Progress:
    """Puts weights, moments and random states back; a team takes the moments from the file's pages.

    Raises:
        RunError: a file of the checkpoint is missing, damaged, or of another model.
    """
    try:
        progress = Progress(**json.loads((folder / "progress.json").read_text()))
        load_weights(model, folder)
        found = torch.load(
            folder / "optimizer.pt", map_location="cpu", mmap=True, weights_only=True
        )
        learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
        optimizer.state.update({learning[name]: states for name, states in found.items()})
        _restore_random(torch.load(folder / "random.pt", weights_only=True))
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise RunError(
            f"the checkpoint {folder} cannot be read ({str(error).splitlines()[0]})",
            "see that this machine can read it, then continue with --resume",
            code="checkpoint_unreadable",
            path=str(folder),
        ) from error
    return progress


def load_newest(
    folder: Path, model: Any, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, str]]:
    """Puts the newest whole checkpoint back, and removes what is newer or half written.

    Without one it is the start, and model and optimizer are untouched. Either way the steps that
    are taken again give what they gave before.

    Returns:
        Where the run stands, and the damaged checkpoints with what is wrong with each.

    Raises:
        RunError: a whole checkpoint cannot be read, which is no reason to go around it.
    """
    for left in folder.glob(".step-*"):
        shutil.rmtree(left)
    damaged: dict[str, str] = {}
    for place, step in enumerate(reversed(saved_steps(folder))):
        path = folder / f"step-{step}"
        if place >= _RESUMABLE and not (path / "optimizer.pt").exists():
            break  # this one and those before it were kept for their weights
        if (wrong := damage(path)) is None:
            _drop_after(folder, step)
            return load(path, model, optimizer), damaged
        damaged[path.name] = wrong
    _drop_after(folder, 0)
    return Progress(), damaged


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint that is to be resumed; None if it is whole."""
    try:
        progress = Progress(**json.loads((folder / "progress.json").read_text()))
    except FileNotFoundError:
        return "progress.json is missing"
    except (ValueError, TypeError):
        return "progress.json is cut off"
    for name in ("optimizer.pt", "random.pt"):
        if wrong := _archive_damage(folder / name):
            return wrong
    best = folder if progress.best_step is None else folder.with_name(f"step-{progress.best_step}")
    return _weights_damage(folder) or _weights_damage(best)


def _archive_damage(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{path.name} is damaged" if archive.testzip() else None
    except FileNotFoundError:
        return f"{path.name} is missing"
    except zipfile.BadZipFile:
        return f"{path.name} is cut off"


def _weights_damage(folder: Path) -> str | None:
    files = list(folder.glob("*.safetensors"))
    if not files:
        return f"{folder.name} has no weights"
    for path in files:
        try:
            with safe_open(str(path), framework="pt"):  # compares the size with its header's
                pass
        except SafetensorError:
            return f"{path.name} of {folder.name} is cut off"
    return None


def _drop_after(folder: Path, step: int) -> None:
    for later in saved_steps(folder):
        if later > step:
            remove_directory(folder / f"step-{later}")


def saved_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    names = (re.fullmatch(r"step-(\d+)", path.name) for path in folder.glob("step-*"))
    return sorted(int(name[1]) for name in names if name)


def copy_weights(folder: Path, new: Path) -> None:
    """A checkpoint's weights as `save_weights` wrote them."""
    shutil.copytree(folder, new, ignore=shutil.ignore_patterns(*_TO_GO_ON), dirs_exist_ok=True)


def drop_optimizers(folder: Path) -> None:
    """The newest checkpoint is resumed, or the one before; the others keep just their weights."""
    for step in saved_steps(folder)[:-_RESUMABLE]:
        (folder / f"step-{step}" / "optimizer.pt").unlink(missing_ok=True)


def _random_states() -> dict[str, Any]:
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def _restore_random(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
