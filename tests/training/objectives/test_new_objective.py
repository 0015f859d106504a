"""An objective is one class: the recipe, the data, training and judging learn of it from there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import burnish
from burnish.conversation import Example
from burnish.errors import RecipeError
from burnish.models.branches import Network, Row, branch_states
from burnish.recipe.objectives import SETTINGS
from burnish.recipe.schema import explain, recipe_of_rows, restore_recipe
from burnish.training.objectives import OBJECTIVES
from burnish.training.objectives.base import Loss, Objective, rows_of
from tests.refused import refused
from tests.rows import labelled, write_rows


@pytest.fixture(autouse=True)
def focal() -> Iterator[type[Objective[Row]]]:
    """Gone after each test, so that no other test sees its keys."""

    @dataclass(frozen=True)
    class Focal(Objective[Row], name="focal"):
        """Cross-entropy in which likely tokens count less (Lin et al. 2017, arXiv 1708.02002)."""

        gamma: float = 2.0

        can_shard = True
        learning_rate_share = 0.5

        def items(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Row]:
            return rows_of(examples, tokenizer, max_length)

        def units(self, items: Sequence[Row]) -> float:
            return float(sum(sum(row.weights) for row in items))

        def loss(self, network: Network, items: Sequence[Row]) -> Loss:
            states = branch_states(network, items)
            logprobs_N = network.logprobs(states.hidden_N_H, states.targets_N)
            losses_N = -((1 - logprobs_N.exp()) ** self.gamma) * logprobs_N
            return Loss((losses_N * states.weights_N).sum())

    yield Focal
    del OBJECTIVES["focal"], SETTINGS["focal"]


def test_a_run_learns_by_it_and_is_judged(tiny_folder: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", labelled(48))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {tiny_folder}\ndata: {{train: {rows}}}\nobjective: focal\nfocal: {{gamma: 1}}\n"
        "training: {epochs: 4, learning_rate: 0.02, preflight: false}\n"
        f"evaluate: {{general: null}}\noutput: {tmp_path / 'runs'}\n"
    )
    run = burnish.run(recipe, quiet=True)
    losses = [event["loss"] for event in run.events("train")]
    assert losses[-1] < losses[0] / 2
    assert run.manifest().recipe["focal"] == {"gamma": 1.0}
    assert run.ledger()[0].task == "target"
    assert (run.path / "report.html").exists()
    assert (run.path / "card.md").exists()


def test_the_recipe_has_its_section(focal: type[Objective[Row]]) -> None:
    recipe = recipe_of_rows("rows.jsonl", {"objective": "focal", "focal.gamma": "3"})
    assert ("focal.gamma", 3.0, "command line") in explain(recipe)
    assert (recipe.objective_settings.can_shard, recipe.objective_settings.can_anchor) == (
        True,
        False,
    )
    assert focal.from_recipe(recipe, None).gamma == 3.0  # type: ignore[attr-defined]
    assert restore_recipe(recipe.model_dump(mode="json"), recipe.origins) == recipe
    with refused("unknown_key", RecipeError, key="focal.gama", closest="focal.gamma"):
        recipe_of_rows("rows.jsonl", {"objective": "focal", "focal.gama": 3})
    with refused("wrong_type", RecipeError, key="focal.gamma"):
        recipe_of_rows("rows.jsonl", {"objective": "focal", "focal.gamma": "much"})


def test_another_objective_has_no_such_section() -> None:
    with refused("unknown_key", RecipeError, key="focal"):
        recipe_of_rows("rows.jsonl", {"focal.gamma": 3})


@pytest.mark.parametrize("value", ["focl", ["sft"], None, 3])
def test_an_unknown_objective_is_refused_with_the_names(value: Any) -> None:
    with pytest.raises(RecipeError) as error:
        recipe_of_rows("rows.jsonl", {"objective": value})
    if isinstance(value, str):
        assert error.value.code == "unknown_choice"
        assert "'sft'" in str(error.value)
        assert "'focal'" in str(error.value)


def test_every_objective_has_settings_of_its_name() -> None:
    assert set(OBJECTIVES) == set(SETTINGS)
