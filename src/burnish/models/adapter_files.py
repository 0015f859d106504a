"""Reads the files of an adapter and explains damaged ones."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from burnish.errors import ModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_AGAIN = "copy the adapter again, or save it again"


def adapter_settings(folder: Path) -> dict[str, Any]:
    """The settings in `adapter_config.json`.

    Raises:
        ModelError: the file cannot be read, or is not a JSON object.
    """
    path = folder / CONFIG
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot read {path} ({error})",
            _AGAIN,
            code="file_unreadable" if isinstance(error, OSError) else "not_json",
            path=str(path),
            reason=str(error),
        ) from error
    if not isinstance(settings, dict):
        raise ModelError(
            f"{path} contains a {type(settings).__name__} instead of an object with settings",
            _AGAIN,
            code="not_an_object",
            path=str(path),
            kind=type(settings).__name__,
        )
    return settings


def check_weights(folder: Path) -> None:
    """Checks that the adapter's weights can be read and are finite.

    Raises:
        ModelError: they cannot be read, or some are not finite.
    """
    with safetensors_errors(folder):
        weights = load_file(folder / WEIGHTS)
    for name, weight in weights.items():
        if not weight.float().isfinite().all():
            raise ModelError(
                f"{folder / WEIGHTS} has values in {name} that are not finite",
                "use a checkpoint from before the training diverged",
                code="weights_not_finite",
                path=str(folder / WEIGHTS),
                weight=name,
            )


@contextmanager
def safetensors_errors(folder: Path) -> Iterator[None]:
    """Turns errors of safetensors within the context into a ModelError.

    Raises:
        ModelError: the weights are truncated, or not in the safetensors format.
    """
    try:
        yield
    except SafetensorError as error:
        raise ModelError(
            f"the weights in {folder} are damaged ({error})",
            _AGAIN,
            code="weights_damaged",
            path=str(folder),
            reason=str(error),
        ) from error
