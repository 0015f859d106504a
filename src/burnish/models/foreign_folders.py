"""Folders of other tools: whether they contain an adapter that can be imported."""

import json
import re
from pathlib import Path

from burnish.errors import ModelError
from burnish.models.adapter_files import CONFIG, WEIGHTS

_CHECKPOINT = re.compile(r"(?:checkpoint|step|epoch)-(\d+)")
_MLX_KEYS = frozenset(("fine_tune_type", "lora_parameters", "lora_layers"))
_WHOLE = ("*.safetensors", "pytorch_model*.bin", "consolidated*.pth", "*.gguf")


def is_foreign_folder(folder: Path) -> bool:
    """Whether the folder, or a folder inside of it, has an adapter or model of another tool."""
    if not folder.is_dir() or (folder / "manifest.json").exists():
        return False
    return _holds_adapter(folder) or _is_whole(folder) or bool(_inside(folder))


def import_problem(folder: Path) -> ModelError | None:
    """The reason why the folder cannot be imported as an adapter; None if it contains one in PEFT
    format."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        return ModelError(
            f"{folder} {what}",
            f"use a folder with {CONFIG} and {WEIGHTS}",
            code="not_a_folder" if folder.exists() else "folder_missing",
            path=str(folder),
        )
    if problem := _of_another_format(folder):
        return problem
    if (folder / CONFIG).exists() and (folder / WEIGHTS).exists():
        return None
    if (folder / "adapter_model.bin").exists():
        return ModelError(
            f"{folder} has adapter_model.bin instead of {WEIGHTS}, and pickles are not loaded",
            "convert it to safetensors with PeftModel.from_pretrained(BASE, FOLDER)"
            ".save_pretrained(NEW)",
            code="pickled_weights",
            path=str(folder),
        )
    if (folder / WEIGHTS).exists():
        return ModelError(
            f"{folder} has {WEIGHTS}, but no {CONFIG}",
            f"copy the {CONFIG} that was saved with the weights",
            code="no_adapter_settings",
            path=str(folder),
        )
    if _is_whole(folder):
        return ModelError(
            f"{folder} contains a full model, not an adapter",
            f"set `model: {folder}` in a recipe to tune it, or measure what it forgot with "
            f"`burnish compare RUN --against {folder}`",
            code="not_an_adapter",
            path=str(folder),
        )
    if inside := _only_inside(folder):
        return inside
    if (folder / CONFIG).exists():
        return ModelError(
            f"{folder} has no {WEIGHTS}",
            "copy the weights there, or use the folder with the weights",
            code="no_adapter_weights",
            path=str(folder),
        )
    return ModelError(
        f"{folder} is neither a run nor an adapter",
        f"use a run folder, or a folder with {CONFIG} and {WEIGHTS}",
        code="no_adapter",
        path=str(folder),
    )


def load_problem(folder: Path) -> ModelError | None:
    """The reason why the folder cannot be loaded as a model; None if the reason is not known."""
    if (folder / "manifest.json").exists():
        return ModelError(
            f"{folder} is a run, not a model folder",
            f"set `init_from: {folder}`, or use the folder that `burnish export {folder}` writes "
            "as the model",
            code="is_a_run",
            path=str(folder),
        )
    from burnish.models.architecture import unsupported  # transformers is slow to import

    if problem := _of_another_format(folder) or unsupported(folder):
        return problem
    return None if _holds_adapter(folder) or _is_whole(folder) else _only_inside(folder)


def _only_inside(folder: Path) -> ModelError | None:
    inside = _inside(folder)
    if not inside:
        return None
    listed = ", ".join(str(path.relative_to(folder)) for path in inside[:3])
    more = f" and {len(inside) - 3} more" if len(inside) > 3 else ""
    return ModelError(
        f"{folder} has neither an adapter nor a model, but folders inside of it have "
        f"({listed}{more})",
        f"use one of them, such as {inside[0]}",
        code="folders_inside",
        path=str(folder),
        folders=[str(path) for path in inside],
    )


def _of_another_format(folder: Path) -> ModelError | None:
    """Recognises adapters of mlx-lm, whose configuration file has the same name as PEFT's."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    keys = _MLX_KEYS & {*config} if isinstance(config, dict) else ()
    weights = sorted(path.name for path in folder.glob("*adapters.*") if path.suffix != ".json")
    if not keys and not weights:
        return None
    if (folder / WEIGHTS).exists() and not keys:
        return None
    return ModelError(
        f"{folder} contains an adapter of mlx-lm ({', '.join(weights) or CONFIG}), which is not in "
        "PEFT format",
        f"fuse it on the machine that has mlx-lm, with `mlx_lm.fuse --model BASE --adapter-path "
        f"{folder.name} --save-path FUSED`, and use FUSED as the model",
        code="foreign_format",
        path=str(folder),
        tool="mlx-lm",
    )


def _inside(folder: Path) -> list[Path]:
    """Folders with an adapter or a model, at most two levels deep, the last checkpoint first."""
    for depth in ("*", "*/*"):
        found = [
            p for p in folder.glob(depth) if p.is_dir() and (_holds_adapter(p) or _is_whole(p))
        ]
        if found:
            return sorted(found, key=lambda path: (-_number(path), path.name))
    return []


def _number(path: Path) -> int:
    match = _CHECKPOINT.fullmatch(path.name)
    return int(match[1]) if match else 1 << 62  # `final` or `adapter` before any checkpoint


def _holds_adapter(folder: Path) -> bool:
    names = (CONFIG, WEIGHTS, "adapter_model.bin", "adapters.safetensors", "adapters.npz")
    return any((folder / name).exists() for name in names)


def _is_whole(folder: Path) -> bool:
    return any(next(folder.glob(kind), None) is not None for kind in _WHOLE)
