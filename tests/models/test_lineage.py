"""Runs on runs: merged, stacked or continued, opened again, and the base stays the base."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import burnish
from burnish.errors import ModelError, RecipeError, RunError
from burnish.models.branches import Network
from burnish.models.lineage import recipe_of, trainable_model
from burnish.models.load import load_model
from burnish.runs.directory import RunDirectory
from tests.refused import refused
from tests.rows import labelled, write_rows

TOKENS = [[5, 6, 7, 8, 9]]
Train = Callable[..., RunDirectory]


@pytest.fixture
def train(tmp_path: Path, tiny_folder: Path) -> Train:
    write_rows(tmp_path / "rows.jsonl", labelled(12))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model: {tiny_folder}\ndata: {{train: rows.jsonl}}\nlora: {{rank: 4}}\n"
        f"last_n: {{layers: 1}}\nevaluate: {{general: null}}\n"
        f"training: {{epochs: 2, learning_rate: 0.02}}\noutput: {tmp_path / 'runs'}\n"
    )

    def made(name: str, start: RunDirectory | None = None, **changes: Any) -> RunDirectory:
        given = {"init_from": str(start.path)} if start else {}
        return burnish.train(path, quiet=True, name=name, **given, **changes)

    return made


def hidden(module: Any) -> torch.Tensor:
    module.eval()
    network = Network(module)
    with torch.no_grad():
        return network.extend(network.start(), TOKENS, [0], left=False)[1]


def tuned(run: RunDirectory) -> torch.Tensor:
    return hidden(burnish.open_tuned(run).module)


def base_of(run: RunDirectory) -> torch.Tensor:
    model = burnish.open_tuned(run)
    with model.base():
        return hidden(model.module)


def start(run: RunDirectory) -> torch.Tensor:
    """What the run's training started from, its reference model."""
    recipe = recipe_of(run.manifest())
    module = trainable_model(run, recipe, load_model(recipe.model, "cpu").module)
    with Network(module).base():
        return hidden(module)


@pytest.mark.parametrize("init", ["merge", "stack", "continue"])
def test_a_run_on_a_run(init: str, train: Train, tiny_folder: Path) -> None:
    plain = hidden(load_model(str(tiny_folder), "cpu").module)
    first = train("first")
    second = train("second", first, init=init)
    expected = plain if init == "continue" else tuned(first)
    torch.testing.assert_close(start(second), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(tuned(second), tuned(first), atol=1e-3)
    assert torch.equal(base_of(second), plain)
    lineage = second.manifest().lineage
    assert lineage["path"] == str(first.path)
    assert (lineage["init"], lineage["method"], lineage["lineage"]) == (init, "lora", {})
    before = tuned(second)
    shutil.rmtree(first.path)  # a run stands by itself
    assert torch.equal(tuned(second), before)


def test_merged_and_stacked_are_the_same_start_and_learning(train: Train) -> None:
    first = train("first")
    merged, stacked = (train(init, first, init=init) for init in ("merge", "stack"))
    one, other = (load_file(run.adapter / "adapter_model.safetensors") for run in (merged, stacked))
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(tuned(merged), tuned(stacked), atol=2e-2, rtol=1e-2)


def test_stacked_keeps_the_earlier_adapter_frozen(train: Train) -> None:
    first = train("first")
    second = train("second", first, init="stack")
    recipe = recipe_of(second.manifest())
    module = trainable_model(second, recipe, load_model(recipe.model, "cpu").module)
    learning = {name for name, p in module.named_parameters() if p.requires_grad}
    assert learning
    assert all(".default." in name for name in learning)
    with Network(module).base():
        pass
    assert {name for name, p in module.named_parameters() if p.requires_grad} == learning


def test_continued_goes_on_where_the_adapter_was(train: Train) -> None:
    first = train("first")
    second = train("second", first, init="continue", training={"learning_rate": 1e-9})
    torch.testing.assert_close(tuned(second), tuned(first), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("inits", [("merge", "stack"), ("stack", "stack"), ("stack", "merge")])
def test_a_chain_of_three(inits: tuple[str, str], train: Train, tiny_folder: Path) -> None:
    first = train("first")
    second = train("second", first, init=inits[0])
    third = train("third", second, init=inits[1])
    torch.testing.assert_close(start(third), tuned(second), atol=1e-5, rtol=1e-5)
    assert torch.equal(base_of(third), hidden(load_model(str(tiny_folder), "cpu").module))
    assert third.manifest().lineage["lineage"]["path"] == str(first.path)


@pytest.mark.parametrize(
    ("before", "after", "init"),
    [
        ("full", "lora", "merge"),
        ("last-n", "full", "stack"),
        ("lora", "last-n", "merge"),
        ("lora", "ia3", "merge"),
        ("ia3", "ia3", "stack"),
        ("lora", "prefix", "merge"),
        ("prefix", "prefix", "continue"),
        ("bottleneck", "bottleneck", "continue"),
        ("lora", "bottleneck", "merge"),
    ],
)
def test_methods_on_methods(
    before: str, after: str, init: str, train: Train, tiny_folder: Path
) -> None:
    first = train("first", method=before, training={"learning_rate": 0.003})
    second = train("second", first, method=after, init=init, training={"learning_rate": 1e-9})
    if after != "prefix" or init == "continue":  # a fresh prefix changes what is seen
        torch.testing.assert_close(tuned(second), tuned(first), atol=1e-4, rtol=1e-4)
    assert torch.equal(base_of(second), hidden(load_model(str(tiny_folder), "cpu").module))


def test_cached_base_results_fit_and_tuned_ones_do_not(train: Train) -> None:
    """Results are kept by fingerprint: the base of a run on a run is that of any run."""
    first = train("first")
    models = [burnish.open_tuned(run) for run in (first, train("merged", first))]
    tuned = {model.fingerprint for model in models}
    base = set()
    for model in models:
        with model.base():
            base.add(model.fingerprint)
    assert (len(tuned), len(base)) == (2, 1)


@pytest.mark.parametrize(
    ("changes", "code", "fields"),
    [
        (
            {"init": "continue", "method": "ia3"},
            "method_differs",
            {"method": "ia3", "earlier": "lora"},
        ),
        ({"init": "continue", "lora.rank": 8}, "section_differs", {"keys": ["rank"]}),
        ({"init": "stack", "method": "prefix"}, "not_stackable", {"method": "prefix"}),
    ],
)
def test_what_does_not_fit_is_a_sentence(
    changes: dict[str, Any], code: str, fields: dict[str, Any], train: Train
) -> None:
    first = train("first")
    with refused(code, RecipeError, **fields):
        train("second", first, **changes)


def test_a_prefix_is_not_merged(train: Train) -> None:
    first = train("first", method="prefix")
    with refused("not_mergeable", RecipeError, method="prefix"):
        train("second", first)


def test_missing_unfinished_and_other_base(train: Train, tmp_path: Path, tiny_folder: Path) -> None:
    nowhere = tmp_path / "nowhere"
    with refused("not_a_run", RunError, path=str(nowhere)):
        train("second", RunDirectory(nowhere))
    first = train("first")
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    module = load_model(str(other), "cpu").module
    with torch.no_grad():
        module.lm_head.weight.mul_(2)
    module.save_pretrained(other)
    with refused("wrong_base", RecipeError, model=str(other), expected=str(tiny_folder)):
        train("second", first, model=str(other))
    manifest = first.manifest()
    manifest.state = "training"
    first.write_manifest(manifest)
    with refused("run_unfinished", RunError, path=str(first.path)):
        train("second", first)


def test_qlora_without_bitsandbytes_is_a_sentence(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused("not_installed", ModelError, package="bitsandbytes"):
        train("first", method="qlora")


def test_a_recipe_of_another_version_names_it(train: Train) -> None:
    run = train("one")
    manifest = run.manifest()
    manifest.recipe["training"]["sharpness"] = 0.5
    manifest.versions["burnish"] = "9.1"
    run.write_manifest(manifest)
    given = {"run": "one", "key": "training.sharpness", "version": "9.1"}
    with refused("recipe_unreadable", RunError, **given):
        burnish.open_tuned(run)


def test_whole_weights_that_were_cut_off_are_a_sentence(train: Train) -> None:
    run = train("one", method="full")
    weights = run.adapter / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with refused("weights_damaged", ModelError, path=str(run.adapter)):
        burnish.open_tuned(run)
