"""Plans from configurations alone, against what others publish; `gpu_figures` has both."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from burnish import cli
from burnish.pipeline import verbs
from burnish.plan.from_config import configuration_of, plan_configuration
from burnish.recipe.schema import Recipe
from tests.plan.gpu_figures import CONFIGURATIONS, FIGURES, Figure
from tests.refused import refused
from tests.rows import labelled, write_rows

PAGE = Path(__file__).parents[2] / "docs" / "figures" / "gpu.md"
GIB = 2**30


def planned(folder: Path, figure: Figure) -> float:
    """The plan of a figure's settings in GiB, without the memory of CUDA itself."""
    (folder / "config.json").write_text(json.dumps(CONFIGURATIONS[figure.model]))
    values: dict[str, Any] = {
        "data": {"train": "rows.jsonl"},
        "method": figure.method,
        "lora": figure.lora,
        "training": {
            "batch_size": figure.batch,
            "max_length": figure.length,
        },
    }
    source = configuration_of(str(folder))
    assert source is not None
    plan = plan_configuration(Recipe.model_validate(values), source, {"train": 100}, None)
    total = plan.checkpointed if figure.checkpointing else plan.memory.total
    return (total - plan.memory.program) / GIB


# Two of the figures, one with 4-bit weights; the page has all.
@pytest.mark.parametrize("figure", [FIGURES[0], FIGURES[2]], ids=lambda f: f"{f.model}-{f.method}")
def test_plan_agrees_with_a_published_figure(figure: Figure, tmp_path: Path) -> None:
    assert planned(tmp_path, figure) == pytest.approx(figure.peak, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f"{f.model}-{f.method}-{f.source}")
def test_page_shows_what_is_planned(figure: Figure, tmp_path: Path) -> None:
    size = planned(tmp_path, figure)
    away = size / figure.peak - 1
    assert (abs(away) <= 0.155) is figure.agrees
    cells = f"| {figure.peak:g} | {size:.1f} | {round(100 * away):+d} % |"
    assert cells in PAGE.read_text(encoding="utf-8"), cells


@pytest.fixture
def bare(tmp_path: Path, tiny_folder: Path) -> Path:
    """A folder with the tiny model's configuration alone."""
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    return folder


@pytest.fixture
def recipe(tmp_path: Path, bare: Path) -> Path:
    write_rows(tmp_path / "rows.jsonl", labelled(40))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: tiny\nmodel: {bare}\ndata: {{train: rows.jsonl, system: Say red or green}}\n"
        "training: {epochs: 2, batch_size: 4, max_length: 100}\nevaluate: {general: null}\n"
    )
    return path


def test_a_configuration_is_enough(recipe: Path, tiny_folder: Path) -> None:
    plan = verbs.plan(recipe, device="cuda", quiet=True)
    assert plan.seconds is None
    assert not plan.checkpointing
    # Without a tokenizer every row counts with all its tokens.
    assert plan.tokens == 2 * plan.rows["train"] * 100
    assert plan.steps == -(-2 * plan.rows["train"] // 4)
    base = AutoModelForCausalLM.from_pretrained(tiny_folder).num_parameters()
    learning = plan.memory.gradients // 4
    assert plan.memory.weights == 2 * base + 4 * learning


def test_a_tokenizer_beside_it_counts_the_rows(
    recipe: Path, bare: Path, tiny_tokenizer: Any, tiny_folder: Path
) -> None:
    tiny_tokenizer.save_pretrained(bare)
    counted = verbs.plan(recipe, device="cuda", quiet=True)
    whole = verbs.plan(recipe, device="cuda", quiet=True, model=str(tiny_folder))
    assert counted.tokens == whole.tokens
    assert counted.steps == whole.steps
    assert counted.memory.weights == whole.memory.weights
    assert counted.memory.activations == pytest.approx(whole.memory.activations, rel=0.01)


def test_the_verb_prints_both_ways(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["plan", str(recipe), "--device", "cuda", "--json"])
    plan = json.loads(capsys.readouterr().out)
    assert plan["checkpointed"] < plan["memory"]["total"]


def test_what_is_not_a_language_model_is_refused(recipe: Path, bare: Path) -> None:
    source = configuration_of(str(bare))
    assert source is not None
    classify = Recipe.model_validate({"data": {"train": "rows"}, "objective": "classify"})
    with refused("weights_needed", objective="classify"):
        plan_configuration(classify, source, {"train": 8}, None)
    (bare / "config.json").write_text('{"model_type": "nothing-known"}')
    with refused("not_a_language_model", model=str(bare)):
        verbs.plan(recipe, device="cuda", quiet=True)
