"""A recipe as it is written: its YAML, in which no key comes twice, and the paths in it."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from burnish.errors import RecipeError, cut, shown
from burnish.recipe.paths import beginning_in, expanded, similar_file

# How a suite of lm-eval-harness begins; a task's name or its file follows.
HARNESS = "lm_eval:"
# Before the name of a task of the harness: its prompts are rendered with the chat template.
CHAT = "chat:"
_FILES = ("train", "validation", "test", "data", "tools")
_ROWS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
_MOST_VALUES = 100_000
_START = 100_000  # bytes that show whether a file holds rows
_LONGEST_REASON = 500


class DocumentError(yaml.YAMLError):
    """YAML that could be read, and that no recipe may have; `code` names the mistake."""

    def __init__(self, reason: str, code: str) -> None:
        super().__init__(reason)
        self.code = code


class _Loader(yaml.SafeLoader):
    """Refuses a key that comes twice: its second value would replace the first one whole.

    It refuses aliases, too, that make much of little, or that name what they are a part of.
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
                    f"the key {key.value} stands on line {lines[key.value]} and on line {line}",
                    code="duplicate_key",
                )
            lines[str(key.value)] = line
        return node


def _check_size(root: yaml.Node) -> None:
    """
    Raises:
        DocumentError: written out, the aliases make too many values, or endless ones.
    """
    sizes: dict[int, int | None] = {}  # None while a node's parts are counted

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            known = sizes[id(node)]
            if known is None:
                seen = f"line {node.start_mark.line + 1} is a part of itself"
                raise DocumentError(seen, code="recursive_alias")
            return known
        sizes[id(node)] = None
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        whole = 1 + sum(map(size, flat))
        if whole > _MOST_VALUES:
            seen = f"it has over {_MOST_VALUES:,} values, with aliases written out"
            raise DocumentError(seen, code="too_many_values")
        sizes[id(node)] = whole
        return whole

    size(root)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        YAMLError: it is none, names a key twice, or has aliases that make much of little.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise DocumentError("it is nested too deeply", code="nested_too_deeply") from error
    except (ValueError, OverflowError) as error:  # a date of month 13, a number of 5,000 digits
        raise DocumentError(str(error), code="not_yaml") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a recipe file with their values.

    Raises:
        RecipeError: the file is missing, holds rows, is no YAML, names a key twice, or has no keys.
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
    """
    Raises:
        RecipeError: the file is missing, cannot be read, or is no YAML as `parse_yaml` has it.
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
        what = cut(" ".join(str(error).split()), _LONGEST_REASON)
        other = "file_unreadable" if isinstance(error, OSError) else "not_yaml"
        raise RecipeError(
            f"{path} is not valid YAML ({what})",
            "correct the file",
            code=error.code if isinstance(error, DocumentError) else other,
            path=str(path),
            reason=what,
        ) from error


def _is_rows(path: Path) -> bool:
    """Whether an existing file holds rows, by its name or by an object on its first line with more
    lines after it: an object alone may be a recipe, since JSON is YAML."""
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
    """Whether a folder of that name lies right inside `output`; `owner` says whose name it is.

    Raises:
        RecipeError: it would lie elsewhere, or could not be told from others on a screen.
    """
    if Path(name).name != name or not name.strip(".") or not name.isprintable():
        raise RecipeError(
            f"{owner}name is {shown(name)}, which names no folder inside `output`",
            "write it without slashes, and set output for another place",
            code="bad_name",
            key="name",
            value=cut(name),
        )


def place_files(values: Mapping[str, Any], place: Callable[[str], str]) -> None:
    """Puts what `place` makes of it for every file in a recipe's nested values, in place."""
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
    """A recipe's nested values as JSON has them; their relative paths begin in `folder`."""
    whole: dict[str, Any] = json.loads(json.dumps(values))

    def place(path: str) -> str:
        return str(Path(beginning_in(folder, path)).resolve())

    place_files(whole, place)
    for part in _parts(whole):
        _replace(part, ("init_from",), place)
    return whole


def place_suite(name: Any, place: Callable[[str], str]) -> Any:
    """A general suite whose file, if it is one, is where `place` says."""
    if not isinstance(name, str) or not name.endswith((".jsonl", ".yaml", ".yml")):
        return name
    _, harness, file = name.rpartition(HARNESS)
    chat = CHAT if harness and file.startswith(CHAT) else ""
    return harness + chat + place(file.removeprefix(chat))


def _parts(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The recipe and its stages."""
    stages = values.get("stages")
    return _sections(values, *(stages if isinstance(stages, list) else ()))


def _sections(*values: Any) -> Iterator[dict[str, Any]]:
    return (value for value in values if isinstance(value, dict))


def _replace(section: dict[str, Any], keys: tuple[str, ...], place: Callable[[str], str]) -> None:
    section |= {key: place(section[key]) for key in keys if isinstance(section.get(key), str)}
