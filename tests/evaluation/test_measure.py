"""What of a recipe's budgets the suite can judge."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from burnish.certification.budgets import Budgets
from burnish.certification.run_ledger import (
    budgets_of,
    check_budgets,
    leakage_warnings,
    suite_sizes,
)
from burnish.data.readers.read_rows import Row
from burnish.data.recognise import Converter
from burnish.errors import DataError, RecipeError
from burnish.evaluation.measure import measure, target_task
from burnish.evaluation.suite import load_suite
from burnish.models.load import load_model
from burnish.progress import Bars
from burnish.recipe.schema import changed_recipe, load_recipe
from burnish.runs.directory import LedgerRow, Manifest, RunDirectory
from burnish.runs.overlaps import ComparedSet, Leakage
from tests.refused import refused


def test_what_is_left_out_flatters_nobody() -> None:
    """A section is left out with both of its halves, whichever of them was learnt."""
    names = ("core-probe.facts", "core-cert.facts", "core-probe.prose", "test")
    leakage = Leakage((), tuple(ComparedSet(name, 9, "", 2) for name in names), ())
    out = LedgerRow("core-cert.facts", "section", "accuracy", 9, 1, 1, 0, 0, 0, excluded="learnt")
    said = [
        f"2 items of {name} were in the training data, so its score may be too high."
        for name in names[2:]
    ]
    assert leakage_warnings(leakage, [out]) == said


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = [
        {"question": f"Parcel {i} is", "choices": [" here", " torn"], "answer": 0} for i in range(8)
    ]
    (tmp_path / "own.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, rows[0]]))
    file = tmp_path / "recipe.yaml"
    file.write_text("data: {train: rows.jsonl}\n")
    return file


def test_every_budget_of_the_recipe_is_handed_on(path: Path) -> None:
    given = {"general": 1, "section": 9, "text_loss": 3, "bias": 4, "refusal": 5, "confidence": 0.9}
    assert budgets_of(load_recipe(path, {"budget": given})) == Budgets(1, 9, 3, 4, 5, 0.9)


def test_sizes_are_those_of_the_suite(path: Path) -> None:
    core = load_suite("core")
    sizes = suite_sizes(core)
    assert sum(sizes.sections.values()) == sum(len(section) for section in core.sections)
    assert sizes.texts == sum(len(text) for text in core.texts)
    assert sizes.refusal == sizes.sections["core.refusal"] + sizes.sections["core.declining"]
    assert sizes.bias == sum(len(pairs) for pairs in core.bias)
    own = suite_sizes(load_suite(str(path.with_name("own.jsonl"))))
    assert (own.sections, own.texts, own.refusal) == ({"own": 8}, None, None)


@pytest.mark.parametrize("kind", [{"choices": [" a", " b"], "answer": 0}, {"check": {"lines": 1}}])
def test_an_item_that_is_too_long_is_named(
    kind: dict[str, Any], tmp_path: Path, tiny_folder: Path
) -> None:
    rows = [kind | {"id": f"{n}", "question": "Why " + "oh why " * n} for n in (1, 700, 2)]
    (tmp_path / "own.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (task,) = load_suite(str(tmp_path / "own.jsonl")).tasks
    directory = RunDirectory.create(tmp_path / "run", Manifest("run", "trained", {}, {}))
    model = load_model(str(tiny_folder), "cpu")
    with refused("too_many_tokens", DataError, item="700", task="own") as error:
        measure(directory, model, "tuned", [task], Bars(quiet=True))
    assert "'Why oh why " in error.value.seen
    assert error.value.fields["tokens"] > error.value.fields["limit"] == model.context_length


@pytest.mark.parametrize("key", ["budget.section", "budget.refusal", "heal.minutes"])
def test_what_judges_is_not_idle_without_a_suite(key: str, path: Path) -> None:
    none = {"evaluate.general": None}
    check_budgets(load_recipe(path, none), [])
    with refused("no_suite_for_budget", RecipeError, key=key, value=5, objective="sft"):
        check_budgets(load_recipe(path, none | {key: 5}), [])
    with refused("no_suite_for_budget", RecipeError, key=key, objective="classify"):
        check_budgets(load_recipe(path, {"objective": "classify", key: 5}), [])
    attempt = changed_recipe(load_recipe(path, {key: 5}), none)
    check_budgets(attempt, [])  # what it tries is judged by the run's own suites


def test_a_budget_that_was_asked_for_needs_items(path: Path) -> None:
    own = load_suite(str(path.with_name("own.jsonl")))
    check_budgets(load_recipe(path), [own])  # text loss stands by default
    check_budgets(load_recipe(path, {"budget.text_loss": None}), [own])
    with refused("no_items_for_budget", RecipeError, key="budget.refusal", value=5, suites=["own"]):
        check_budgets(load_recipe(path, {"budget.refusal": 5}), [own])
    check_budgets(load_recipe(path, {"budget.refusal": 5}), [own, load_suite("core")])


def test_a_limit_draws_rows_by_seed_whatever_they_are_called(path: Path) -> None:
    names = [f"{'early' if i < 50 else 'late'}-{i:03d}" for i in range(100)]
    rows = [{"id": name, "prompt": name, "completion": name.split("-")[0]} for name in names]

    class Tested:
        def split(self, *_: str) -> list[Any]:
            return [Converter({}).convert(Row(row, "rows.jsonl:1")) for row in rows]

    def drawn(seed: int) -> list[str]:
        recipe = load_recipe(path, {"evaluate.limit": 40, "seed": seed})
        model = SimpleNamespace(tokenizer=None)
        return [e.id for e in target_task(recipe, Tested(), model).items]  # type: ignore

    assert drawn(1) == drawn(1) != drawn(2)
    assert 10 < sum(name.startswith("early") for name in drawn(1)) < 30
