"""The recipe: strict, every value with its origin."""

import re
from pathlib import Path

import pytest

from burnish.errors import RecipeError
from burnish.recipe.schema import explain, known_keys, load_recipe, restore_recipe
from tests.refused import refused

WRITTEN = "data: {train: rows.jsonl}\ntraining: {epochs: 2}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(WRITTEN)
    return file


def test_origins(path: Path) -> None:
    origins = load_recipe(path, {"training": {"batch_size": 4}, "seed": 3}).origins
    assert origins["training.epochs"] == "recipe"
    assert origins["training.batch_size"] == "command line"
    assert origins["seed"] == "command line"
    assert origins["model"] == "default"
    assert origins["name"] == "derived"


def test_restored_with_its_origins(path: Path) -> None:
    recipe = load_recipe(path, {"seed": 3})
    again = restore_recipe(recipe.model_dump(mode="json"), recipe.origins)
    assert again == recipe
    assert again.origins == recipe.origins


def test_explain_shows_every_key(path: Path) -> None:
    shown = {key for key, _, _ in explain(load_recipe(path))}
    leaves = {k for k in known_keys() if not any(o.startswith(k + ".") for o in known_keys())}
    assert shown == leaves


def test_data_paths_are_taken_from_the_recipe(path: Path) -> None:
    assert load_recipe(path).data.train == path.parent / "rows.jsonl"
    assert load_recipe(path, {"data.train": "here.jsonl"}).data.train == Path("here.jsonl")


def test_it_is_frozen(path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_recipe(path).seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "code", "fields", "shown"),
    [
        ("", "no_keys", {}, "mine.yaml"),
        ("data: [", "not_yaml", {}, "mine.yaml"),
        ("model: x", "missing_key", {"key": "data"}, "data"),
        (
            WRITTEN + "budget: {general: 1}\nseed: 1\nbudget: {confidence: 0.9}\n",
            *("duplicate_key", {}, r"key budget .*line 3.*line 5\)"),
        ),
        (
            "data: {train: a.jsonl, train: b.jsonl}\n",
            *("duplicate_key", {}, "key train .*line 1.*line 1"),
        ),
        (WRITTEN + "budjet: 1\n", "unknown_key", {"key": "budjet", "closest": "budget"}, "budget"),
        (WRITTEN + "seed: -1\n", "out_of_range", {"key": "seed", "value": -1}, "-1"),
        (
            WRITTEN + "method: lorra\n",
            *("unknown_choice", {"key": "method", "value": "lorra"}, "'lorra'.*'lora'"),
        ),
        (
            WRITTEN + "budget: {text_loss: 0}\n",
            *("out_of_range", {"key": "budget.text_loss", "value": 0}, "0"),
        ),
        (
            WRITTEN + "budget: {confidence: 1}\n",
            *("out_of_range", {"key": "budget.confidence", "value": 1}, "1"),
        ),
        (
            "data: mine.jsonl\n",
            *("wrong_type", {"key": "data", "expected": "keys"}, "'mine.jsonl'.*{key: value}"),
        ),
        (
            WRITTEN + "stages: {name: a}\n",
            *(
                "wrong_type",
                {"key": "stages", "expected": "list"},
                r"\{'name': 'a'\}.*\[one, two\]",
            ),
        ),
        (
            WRITTEN + "output: 3\n",
            *("wrong_type", {"key": "output", "value": 3, "expected": "path"}, "3"),
        ),
        (
            WRITTEN + "classify: {weights: [red]}\n",
            *(
                "unknown_choice",
                {"key": "classify.weights"},
                r"\['red'\].*'none' or 'balanced', or ",
            ),
        ),
        (
            WRITTEN + "classify: {weights: {red: 0}}\n",
            *("recipe_problems", {}, r"classify\.weights\.red is 0"),
        ),
        (
            WRITTEN + "budget: {sections: 5}\n",
            *("unknown_key", {"key": "budget.sections", "closest": "budget.section"}, "section"),
        ),
    ],
)
def test_problems_are_sentences(
    text: str, code: str, fields: dict[str, object], shown: str, path: Path
) -> None:
    path.write_text(text)
    with refused(code, RecipeError, **fields) as caught:
        load_recipe(path)
    assert re.search(shown, str(caught.value))


@pytest.mark.parametrize("name", ["../esc", "/tmp/x", "a/b", "a/", "..", "a\nb"])
def test_a_name_that_leaves_its_folder_is_refused(name: str, path: Path) -> None:
    with refused("bad_name", RecipeError, key="name", value=name) as caught:
        load_recipe(path, {"name": name})
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["one", "my run (2)", "läuft-v1.0_b"])
def test_a_name_is_what_a_folder_may_be_called(name: str, path: Path) -> None:
    assert load_recipe(path, {"name": name}).name == name


def test_a_key_that_was_merged_in_may_be_set_again(path: Path) -> None:
    path.write_text("data: &rows {train: a.jsonl, limit: 3}\ntasks: {b: {<<: *rows, limit: 4}}\n")
    assert load_recipe(path).tasks["b"].limit == 4


def test_a_missing_recipe_has_a_hint(path: Path) -> None:
    other = path.with_name("mine.yml")
    with refused("file_missing", RecipeError, path=str(other), closest=str(path)) as caught:
        load_recipe(other)
    assert str(path) in str(caught.value)
    other = path.with_name("refine.yaml")
    with refused("file_missing", RecipeError, path=str(other), closest=None) as caught:
        load_recipe(other)
    assert str(other) in str(caught.value)


def test_a_recipe_in_another_encoding_is_named(path: Path) -> None:
    path.write_text(WRITTEN + "name: caf\xe9\n", encoding="utf-16")
    with refused("not_utf8", RecipeError, path=str(path)) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


def test_a_budget_of_null_is_not_certified(path: Path) -> None:
    assert load_recipe(path).budget.model_dump() == {
        "general": 2.0,
        "suites": {},
        "section": None,
        "text_loss": 10.0,
        "bias": None,
        "refusal": None,
        "earlier": 10.0,
        "confidence": 0.95,
    }
    path.write_text(WRITTEN + "budget: {text_loss: null, refusal: 8}\n")
    budget = load_recipe(path).budget
    assert (budget.text_loss, budget.refusal) == (None, 8.0)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("core", ("core",)),
        ("my.jsonl", ("{folder}/my.jsonl",)),
        (
            "[core, my.jsonl, 'lm_eval:arc_easy', 'lm_eval:my/own.yaml', /my.jsonl]",
            (
                "core",
                "{folder}/my.jsonl",
                "lm_eval:arc_easy",
                "lm_eval:{folder}/my/own.yaml",
                "/my.jsonl",
            ),
        ),
        ("null", None),
    ],
)
def test_general_suites_are_one_or_several(
    written: str, read: tuple[str, ...] | None, path: Path
) -> None:
    path.write_text(f"data: {{train: a.jsonl}}\nevaluate: {{general: {written}}}\n")
    whole = read and tuple(name.format(folder=path.parent) for name in read)
    assert load_recipe(path).evaluate.general == whole


def test_suites_are_taken_from_the_recipe_and_runs_from_where_one_stands(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path.write_text(
        WRITTEN + "init_from: runs/first\nevaluate: {general: my.jsonl}\n"
        "stages: [{name: a, data: {train: a.jsonl}, evaluate: {general: [core, a.jsonl]}}]\n"
    )
    recipe = load_recipe("../mine.yaml")
    assert recipe.init_from == tmp_path / "elsewhere/runs/first"
    assert recipe.evaluate.general == (str(tmp_path / "elsewhere/../my.jsonl"),)
    assert recipe.stages[0]["data"] == {"train": "../a.jsonl"}
    assert recipe.stages[0]["evaluate"] == {"general": ["core", "../a.jsonl"]}
    given = {"init_from": "first", "evaluate.general": ["core", "own.jsonl"]}
    recipe = load_recipe("../mine.yaml", given)
    assert recipe.init_from == tmp_path / "elsewhere/first"
    assert recipe.evaluate.general == ("core", str(tmp_path / "elsewhere/own.jsonl"))
