"""Every block of code on a page is run or read by what it is for, so that none can go stale.

The Python that asks a server is run by `tests/serving/test_docs.py`, that which reads a run by
`tests/parity/test_docs.py`.
"""

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Context

from burnish.cli import VERBS, app
from burnish.cli.options import overrides
from burnish.conversation import Example
from burnish.data.readers.read_rows import Row
from burnish.data.recognise import Converter
from burnish.errors import RecipeError
from burnish.evaluation.graders import read_grader
from burnish.evaluation.suite import load_suite
from burnish.recipe.schema import known_keys, load_recipe, recipe_of_rows
from burnish.serving.schemas.openapi import ErrorBody
from tests.docs.blocks import BLOCKS, PAGES, ROOT, Block, commands, inline, shown

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# What a finding says is a message of the check; a test below makes it say so.
UNUSED = "column category is not used"


def parse(words: list[str]) -> Any:
    """Reads a command as `burnish` would, without running it.

    Raises:
        AssertionError: there is no such verb, or it does not take these words.
    """
    verb, *rest = words
    assert verb in VERBS, f"there is no verb {verb}"
    command: Any = app.get_command(Context(app), verb)
    try:
        context = command.make_context(verb, [*rest])
    except Exception as error:  # typer's own copy of click has its own kinds
        raise AssertionError(f"`burnish {shlex.join(words)}`: {error}") from error
    if settings := context.params.get("settings"):
        recipe_of_rows("rows.jsonl", overrides(settings, None, None, drop_bad=False))
    return context


def _is_burnish(words: list[str]) -> None:
    parse(words[1:])


def _is_target(words: list[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words[1:]) <= set(targets)


def _is_python(words: list[str]) -> None:
    if words[1] == "-m":
        assert words[2] == "venv"
        return
    source = (ROOT / words[1]).read_text(encoding="utf-8")
    for option in (word for word in words[2:] if word.startswith("--")):
        assert f'"{option}"' in source, f"{words[1]} has no {option}"


def _is_pip(words: list[str]) -> None:
    assert words[1] in ("install", "download")
    for extra in re.findall(r"\[([\w-]+)\]", " ".join(words)):
        assert extra in EXTRAS


def _is_script(words: list[str]) -> None:
    """A shell script of ours, which parses and takes these options, if any."""
    subprocess.run(["bash", "-n", ROOT / words[1]], check=True)
    source = (ROOT / words[1]).read_text(encoding="utf-8")
    assert all(word in source for word in words[2:] if word.startswith("--"))


def _is_elsewhere(words: list[str]) -> None:
    """Programs of others, which no test starts."""


PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "burnish": _is_burnish,
    "make": _is_target,
    "python": _is_python,
    "python3": _is_python,
    "pip": _is_pip,
    "bash": _is_script,
    "git": _is_elsewhere,
    "cd": _is_elsewhere,
    "vllm": _is_elsewhere,
}


@pytest.mark.parametrize("block", shown("sh"), ids=str)
def test_commands_are_those_of_the_program(block: Block) -> None:
    found = commands(block)
    assert found
    for words in found:
        PROGRAMS[words[0].removeprefix(".venv/bin/")](words)


@pytest.mark.parametrize("block", shown("yaml"), ids=str)
def test_recipes_are_read(block: Block, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(block.text)
    assert block.title == "recipe.yaml" or block.page == "README.md"
    load_recipe(tmp_path / "recipe.yaml")


def _is_suite(path: Path) -> None:
    assert load_suite(str(path)).sections


def _is_grader(path: Path) -> None:
    read_grader(path)


def _is_error(path: Path) -> None:
    ErrorBody.model_validate_json(path.read_text())


def _are_rows(path: Path) -> None:
    converter = Converter({})
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert isinstance(converter.convert(Row(json.loads(line), f"f:{number}")), Example)
    assert [one for one in converter.findings("train") if one.severity == "error"] == []


JSON: dict[str, Callable[[Path], None]] = {
    "mine.jsonl": _is_suite,
    "grader.json": _is_grader,
    "error.json": _is_error,
    "rows.jsonl": _are_rows,
    "support.jsonl": _are_rows,
    "pairs.jsonl": _are_rows,
}


@pytest.mark.parametrize("block", shown("json"), ids=str)
def test_files_are_what_their_name_says(block: Block, tmp_path: Path) -> None:
    (tmp_path / block.title).write_text(block.text)
    JSON[block.title](tmp_path / block.title)


def test_the_message_on_an_unused_column_is_that_of_the_check() -> None:
    (block,) = shown("text")
    converter = Converter({})
    for number in range(4):
        converter.convert(Row({"text": f"a document {number}", "category": "a"}, f"f:{number}"))
    messages = [one.message for one in converter.findings("train")]
    assert block.text.strip() in messages


def test_no_block_is_left_out() -> None:
    claimed = {"sh", "yaml", "json"}
    unclaimed = [
        str(block)
        for block in BLOCKS
        if block.language not in claimed
        and not (block.language == "text" and UNUSED in block.text)
        and not block.asks_a_server
        and not block.reads_a_run
    ]
    assert unclaimed == []
    fences = sum(path.count("```") for path in _texts())
    assert fences == 2 * len(BLOCKS), "a fence has a form that no test reads"


def _texts() -> list[str]:
    return [path.read_text(encoding="utf-8") for path in {ROOT / block.page for block in BLOCKS}]


@pytest.mark.parametrize(
    ("page", "code"), [one for one in inline() if one[1].startswith("burnish ")]
)
def test_commands_in_sentences_are_those_of_the_program(page: str, code: str) -> None:
    words = shlex.split(code.partition(" ")[2])
    if len(words) == 1:
        assert words[0] in VERBS
    else:
        parse(words)


def test_recipe_keys_in_sentences_are_those_of_the_recipe() -> None:
    known = set(known_keys())
    sections = {key for key in known if any(other.startswith(f"{key}.") for other in known)}
    for page, code in inline():
        key, _, rest = re.split(r"[:= ]", code, maxsplit=1)[0].partition(".")
        if key in sections and rest and re.fullmatch(r"[a-z_.]+", rest) and rest != "jsonl":
            whole = f"{key}.{rest}"
            assert whole in known or whole.startswith("budget.suites."), f"{page}: {whole}"


def test_recipe_values_in_sentences_are_read() -> None:
    sections = {key.partition(".")[0] for key in known_keys() if "." in key}
    values = [
        (page, code)
        for page, code in inline()
        if re.match(r"[a-z_.]+: .", code) and re.split(r"[.:]", code)[0] in sections
    ]
    assert len(values) > 5
    for page, code in values:
        try:
            recipe_of_rows("rows.jsonl", yaml.safe_load(code))
        except RecipeError as error:
            raise AssertionError(f"{page}: {code}: {error}") from error


def test_files_in_sentences_are_there() -> None:
    source = ROOT / "src" / "burnish"
    for page, code in inline():
        if re.fullmatch(r"\w+/[\w/]+\.py", code):
            assert (ROOT / code).exists() or (source / code).exists(), f"{page}: {code}"


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_links_outside_the_site_lead_somewhere() -> None:
    """Those between the pages of the site fail its build."""
    for path in (path for path in PAGES if "docs" not in path.relative_to(ROOT).parts):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{path}: {link}"
