"""Paths in recipes and on the command line: `~` is the home folder, and URLs are not paths."""

import difflib
import re
from pathlib import Path

DOWNLOAD = "download it first and name the file here, since Burnish does not download data"
# One slash, because a path that was a URL has lost the second one.
_ADDRESS = re.compile(r"(?:https?|s3|s3a|gs|gcs|hf|ftp|sftp|file|abfss?|az|wasbs?|oss|r2):/", re.I)


def expanded(path: Path | str) -> Path:
    """Return the path with `~` replaced by the home folder; unchanged if there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_url(path: str) -> bool:
    """Whether the text is a URL, such as https://, s3:// or hf://."""
    return _ADDRESS.match(path) is not None


def similar_file(path: Path) -> Path | None:
    """Return a file in the same folder with a similar name, ignoring endings; None if none is."""
    siblings = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    stems = {_stem(one): one for one in siblings if one.is_file()}
    # Of two files that differ only in the ending, the one with the given ending is preferred.
    stems |= {_stem(one): one for one in siblings if one.is_file() and one.suffix == path.suffix}
    near = difflib.get_close_matches(_stem(path), stems, n=1, cutoff=0.75)
    return path.parent / stems[near[0]].name if near else None


def _stem(path: Path) -> str:
    """Return the name without its endings; a name that starts with a dot is unchanged."""
    return path.name.partition(".")[0].lower() or path.name


def beginning_in(folder: Path, path: str) -> str:
    """Return the path relative to the recipe's folder; a URL is unchanged and reported later."""
    return path if is_url(path) else str(folder / expanded(path))
