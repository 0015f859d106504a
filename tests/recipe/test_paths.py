"""Paths of a recipe: the home folder, addresses, and documents that are larger than they look."""

import json
from pathlib import Path

import pytest

from burnish.data.readers.read_rows import read_rows
from burnish.errors import DataError, RecipeError
from burnish.recipe.files import whole_files
from burnish.recipe.schema import Recipe, build_recipe, load_recipe
from burnish.runs.directory import RunDirectory
from tests.refused import refused

HOME = "data: {train: ~/a.jsonl, validation: ~/b.jsonl, test: c.jsonl}\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def built(**data: object) -> Recipe:
    return build_recipe({"data": data}, recipe_keys=set(), command_keys=set())


def test_the_home_folder(tmp_path: Path, home: Path) -> None:
    path = home / "x" / "recipe.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        HOME
        + "output: ~/runs\ninit_from: ~/runs/one\nreplay: {data: ~/r.jsonl}\n"
        + "grpo: {reward: ~/grader.json}\nevaluate: {general: [core, ~/suite.jsonl]}\n"
    )
    recipe = load_recipe("~/x/recipe.yaml", {"tasks.b.train": "~/t.jsonl"})
    assert (recipe.data.train, recipe.data.validation) == (home / "a.jsonl", home / "b.jsonl")
    assert recipe.data.test == path.parent / "c.jsonl"
    assert recipe.tasks["b"].train == home / "t.jsonl"
    assert (recipe.output, recipe.init_from) == (home / "runs", home / "runs" / "one")
    assert (recipe.replay.data, recipe.grpo.reward) == (home / "r.jsonl", f"{home}/grader.json")
    assert recipe.evaluate.general == ("core", f"{home}/suite.jsonl")
    assert RunDirectory("~/runs/one").path == home / "runs" / "one"
    assert whole_files({"data": {"train": "~/a"}}, tmp_path)["data"]["train"] == f"{home}/a"


def test_rows_in_the_home_folder(home: Path) -> None:
    home.mkdir()
    (home / "a.jsonl").write_text('{"a": 1}\n')
    assert [row.source for row in read_rows(Path("~/a.jsonl"))] == [f"{home}/a.jsonl:1"]
    assert str(built(train="~nobody-of-that-name/a").data.train) == "~nobody-of-that-name/a"


@pytest.mark.parametrize(
    "address",
    [
        *("https://host/rows.jsonl", "http://host/a", "s3://bucket/a.jsonl", "gs://b/a"),
        *("hf://datasets/a/b", "HTTPS://host/a", "ftp://host/a", "file:///data/a.jsonl"),
    ],
)
def test_an_address_is_no_path(tmp_path: Path, address: str) -> None:
    path = tmp_path / "recipe.yaml"
    for key in ("train", "validation", "test"):
        values = {"train": "rows.jsonl", key: address}
        path.write_text(f"data: {values}\n")
        with refused("not_a_path", RecipeError, key=f"data.{key}", value=address) as caught:
            load_recipe(path)
        assert address in str(caught.value)
    with refused("not_a_path", DataError, path=str(Path(address))):
        read_rows(Path(address))


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for n in range(1, levels):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]")
    return "\n".join([*lines, f"data: {{train: *a{levels - 1}}}"])


@pytest.mark.parametrize("levels", [2, 4, 6, 9, 40])
def test_aliases_make_no_long_message(tmp_path: Path, levels: int) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(bomb(levels))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert len(str(caught.value)) < 3000
    assert (caught.value.code == "too_many_values") is (levels > 5)


@pytest.mark.parametrize(
    ("text", "code", "fields"),
    [
        ("data: &a {train: *a}", "recursive_alias", {}),
        ("data: " + "[" * 5000, "nested_too_deeply", {}),
        ("data: {train: a, limit: " + "1" * 5000 + "}", "not_yaml", {}),
        ("data: {train: 2024-13-45}", "not_yaml", {}),
        ("data: {train: " + "x" * 100_000 + ": y", "not_yaml", {}),
        ("data: {train: [" + "x" * 100_000 + "]}", "wrong_type", {"key": "data.train"}),
        ("data:\n  train: a\n  ? " + "k" * 100_000 + "\n  : 1", "unknown_key", {"closest": None}),
        ("training: {epochs: " + "x" * 100_000 + "}", "recipe_problems", {}),
        ("name: a/" + "x" * 100_000 + "\ndata: {train: a}", "bad_name", {"key": "name"}),
    ],
)
def test_a_quoted_value_is_cut(
    tmp_path: Path, text: str, code: str, fields: dict[str, object]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with refused(code, RecipeError, **fields) as caught:
        load_recipe(path)
    assert len(json.dumps(caught.value.fields)) < 3000
    assert len(str(caught.value)) < 1000


def test_aliases_are_of_use(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: &rows {train: a.jsonl}\ntasks: {b: {<<: *rows, limit: 4}, c: *rows}\n")
    assert load_recipe(path).tasks["b"].limit == 4
