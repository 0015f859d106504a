"""A recipe as it is written: its YAML, in which no key comes twice."""

import difflib
from pathlib import Path
from typing import Any

import yaml

from burnish.errors import RecipeError


class _Loader(yaml.SafeLoader):
    """Refuses a key that comes twice: its second value would replace the first one whole."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                raise yaml.YAMLError(
                    f"the key {key.value} stands on line {lines[key.value]} and on line {line}"
                )
            lines[str(key.value)] = line
        return node


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a recipe file with their values.

    Raises:
        RecipeError: the file is missing, is no YAML, names a key twice, or holds no keys.
    """
    if path.is_dir():
        raise RecipeError(f"{path} is a folder", f"name a recipe, such as {path / 'recipe.yaml'}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError as error:
        near = difflib.get_close_matches(path.name, _siblings(path), n=1)
        hint = f"did you mean {path.parent / near[0]}" if near else "name a recipe file"
        raise RecipeError(f"there is no recipe {path}", hint) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        what = " ".join(str(error).split())
        raise RecipeError(f"{path} is no readable YAML ({what})", "correct the file") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} holds no keys", "write at least `data: {train: FILE}`")
    return values


def _siblings(path: Path) -> list[str]:
    return [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
