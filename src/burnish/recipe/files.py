"""Reads a recipe's YAML, in which no key may be repeated, and resolves the paths in it."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from burnish.errors import RecipeError, cut, shown
from burnish.recipe.paths import beginning_in, expanded, similar_file

# Prefix of a suite of lm-eval-harness, before a task's name or file.
HARNESS = "lm_eval:"
# Before the name of a task of the harness: its prompts are rendered with the chat template.
CHAT = "chat:"
_FILES = ("train", "validation", "test", "data", "tools")
_ROWS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
_MOST_VALUES = 100_000
_START = 100_000  # bytes that show whether a file holds rows
_LONGEST_REASON = 500


class DocumentError(yaml.YAMLError):
    """YAML that is not allowed in a recipe; `code` is the kind of mistake."""

    def __init__(self, reason: str, code: str) -> None:
        super().__init__(reason)
        self.code = code


class _Loader(yaml.SafeLoader):
    """Rejects repeated keys, whose second value would silently replace the first.

    It also rejects aliases that expand to very many values, or that contain themselves.
    """

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _check_size(node)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                raise DocumentError(
                    f"the key {key.value} is on line {lines[key.value]} and again on line {line}",
                    code="duplicate_key",
                )
            lines[str(key.value)] = line
        return node


def _check_size(root: yaml.Node) -> None:
    """Check the number of values with all aliases expanded.

    Raises:
        DocumentError: there are too many values, or an alias contains itself.
    """
    sizes: dict[int, int | None] = {}  # None while a node's parts are counted

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            known = sizes[id(node)]
            if known is None:
                seen = f"the alias of line {node.start_mark.line + 1} contains itself"
                raise DocumentError(seen, code="recursive_alias")
            return known
        sizes[id(node)] = None
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        whole = 1 + sum(map(size, flat))
        if whole > _MOST_VALUES:
            seen = f"it has over {_MOST_VALUES:,} values when its aliases are expanded"
            raise DocumentError(seen, code="too_many_values")
        sizes[id(node)] = whole
        return whole

    size(root)


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        YAMLError: the text is not YAML, repeats a key, or has too many values.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise DocumentError("it is nested too deeply", code="nested_too_deeply") from error
    except (ValueError, OverflowError) as error:  # a date of month 13, a number of 5,000 digits
        raise DocumentError(str(error), code="not_yaml") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys of a recipe file with their values.

    Raises:
        RecipeError: the file is missing, contains rows or no keys, or is not valid YAML.
    """
    path = expanded(path)
    if path.is_dir():
        raise RecipeError(
            f"{path} is a folder",
            f"name a recipe, such as {path / 'recipe.yaml'}",
            code="is_folder",
            path=str(path),
        )
    if _is_rows(path):
        raise RecipeError(
            f"{path} is a file of rows, not a recipe",
            f"read it with `burnish check {shlex.quote(str(path))}`, or write a recipe with "
            f"data: {{train: {path}}}",
            code="rows_not_recipe",
            path=str(path),
        )
    values = _values_in(path)
    if not isinstance(values, dict):
        raise RecipeError(
            f"{path} does not contain any keys",
            "write at least `data: {train: FILE}`",
            code="no_keys",
            path=str(path),
        )
    return values


def _values_in(path: Path) -> Any:
    """Read and parse a file.

    Raises:
        RecipeError: the file is missing, cannot be read, or `parse_yaml` rejects it.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        near = similar_file(path)
        raise RecipeError(
            f"there is no recipe {path}",
            f"did you mean {near}?" if near else "name a recipe file",
            code="file_missing",
            path=str(path),
            closest=near and str(near),
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path} is not UTF-8", "save the file as UTF-8", code="not_utf8", path=str(path)
        ) from error
    except (OSError, yaml.YAMLError) as error:
        reason = cut(" ".join(str(error).split()), _LONGEST_REASON)
        other = "file_unreadable" if isinstance(error, OSError) else "not_yaml"
        raise RecipeError(
            f"{path} is not valid YAML ({reason})",
            "correct the file",
            code=error.code if isinstance(error, DocumentError) else other,
            path=str(path),
            reason=reason,
        ) from error


def _is_rows(path: Path) -> bool:
    """Whether an existing file contains rows, by its name or its first lines.

    A JSON object on the first line has to be followed by more lines: alone it may be a recipe.
    """
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    packed = endings[-1:] and endings[-1] in (".gz", ".bz2", ".xz")
    if any(ending in _ROWS for ending in (endings[:1] if packed else endings[-1:])):
        return path.is_file()
    try:
        with path.open("rb") as file:
            start = file.readline(_START).strip()
            more = file.read(_START).strip()
        return start[:1] == b"[" or bool(more and isinstance(json.loads(start), dict))
    except (OSError, ValueError, RecursionError):
        return False


def check_name(name: str, owner: str = "") -> None:
    """Check that a name is that of a folder directly inside `output`.

    `owner` is the start of the message, such as the stage.

    Raises:
        RecipeError: the folder would be elsewhere, or the name is not printable.
    """
    if Path(name).name != name or not name.strip(".") or not name.isprintable():
        raise RecipeError(
            f"{owner}name is {shown(name)}, which is not the name of a folder inside `output`",
            "write it without slashes, and set output to choose another folder",
            code="bad_name",
            key="name",
            value=cut(name),
        )


def place_files(values: Mapping[str, Any], place: Callable[[str], str]) -> None:
    """Replace every file name in a recipe's nested values by the result of `place`, in place."""
    tasks = values.get("tasks")
    for part in _parts(values):
        for section in _sections(part.get("data"), part.get("replay")):
            _replace(section, _FILES, place)
        for section in _sections(part.get("evaluate")):
            names = section.get("general")
            if isinstance(names, list):
                section["general"] = [place_suite(name, place) for name in names]
            _replace(section, ("general",), lambda name: place_suite(name, place))
    for section in _sections(*(tasks.values() if isinstance(tasks, dict) else ())):
        _replace(section, _FILES, place)


def whole_files(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a recipe's nested values as JSON, with paths that are absolute, from `folder`."""
    whole: dict[str, Any] = json.loads(json.dumps(values))

    def place(path: str) -> str:
        return str(Path(beginning_in(folder, path)).resolve())

    place_files(whole, place)
    for part in _parts(whole):
        _replace(part, ("init_from",), place)
    return whole


def place_suite(name: Any, place: Callable[[str], str]) -> Any:
    """Return the name of a general suite, with `place` applied to its file if it has one."""
    if not isinstance(name, str) or not name.endswith((".jsonl", ".yaml", ".yml")):
        return name
    _, harness, file = name.rpartition(HARNESS)
    chat = CHAT if harness and file.startswith(CHAT) else ""
    return harness + chat + place(file.removeprefix(chat))


def _parts(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the values of the recipe and of its stages."""
    stages = values.get("stages")
    return _sections(values, *(stages if isinstance(stages, list) else ()))


def _sections(*values: Any) -> Iterator[dict[str, Any]]:
    return (value for value in values if isinstance(value, dict))


def _replace(section: dict[str, Any], keys: tuple[str, ...], place: Callable[[str], str]) -> None:
    section |= {key: place(section[key]) for key in keys if isinstance(section.get(key), str)}
