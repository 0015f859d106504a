"""Values of the command line: what is text stays text."""

from typing import Any

import pytest

from burnish.cli.options import overrides
from burnish.errors import RecipeError
from burnish.recipe.schema import build_recipe
from tests.refused import refused

SYSTEM = ["a: b", "yes", "1e3", "[a]", "{a", "- a", "# a", "123", "true", "a=b", "*a", "né ", "&a"]


@pytest.mark.parametrize("text", SYSTEM)
@pytest.mark.parametrize(
    "key", ["data.system", "data.group_by", "tasks.a.system", "data.columns.text"]
)
def test_text_stays_text(key: str, text: str) -> None:
    assert overrides([f"{key}={text}"], None, None, False) == {key: text}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("data.system=null", None),
        ("data.system='null'", "null"),
        ('data.system="a: b"', "a: b"),
        ("model=null", "null"),
        ("data.test=~", None),
        ("data.columns={text: body}", {"text": "body"}),
        ("training.epochs=2", 2),
        ("training.learning_rate=auto", "auto"),
        ("replay.rows=64", 64),
        ("evaluate.general=[core, own.jsonl]", ["core", "own.jsonl"]),
        ("evaluate.general=null", None),
        ("sweep.space.lora.rank=[8, 16]", [8, 16]),
        ("classify.weights.a=2", 2),
        ("no.such.key=[1]", [1]),
    ],
)
def test_other_values_are_yaml(setting: str, value: Any) -> None:
    assert list(overrides([setting], None, None, False).values()) == [value]


def test_a_long_setting_without_a_value_is_cut() -> None:
    with refused("no_value", RecipeError) as caught:
        overrides(["x" * 100_000], None, None, False)
    assert len(str(caught.value)) < 400


def test_text_reaches_the_recipe() -> None:
    values = overrides(["data.system=a: b"], None, None, False)
    nested = {"data": {"train": "rows.jsonl", "system": values["data.system"]}}
    assert build_recipe(nested, recipe_keys=set(), command_keys=set()).data.system == "a: b"
