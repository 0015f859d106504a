"""The reference names all that there is, and the site is built without a warning."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click import Context
from pydantic import BaseModel

import burnish
from burnish.cli import VERBS, app
from burnish.recipe.schema import Recipe
from tests.docs.blocks import ROOT

REFERENCE = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", REFERENCE / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(generate: ModuleType, name: str) -> str:
    """A page with its tables."""
    text = (REFERENCE / f"{name}.md").read_text(encoding="utf-8")
    made: str = generate.on_page_markdown(text)
    assert "<!--" not in made
    return made


def values(section: type[BaseModel] = Recipe, prefix: str = "") -> list[str]:
    """The keys of a recipe that have a value of their own, and are not sections."""
    found: list[str] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
        found += values(kind, f"{prefix}{name}.") if is_section else [prefix + name]
    return found


def test_every_recipe_key_is_named(generate: ModuleType) -> None:
    text = page(generate, "recipe")
    assert len(values()) > 80
    assert [key for key in values() if f"| `{key}` |" not in text] == []


def test_every_verb_and_option_is_named(generate: ModuleType) -> None:
    text = page(generate, "command-line")
    parts = dict(re.findall(r"^## `(\w+)` \{.*?\}\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert list(parts) == list(VERBS)
    for verb, part in parts.items():
        command: Any = app.get_command(Context(app), verb)
        options = [name for one in command.params for name in one.opts if name.startswith("--")]
        assert [name for name in options if f"`{name}`" not in part] == []


def test_every_function_is_named(generate: ModuleType) -> None:
    text = page(generate, "python")
    assert [name for name in burnish.__all__ if f"## `burnish.{name}`" not in text] == []


def test_every_route_is_named(generate: ModuleType) -> None:
    text = page(generate, "api")
    rows = re.findall(r"^\| `([A-Z]+ /\S*)` \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert {name.split()[1] for name, _, _ in rows} >= {"/v1/files", "/v1/chat/completions"}
    assert len(rows) > 25
    assert all(len(said) > 8 for _, _, said in rows), "a route without a sentence"
    assert "| `n_epochs` |" not in text  # it is within `method`
    assert "| `training_file` | body | string | yes |" in text


def test_every_error_code_is_named(generate: ModuleType) -> None:
    text = page(generate, "errors")
    sources = [path.read_text("utf-8") for path in Path(burnish.__file__).parent.rglob("*.py")]
    codes = {code for source in sources for code in re.findall(r'\bcode="(\w+)"', source)}
    assert len(codes) > 100
    assert [code for code in codes if f"| `{code}` |" not in text] == []
    assert "| `file_missing` |" in text
    assert "the file PATH does not exist" in text


def test_every_typed_file_has_its_fields(generate: ModuleType) -> None:
    text = page(generate, "run-directory")
    for name in ("manifest.json", "verdict.json", "ledger.json", "frontier.json", "parity.json"):
        assert f"### `{name}`" in text
    assert "| `certified_target_gain` | `float or None` |" in text


needs_mkdocs = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed"
)


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Builds as `make docs` does; with --quiet no warning would count."""
    command = "mkdocs build --strict"
    assert f"-m {command}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", *command.split(), "--site-dir", str(site)],
        cwd=root,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@needs_mkdocs
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    built = build(ROOT, tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md")))  # also that for 404
    for one in pages:
        loaded = re.findall(r"<(?:script|img|link)\b[^>]*https?://", one.read_text("utf-8"))
        assert loaded == [], one
    search = (tmp_path / "search" / "search_index.js").read_text(encoding="utf-8")
    assert "gradient" in search


@needs_mkdocs
def test_a_dead_link_and_a_script_from_elsewhere_fail_the_build(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    with (tmp_path / "docs" / "start.md").open("a") as file:
        file.write("\n[a](nowhere.md) [b](index.md#nowhere)\n")
        file.write('\n<script src="https://elsewhere.example/one.js"></script>\n')
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode == 1
    for part in ("nowhere.md", "#nowhere", "elsewhere.example"):
        assert part in built.stderr
