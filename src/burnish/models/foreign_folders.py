"""Folders that other tools wrote: which of them hold an adapter that can be taken over."""

import json
import re
from pathlib import Path

from burnish.errors import ModelError
from burnish.models.adapter_files import CONFIG, WEIGHTS

_CHECKPOINT = re.compile(r"(?:checkpoint|step|epoch)-(\d+)")
_MLX_KEYS = frozenset(("fine_tune_type", "lora_parameters", "lora_layers"))
_WHOLE = ("*.safetensors", "pytorch_model*.bin", "consolidated*.pth", "*.gguf")


def is_foreign_folder(folder: Path) -> bool:
    """Whether another tool left an adapter or a model there, or in a folder inside."""
    if not folder.is_dir() or (folder / "manifest.json").exists():
        return False
    return _holds_adapter(folder) or _is_whole(folder) or bool(_inside(folder))


def import_problem(folder: Path) -> ModelError | None:
    """What keeps the folder from being taken over as an adapter, with what to do about it; None
    where it holds one in PEFT format."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        return ModelError(
            f"{folder} {what}",
            f"name the folder that has {CONFIG} and {WEIGHTS}",
            code="not_a_folder" if folder.exists() else "folder_missing",
            path=str(folder),
        )
    if problem := _of_another_format(folder):
        return problem
    if (folder / CONFIG).exists() and (folder / WEIGHTS).exists():
        return None
    if (folder / "adapter_model.bin").exists():
        return ModelError(
            f"{folder} has no {WEIGHTS}, but adapter_model.bin, and pickled weights are not opened",
            "save it as safetensors, with PeftModel.from_pretrained(BASE, FOLDER)"
            ".save_pretrained(NEW)",
            code="pickled_weights",
            path=str(folder),
        )
    if (folder / WEIGHTS).exists():
        return ModelError(
            f"{folder} has {WEIGHTS}, but no {CONFIG}",
            "copy that file there, it was saved with it",
            code="no_adapter_settings",
            path=str(folder),
        )
    if _is_whole(folder):
        return ModelError(
            f"{folder} holds a full model, not an adapter",
            f"name it as `model: {folder}` in a recipe to tune it, or measure what it lost with "
            f"`burnish compare RUN --against {folder}`",
            code="not_an_adapter",
            path=str(folder),
        )
    if inside := _only_inside(folder):
        return inside
    if (folder / CONFIG).exists():
        return ModelError(
            f"{folder} has no {WEIGHTS}",
            "copy the weights there, or name the folder that has them",
            code="no_adapter_weights",
            path=str(folder),
        )
    return ModelError(
        f"{folder} holds neither a run nor an adapter",
        f"name a run folder, or a folder with {CONFIG} and {WEIGHTS}",
        code="no_adapter",
        path=str(folder),
    )


def load_problem(folder: Path) -> ModelError | None:
    """What is wrong with the folder of a model that has no weights that can be loaded, where that
    can be told; None where it cannot."""
    if (folder / "manifest.json").exists():
        return ModelError(
            f"{folder} is a run, and not the folder of a model",
            f"name it as `init_from: {folder}`, or name the folder that `burnish export {folder}` "
            "writes as the model",
            code="is_a_run",
            path=str(folder),
        )
    if problem := _of_another_format(folder):
        return problem
    return None if _holds_adapter(folder) or _is_whole(folder) else _only_inside(folder)


def _only_inside(folder: Path) -> ModelError | None:
    inside = _inside(folder)
    if not inside:
        return None
    listed = ", ".join(str(path.relative_to(folder)) for path in inside[:3])
    more = f" and {len(inside) - 3} more" if len(inside) > 3 else ""
    return ModelError(
        f"{folder} itself has neither an adapter nor a model, but folders inside have "
        f"({listed}{more})",
        f"name one of them, such as {inside[0]}",
        code="folders_inside",
        path=str(folder),
        folders=[str(path) for path in inside],
    )


def _of_another_format(folder: Path) -> ModelError | None:
    """mlx-lm calls its configuration as PEFT does, and its weights otherwise."""
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
        f"{folder} holds an adapter of mlx-lm ({', '.join(weights) or CONFIG}), whose format is "
        "not PEFT's",
        f"fuse it on the machine that has mlx-lm, with `mlx_lm.fuse --model BASE --adapter-path "
        f"{folder.name} --save-path FUSED`, and name FUSED as the model",
        code="foreign_format",
        path=str(folder),
        tool="mlx-lm",
    )


def _inside(folder: Path) -> list[Path]:
    """Folders inside, at most two deep, that hold an adapter or a model, the last checkpoint
    first."""
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
