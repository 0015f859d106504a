"""Adapters that other tools trained, in PEFT format, taken over as runs that are trained."""

import json
import shutil
from pathlib import Path
from typing import Any

from burnish.errors import DataError, ModelError
from burnish.run_directory import RunDirectory

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_foreign(folder: Path | str) -> bool:
    """Whether it is an adapter in PEFT format, and no run."""
    path = Path(folder)
    return (path / _CONFIG).exists() and not (path / "manifest.json").exists()


def adopted_recipe(
    folder: Path | str, data: Path | str | None, model: str, name: str | None
) -> dict[str, Any]:
    """The recipe that the adapter's own configuration stands for.

    Raises:
        ModelError: it is no LoRA adapter, or its weights are no safetensors file.
        DataError: no rows are named, so nothing says what it gained.
    """
    path = Path(folder)
    config = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{path} is an adapter of the kind {kind}", "give one of the kind LORA")
    if not (path / _WEIGHTS).exists():
        raise ModelError(
            f"{path} has no {_WEIGHTS}", "save it as safetensors; pickled weights are not opened"
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
        place.mkdir(parents=True)
        for name in (_CONFIG, _WEIGHTS):
            shutil.copy2(Path(folder) / name, place / name)
    manifest = directory.manifest()
    manifest.adopted, manifest.state = True, "trained"
    directory.write_manifest(manifest)
    return directory
