"""Paths as people write them: `~` is their home folder, and an address is no path."""

import re
from pathlib import Path

DOWNLOAD = "download it first and name the file here, since Burnish does not download data"
# A path has lost the second slash.
_ADDRESS = re.compile(r"(?:https?|s3|s3a|gs|gcs|hf|ftp|sftp|file|abfss?|az|wasbs?|oss|r2):/", re.I)


def expanded(path: Path | str) -> Path:
    """The path with the home folder for `~`; unchanged where nobody has that home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_url(path: str) -> bool:
    """Whether it names data elsewhere, such as https://, s3:// or hf://."""
    return _ADDRESS.match(path) is not None


def beginning_in(folder: Path, path: str) -> str:
    """The path as the recipe of a folder means it; an address stays, for its own message."""
    return path if is_url(path) else str(folder / expanded(path))
