"""Checkpoints: one folder per step, complete or absent; the newest two can be resumed."""

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

# The files of a checkpoint that only resuming needs.
_STATE_FILES = ("optimizer.pt", "random.pt", "progress.json")
Moments = dict[str, dict[str, torch.Tensor]]
# If the newest checkpoint is damaged, the one before it is resumed.
_RESUMABLE = 2


@dataclass
class Progress:
    """What resuming needs besides weights and optimizer; `carried` is the objective's state."""

    step: int = 0
    tokens: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    passes_without_progress: int = 0
    stopped: bool = False
    carried: dict[str, float] = field(default_factory=dict)


def moments(model: Any, optimizer: torch.optim.Optimizer) -> Moments:
    """Return the optimizer's state of each parameter by the parameter's name."""
    return {n: optimizer.state[p] for n, p in model.named_parameters() if p in optimizer.state}


def save(folder: Path, model: Any, optimizer_state: Moments, progress: Progress) -> Path:
    """Write `folder/step-<n>` under a hidden name, and rename it when it is complete."""
    path = folder / f"step-{progress.step}"
    with new_folder(path) as new:
        save_weights(model, new)
        save_tensors(optimizer_state, new / "optimizer.pt")
        save_tensors(_random_states(), new / "random.pt")
        (new / "progress.json").write_text(json.dumps(asdict(progress)))
    return path


def save_tensors(value: Any, path: Path) -> None:
    """Save to an open file: given a path, torch.save would hide why it cannot write."""
    with path.open("wb") as file:
        torch.save(value, file)


def load(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore weights, optimizer state and random states from a checkpoint.

    The optimizer state is memory-mapped, so that several processes share its pages.

    Raises:
        RunError: a file of the checkpoint is missing or damaged, or belongs to another model.
    """
    try:
        progress = Progress(**json.loads((folder / "progress.json").read_text()))
        load_weights(model, folder)
        saved = torch.load(
            folder / "optimizer.pt", map_location="cpu", mmap=True, weights_only=True
        )
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        optimizer.state.update({trainable[name]: states for name, states in saved.items()})
        _restore_random(torch.load(folder / "random.pt", weights_only=True))
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise RunError(
            f"cannot read the checkpoint {folder} ({str(error).splitlines()[0]})",
            "check the files and their permissions, then continue with --resume",
            code="checkpoint_unreadable",
            path=str(folder),
        ) from error
    return progress


def load_newest(
    folder: Path, model: Any, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, str]]:
    """Restore the newest undamaged checkpoint, and delete newer and half-written ones.

    Without one, model and optimizer stay unchanged and the progress is zero. Either way the
    repeated steps have the same results as before.

    Returns:
        The progress of the run, and the damage of each damaged checkpoint by its name.

    Raises:
        RunError: an undamaged checkpoint cannot be read; older ones are not tried then.
    """
    for incomplete in folder.glob(".step-*"):
        shutil.rmtree(incomplete)
    damaged: dict[str, str] = {}
    for index, step in enumerate(reversed(saved_steps(folder))):
        path = folder / f"step-{step}"
        if index >= _RESUMABLE and not (path / "optimizer.pt").exists():
            break  # this checkpoint and older ones contain only weights
        if (reason := damage(path)) is None:
            _drop_after(folder, step)
            return load(path, model, optimizer), damaged
        damaged[path.name] = reason
    _drop_after(folder, 0)
    return Progress(), damaged


def damage(folder: Path) -> str | None:
    """Return the damage of a resumable checkpoint in words; None if it is complete."""
    try:
        progress = Progress(**json.loads((folder / "progress.json").read_text()))
    except FileNotFoundError:
        return "progress.json is missing"
    except (ValueError, TypeError):
        return "progress.json is cut off"
    for name in ("optimizer.pt", "random.pt"):
        if reason := _archive_damage(folder / name):
            return reason
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
    """Return the steps of the complete checkpoints, ascending."""
    names = (re.fullmatch(r"step-(\d+)", path.name) for path in folder.glob("step-*"))
    return sorted(int(name[1]) for name in names if name)


def copy_weights(folder: Path, new: Path) -> None:
    """Copy the weights of a checkpoint, without the state for resuming."""
    shutil.copytree(folder, new, ignore=shutil.ignore_patterns(*_STATE_FILES), dirs_exist_ok=True)


def drop_optimizers(folder: Path) -> None:
    """Delete the optimizer state of all but the newest two checkpoints, which can be resumed."""
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
