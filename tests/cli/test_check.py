"""`burnish check` tries what a finding advises, and prints the command that keeps it."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from burnish.cli import main
from burnish.cli.check import _columns, _next, _setting
from burnish.cli.options import overrides
from burnish.data.load import load
from burnish.errors import DataError, RecipeError
from burnish.recipe.data import Data
from burnish.recipe.schema import load_recipe
from tests.refused import refused
from tests.rows import write_rows

ROWS = [{"text": f"message {n}", "category": "ab"[n % 2]} for n in range(60)]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    return tmp_path / "rows.jsonl"


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    main(["check", *arguments, "--json"])
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


@pytest.mark.parametrize(
    "columns", [["label=category"], ["label=category,text=text"], ["{label: category}"]]
)
def test_columns_of_a_file(
    rows: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str], columns: list[str]
) -> None:
    named = [word for one in columns for word in ("--columns", one)]
    said = checked(capsys, str(rows), "--model", str(tiny_folder), *named)
    assert "balance" in {finding["kind"] for finding in said["findings"]}
    assert said["rows"] == {"train": 39, "validation": 6, "test": 15}
    assert "label: category" in said["next"]
    assert f"model: {tiny_folder}" in said["next"]


def test_a_recipe_with_choices_of_the_command_line(
    rows: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    others = [{"text": f"t {n}", "label": "xy"[n % 2]} for n in range(40)]
    write_rows(tmp_path / "other.jsonl", others)
    recipe.write_text(
        f"model: {tiny_folder}\ndata: {{train: rows.jsonl}}\n"
        "tasks: {other: {train: other.jsonl}}\n"
    )
    choices = ["--columns", "label=category", "--system", 'null: "x"', "--set", "seed=3"]
    said = checked(capsys, str(recipe), *choices, "--drop-bad")
    assert said["rows"]["train"] == 39
    assert said["others"]["other"]["rows"]["test"] == 10
    command = shlex.split(said["next"])
    assert command[:3] == ["burnish", "run", str(recipe)]
    given = [one.removeprefix("--set=") for one in command[3:] if one.startswith("--set=")]
    again = load_recipe(recipe, overrides(given, None, None, "--drop-bad" in command))
    assert (again.data.system, again.seed, again.data.drop_bad) == ('null: "x"', 3, True)
    assert again.data.columns == {"label": "category"}
    main(["check", str(recipe), *choices, "--show", "1"])
    shown = " ".join(capsys.readouterr().out.split())
    assert 'null: "x"' in shown
    assert " other " in shown


def test_stages_of_a_recipe(
    rows: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {tiny_folder}\ndata: {{train: rows.jsonl, columns: {{label: category}}}}\n"
        "stages: [{name: one}, {name: two, data: {limit: 40}}]\n"
    )
    said = checked(capsys, str(recipe))
    assert sum(said["rows"].values()) == 60
    (other,) = said["others"].values()
    assert sum(other["rows"].values()) == 40
    assert "limit" in {finding["kind"] for finding in other["findings"]}


@pytest.mark.parametrize("text", ["label", "=category", "label=", "{label", "[a]"])
def test_columns_that_name_nothing(text: str) -> None:
    with refused("bad_option", RecipeError, option="--columns", value=text):
        _columns([text])


def test_columns_may_hold_any_sign() -> None:
    assert _columns(["label=Kind, of row", "text=a=b,prompt= c"]) == {
        "data.columns.label": "Kind, of row",
        "data.columns.text": "a=b",
        "data.columns.prompt": " c",
    }


@pytest.mark.parametrize(
    "text", ["null", "~", "'a'", '"a"', "yes", "a: b", "1e3", "é\n\u202e", "", " x ", "$HOME `x`"]
)
def test_the_next_command_sets_the_same_text(text: str) -> None:
    command = shlex.split(_next("recipe.yaml", {"data.system": text}))
    (setting,) = (one.removeprefix("--set=") for one in command[3:])
    assert overrides([setting], None, None, False) == {"data.system": text}
    assert _setting("seed", 3) == "seed=3"


TOOLS = [
    {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}},
    {"name": "bare", "parameters": {"type": "object", "properties": {}}},
]


@pytest.mark.parametrize("content", [TOOLS, {"tools": TOOLS}, TOOLS[0]])
def test_tools_are_offered_in_rows_without_their_own(tmp_path: Path, content: object) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    own = [{"type": "function", "function": {"name": "own"}}]
    mixed = [{"messages": [{**turns[0], "content": f"q{n}"}, turns[1]]} for n in range(20)]
    write_rows(tmp_path / "rows.jsonl", [*mixed, {"messages": turns, "tools": own}])
    (tmp_path / "tools.json").write_text(json.dumps(content))
    data = Data(train=tmp_path / "rows.jsonl", tools=tmp_path / "tools.json")
    found = load(data, 0)
    offered = [e.messages[0].tools for e in (*found.train, *found.validation, *found.test)]
    assert sum('"own"' in tools for tools in offered) == 1
    assert sum('"find"' in tools for tools in offered) == 20
    assert str(tmp_path / "tools.json") in found.sha256


@pytest.mark.parametrize(
    ("content", "code", "fields"),
    [
        (None, "file_unreadable", {"reason": "No such file or directory"}),
        ("{", "not_json", {}),
        ("[]", "no_tools", {}),
        ('["x"]', "missing_key", {"field": "tools[0].function"}),
        ('{"a": 1}', "missing_key", {"field": "tools[0].function"}),
        ("3", "wrong_type", {"field": "tools"}),
        (
            '[{"type": "function", "function": {}}]',
            "wrong_type",
            {"field": "tools[0].function.name"},
        ),
    ],
)
def test_a_file_that_holds_no_tools(
    tmp_path: Path, rows: Path, content: str | None, code: str, fields: dict[str, Any]
) -> None:
    if content is not None:
        (tmp_path / "tools.json").write_text(content)
    with refused(code, DataError, path=str(tmp_path / "tools.json"), **fields):
        load(Data(train=rows, tools=tmp_path / "tools.json"), 0)


def test_answers_that_a_model_without_a_template_could_not_give(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_folder, bare)
    (bare / "chat_template.jinja").unlink()
    turns = [
        {"messages": [{"role": "user", "content": f"t {n}"}, {"role": "assistant", "content": a}]}
        for n, a in enumerate(["yes", "no\nuser: none"] * 20)
    ]
    rows = write_rows(tmp_path / "turns.jsonl", turns)
    for model, count in ((tiny_folder, []), (bare, [20])):
        said = checked(capsys, str(rows), "--model", str(model))
        counts = [f["count"] for f in said["findings"] if f["kind"] == "speaker"]
        assert counts == count
