"""The model card: its front matter is YAML, its numbers are the run's, its snippet is Python."""

import ast
import re
from dataclasses import replace
from typing import Any

import pytest
import yaml

from burnish.reports.model_card import cell, write_card
from burnish.runs.directory import RunDirectory

from .conftest import RECIPE


def card_of(run: RunDirectory) -> str:
    return write_card(run).read_text(encoding="utf-8")


def front_of(card: str) -> dict[str, Any]:
    front: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return front


def with_recipe(run: RunDirectory, **values: Any) -> RunDirectory:
    run.write_manifest(replace(run.manifest(), recipe=RECIPE | values))
    return run


def test_front_matter_parses(certified: RunDirectory) -> None:
    assert front_of(card_of(certified)) == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["burnish", "sft", "lora"],
    }


@pytest.mark.parametrize(
    ("model", "named"), [("hf:org/name", "org/name"), ("./my: folder", "./my: folder")]
)
def test_base_model_of_other_sources(certified: RunDirectory, model: str, named: str) -> None:
    assert front_of(card_of(with_recipe(certified, model=model)))["base_model"] == named


def test_verdict_and_ledger_are_the_runs(certified: RunDirectory) -> None:
    card = card_of(certified)
    assert "**release**, at 95% confidence, with a forgetting budget of 2 points." in card
    assert "at least +40.12 points" in card
    assert "at most 1.81 points" in card
    assert (
        "| suite mean | mean accuracy | 300 | 71.3 | 70.1 | −1.2 | −1.9 to −0.4 | – | – | – |"
        in card
    )
    assert "| prose | nats/token | 40 | 2.914 | 2.931 | +0.017 | −0.004 to +0.038 |" in card


def test_of_an_adapter_that_another_tool_trained_the_card_tells_what_is_known(
    certified: RunDirectory,
) -> None:
    certified.write_manifest(replace(certified.manifest(), adopted=True))
    card = card_of(certified)
    assert ", trained with another tool and evaluated with Burnish" in card
    assert "| lora.rank | " in card
    assert "training.epochs" not in card
    assert "lora.target_modules" not in card


def test_limitations_name_what_fell(certified: RunDirectory) -> None:
    limits = card_of(certified).split("## Limitations")[1].split("##")[0]
    assert "grammar (accuracy): −9.0" in limits
    assert "reading" not in limits


def test_data_are_named_with_sizes_and_hashes(certified: RunDirectory) -> None:
    card = card_of(certified)
    assert re.search(r"\| train \| 130 \| `[0-9a-f]{64}` \|", card)
    assert "ab" * 32 in card


def test_tables_are_tables(certified: RunDirectory) -> None:
    """Every row has as many cells as its head, and each head is followed by its rule."""
    for table in re.findall(r"(?:^\|.*\n)+", card_of(certified), flags=re.MULTILINE):
        lines = table.splitlines()
        assert set(lines[1]) <= set("|-:")
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("method", "library", "loads"),
    [
        ("lora", "peft", "PeftModel"),
        ("ia3", "peft", "PeftModel"),
        ("full", "transformers", 'from_pretrained("model")'),
        ("last-n", "transformers", 'from_pretrained("model")'),
        ("bottleneck", "burnish", "open_tuned"),
    ],
)
def test_snippet_is_python(certified: RunDirectory, method: str, library: str, loads: str) -> None:
    card = card_of(with_recipe(certified, method=method))
    code = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert code is not None
    ast.parse(code[1])
    assert loads in code[1]
    assert front_of(card)["library_name"] == library


@pytest.mark.parametrize(("init", "library"), [("merge", "burnish"), ("continue", "peft")])
def test_an_adapter_on_an_earlier_run_says_so(
    certified: RunDirectory, init: str, library: str
) -> None:
    """Merged below, the adapter alone is not the tuned model; continued, it is."""
    manifest = certified.manifest()
    manifest.lineage = {"path": "/runs/first", "method": "lora", "init": init, "lineage": {}}
    certified.write_manifest(manifest)
    card = card_of(certified)
    assert f"`/runs/first` (lora, {init})" in card
    assert front_of(card)["library_name"] == library


def test_run_that_is_not_certified_says_so(trained: RunDirectory) -> None:
    card = card_of(trained)
    assert "**Not certified.**" in card
    assert f"`burnish evaluate {trained.path}`" in card
    assert "not been measured yet" in card
    assert "| Task |" not in card


def test_cells_cannot_break_the_card() -> None:
    assert cell("a|b\n<script>`") == "a\\|b &lt;script>'"
    assert cell(None) == "–"
