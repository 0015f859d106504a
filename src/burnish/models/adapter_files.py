"""The files of an adapter, which a copy that was cut off or an edit by hand may have damaged."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from burnish.errors import ModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_AGAIN = "copy it there again, or save it anew"


def adapter_settings(folder: Path) -> dict[str, Any]:
    """What `adapter_config.json` says.

    Raises:
        ModelError: it cannot be read, or is no JSON object.
    """
    path = folder / CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read ({error})",
            _AGAIN,
            code="file_unreadable" if isinstance(error, OSError) else "not_json",
            path=str(path),
            reason=str(error),
        ) from error
    if not isinstance(found, dict):
        raise ModelError(
            f"{path} holds a {type(found).__name__} and no settings",
            _AGAIN,
            code="not_an_object",
            path=str(path),
            kind=type(found).__name__,
        )
    return found


def check_weights(folder: Path) -> None:
    """
    Raises:
        ModelError: the adapter's weights cannot be read, or some are no numbers.
    """
    with safetensors_errors(folder):
        weights = load_file(folder / WEIGHTS)
    for name, weight in weights.items():
        if not weight.float().isfinite().all():
            raise ModelError(
                f"{folder / WEIGHTS} has numbers in {name} that are not finite",
                "take a checkpoint from before its training diverged",
                code="weights_not_finite",
                path=str(folder / WEIGHTS),
                weight=name,
            )


@contextmanager
def safetensors_errors(folder: Path) -> Iterator[None]:
    """For reading weights of safetensors.

    Raises:
        ModelError: they are cut off, or are no safetensors.
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
