"""Checkpoints: a folder a step, complete or absent; the last good one survives every accident."""

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from burnish.errors import RunError
from burnish.models.adapt import load_weights, save_weights
from burnish.run_directory import replace_directory


@dataclass
class Progress:
    """Where a run stands; with the weights and the optimizer it is all that resuming needs."""

    step: int = 0
    tokens: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    passes_without_progress: int = 0
    stopped: bool = False


def save(folder: Path, model: Any, optimizer: torch.optim.Optimizer, progress: Progress) -> Path:
    """Writes `folder/step-<n>` under a hidden name and renames it when it is whole."""
    new = folder / f".step-{progress.step}.new"
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        save_weights(model, new)
        torch.save(optimizer.state_dict(), new / "optimizer.pt")
        torch.save(_random_states(), new / "random.pt")
        (new / "progress.json").write_text(json.dumps(asdict(progress)))
        replace_directory(new, folder / f"step-{progress.step}")
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder / f"step-{progress.step}"


def load(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> Progress:
    """Puts weights, optimizer and random states back.

    Raises:
        RunError: a file of the checkpoint is missing or damaged.
    """
    try:
        progress = Progress(**json.loads((folder / "progress.json").read_text()))
        load_weights(model, folder)
        optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
        _restore_random(torch.load(folder / "random.pt", weights_only=True))
    except (OSError, RuntimeError, ValueError, TypeError, SafetensorError) as error:
        raise RunError(
            f"the checkpoint {folder} cannot be read ({str(error).splitlines()[0]})",
            "delete that folder and continue with --resume from the one before",
        ) from error
    return progress


def saved_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    names = (re.fullmatch(r"step-(\d+)", path.name) for path in folder.glob("step-*"))
    return sorted(int(name[1]) for name in names if name)


def drop_optimizers(folder: Path, keep: int) -> None:
    """Only the newest checkpoint is resumed; the others keep just their weights."""
    for step in saved_steps(folder):
        if step != keep:
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
