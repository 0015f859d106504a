"""Keys by the names of other tools."""

import pytest

from burnish.errors import RecipeError
from burnish.recipe.key_hints import _OURS, meant_key
from burnish.recipe.schema import build_recipe, known_keys
from tests.refused import refused


def test_every_hint_is_a_key_and_no_name_means_two() -> None:
    assert set(_OURS) <= set(known_keys())
    names = [name for names in _OURS.values() for name in names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("training.lr", "training.learning_rate"),
        ("lr", "training.learning_rate"),
        ("learning_rate", "training.learning_rate"),
        ("lora.lr", "training.learning_rate"),
        ("training.num_train_epochs", "training.epochs"),
        ("training.per_device_train_batch_size", "training.batch_size"),
        ("training.lora_r", "lora.rank"),
        ("lora.r", "lora.rank"),
        ("lora_alpha", "lora.alpha"),
        ("data.cutoff_len", "training.max_length"),
        ("training.max-seq-length", "training.max_length"),
        ("model_name_or_path", "model"),
        ("data.val", "data.validation"),
        ("training.epoch", "training.epochs"),
    ],
)
def test_the_message_names_our_key(key: str, ours: str) -> None:
    section, _, name = key.rpartition(".")
    values: dict[str, object] = {"data": {"train": "rows.jsonl"}}
    part = values.setdefault(section, {}) if section else values
    assert isinstance(part, dict)
    part[name] = 1
    with refused("unknown_key", RecipeError, key=key, closest=ours) as caught:
        build_recipe(values, recipe_keys=set(), command_keys=set())
    assert key in str(caught.value)
    assert ours in str(caught.value)


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("training.epochz", "training.epochs"),
        ("training.lora_dropout", "lora.dropout"),
        ("training.lr_scheduler_type", "training.lr_scheduler"),
        ("lora.lora_target_modules", "lora.target_modules"),
        ("trainin.epochs", "training.epochs"),
        ("load_in_4bit", "method"),
        ("training.bf16", None),
        ("training.packing", None),
        ("training.optim", None),
        ("training.gradient_checkpointing", None),
    ],
)
def test_no_hint_is_better_than_a_wrong_one(key: str, ours: str | None) -> None:
    assert meant_key(key, known_keys()) == ours


@pytest.mark.parametrize(
    ("given", "code", "key", "value", "expected"),
    [
        ({"evaluate": {"general": []}}, "too_few_values", "evaluate.general", "[]", "list"),
        ({"training": {"epochs": "x"}}, "wrong_type", "training.epochs", "x", "number"),
        ({"lora": {"rank": 1.5}}, "wrong_type", "lora.rank", 1.5, "whole number"),
        ({"model": ["a"]}, "wrong_type", "model", "['a']", "text"),
        (
            {"training": {"preflight": "maybe"}},
            *("wrong_type", "training.preflight", "maybe", "true or false"),
        ),
    ],
)
def test_what_a_value_should_be_is_plain(
    given: dict[str, object], code: str, key: str, value: object, expected: str
) -> None:
    values = {"data": {"train": "rows.jsonl"}} | given
    with refused(code, RecipeError, key=key, value=value, expected=expected) as caught:
        build_recipe(values, recipe_keys=set(), command_keys=set())
    assert str(value) in str(caught.value)
