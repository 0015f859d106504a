"""Paths as people write them: `~` is their home folder, and a URL is not a path."""

import difflib
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


def similar_file(path: Path) -> Path | None:
    """The file of the same folder whose name is likely meant, endings aside; None where none is."""
    siblings = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    stems = {_stem(one): one for one in siblings if one.is_file()}
    # Of two endings the one that was written goes before.
    stems |= {_stem(one): one for one in siblings if one.is_file() and one.suffix == path.suffix}
    near = difflib.get_close_matches(_stem(path), stems, n=1, cutoff=0.75)
    return path.parent / stems[near[0]].name if near else None


def _stem(path: Path) -> str:
    """The name without its endings; a name that is all ending stays."""
    return path.name.partition(".")[0].lower() or path.name


def beginning_in(folder: Path, path: str) -> str:
    """The path as the recipe of a folder means it; an address stays, for its own message."""
    return path if is_url(path) else str(folder / expanded(path))
