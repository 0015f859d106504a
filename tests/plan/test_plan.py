"""The plan against hand-worked numbers, and against the run that it foretells."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import burnish
from burnish import cli
from burnish.models.adapt import add_lora
from burnish.models.branches import Row
from burnish.pipeline import verbs
from burnish.plan.estimate import duration
from burnish.plan.fit import (
    Disk,
    FreeSpace,
    check_disk,
    check_memory,
    nearest_folder,
    needs_checkpointing,
)
from burnish.plan.memory import Batch, Shapes, memory, saved_activations
from burnish.plan.timing import count_steps, training_seconds, work_of
from burnish.recipe.schema import Recipe, load_recipe
from burnish.training.batches import Batches
from burnish.training.checkpoint import saved_steps
from burnish.training.loop import Loop, Settings
from burnish.training.objectives.base import Loss
from burnish.training.objectives.sft import Sft
from tests.refused import refused
from tests.rows import choices, labelled, write_rows

SUITE = choices(8)
# 100 numbers of 4 bytes, 10 learn; a token leaves 50 bytes; one layer with keys of 4 numbers.
SHAPES = Shapes(
    parameters=100, learning=10, number=4, token=50, layers=1, hidden=8, key_value=4, vocabulary=5
)


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path) -> Path:
    write_rows(tmp_path / "rows.jsonl", labelled(20))
    write_rows(tmp_path / "suite.jsonl", SUITE)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: tiny\nmodel: {tiny_folder}\ndata: {{train: rows.jsonl, system: Say red or green}}\n"
        f"training: {{epochs: 3, learning_rate: 0.002, early_stopping_patience: 9}}\n"
        f"evaluate: {{general: {tmp_path / 'suite.jsonl'}}}\noutput: {tmp_path / 'runs'}\n"
    )
    return path


def test_memory_by_hand() -> None:
    # 3 rows behind 4 tokens, 5 tokens of their own each: 4 + 3 x 5 = 19 are computed.
    found = memory(SHAPES, Batch(rows=3, trunk=4, computed=19, learnt=6), program=7)
    assert found.program == 7
    assert found.weights == 400
    assert found.gradients == 40
    assert found.optimizer == 80
    assert found.activations == 950
    assert found.trunk == 2 * 1 * 4 * 4 * 3 * 4
    assert found.vocabulary == 3 * 4 * 5 * 6
    assert found.total == 7 + 400 + 40 + 80 + 950 + 384 + 360


def test_logits_are_made_in_pieces() -> None:
    assert memory(SHAPES, Batch(1, 0, 9000, 9000)).vocabulary == 3 * 4 * 5 * 512


def test_batch_counts_a_shared_beginning_once() -> None:
    rows = [Row([1, 2, 3, 4, 5], [0, 0, 0, 0, 1.0]), Row([1, 2, 3, 6, 7, 8], [0] * 5 + [1.0])]
    assert Batch.of(rows) == Batch(rows=2, trunk=3, computed=3 + 2 * 3, learnt=2)
    assert Batch.of(rows).of_rows(1) == Batch(rows=1, trunk=0, computed=6, learnt=1)


@pytest.mark.parametrize("adapter", [True, False])
def test_bytes_a_token_are_those_that_autograd_keeps(adapter: bool) -> None:
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    model: Any = LlamaForCausalLM(config)
    if adapter:
        model = add_lora(model, rank=4, alpha=8, seed=0)
    base = model.get_base_model() if adapter else model
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        base.base_model(input_ids=torch.ones(1, 32, dtype=torch.long), use_cache=False)
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 32
    assert saved_activations(model, torch.float32).token == pytest.approx(real, rel=0.15)
    assert next(model.parameters()).device.type == "cpu"


def plain_recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({"data": {"train": "rows.jsonl"}, **changes})


def test_what_does_not_fit_names_a_batch_that_does() -> None:
    # 8 rows of 10 tokens without a trunk: 520 + 80 x 50 + 8 x 60 = 5000 bytes; 2 rows: 1640.
    batch = Batch(rows=8, trunk=0, computed=80, learnt=8)
    assert memory(SHAPES, batch).total == 5000
    check_memory(plain_recipe(), SHAPES, batch, 0, FreeSpace(5000, 0))
    settings: dict[str, Any] = {"training.batch_size": 2, "training.gradient_accumulation": 4}
    with refused("too_little_memory", needed=5000, free=1700, settings=settings):
        check_memory(plain_recipe(), SHAPES, batch, 0, FreeSpace(1700, 0))


def test_what_does_not_fit_in_single_rows_names_lora_or_a_length() -> None:
    full = Shapes(10_000, 10_000, 4, 50, 1, 8, 4, 5)
    batch = Batch(rows=8, trunk=0, computed=80, learnt=8)
    settings: dict[str, Any] = {"method": "lora", "training.batch_size": 1}
    with refused("too_little_memory", free=80_000, settings=settings):
        check_memory(plain_recipe(method="full"), full, batch, 0, FreeSpace(80_000, 0))
    # One row of 10 tokens takes 520 + 500 + 60 bytes, one of 5 takes 250 less.
    settings = {"training.batch_size": 1, "training.max_length": 5}
    with refused("too_little_memory", free=880, settings=settings):
        check_memory(plain_recipe(), SHAPES, batch, 0, FreeSpace(880, 0))
    with refused("too_little_memory", free=300, settings={}):
        check_memory(plain_recipe(), SHAPES, batch, 0, FreeSpace(300, 0))


def test_a_disk_that_is_too_small_names_the_checkpoints_that_fit() -> None:
    disk = Disk(checkpoint=100, checkpoints=6, optimizer=200, results=50)
    assert disk.total == 100 * 7 + 600 + 50
    check_disk(plain_recipe(), disk, FreeSpace(0, 1350))
    settings = {"training.checkpoints": 3, "training.evaluations": 3}
    with refused("too_little_disk", needed=disk.total, free=1050, settings=settings):
        check_disk(plain_recipe(), disk, FreeSpace(0, 1050))
    with refused("too_little_disk", free=700, settings={}):
        check_disk(plain_recipe(), disk, FreeSpace(0, 700))


def test_free_disk_is_that_of_the_nearest_folder(tmp_path: Path) -> None:
    assert nearest_folder(tmp_path / "not" / "there") == tmp_path


def test_seconds_of_a_few_steps_give_those_of_all(tmp_path: Path) -> None:
    """A clock that runs by the work done is foretold exactly."""
    now = 0.0
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = add_lora(LlamaForCausalLM(config), rank=4, alpha=8, seed=0)
    rows = [Row([1, 2, *range(3, 5 + n % 9)], [0.0] * 3 + [1.0] * (1 + n % 9)) for n in range(40)]
    batches = Batches({"train": rows}, 4, 2, 3, seed=0)

    class Timed(Sft):
        def loss(self, network: Any, items: Any) -> Loss:
            nonlocal now
            now += 0.01 * work_of(Batch.of(items), SHAPES)
            return super().loss(network, items)

    loop = Loop(model, batches, Timed(), Settings(1e-3), {}, tmp_path / "run", lambda *_: None)
    steps = count_steps(batches, SHAPES)
    assert steps.count == batches.steps == 15
    foretold = training_seconds(loop, steps, tmp_path / "plan", lambda: now)
    before = now
    loop.run()
    assert foretold == pytest.approx(now - before)


def test_plan_foretells_the_run(recipe: Path, tmp_path: Path) -> None:
    plan = verbs.plan(recipe, quiet=True)
    assert not (tmp_path / "runs").exists()
    run = burnish.run(recipe, quiet=True)
    training = run.manifest().training
    assert plan.steps == training["steps"]
    assert plan.tokens == training["tokens"]
    assert plan.learnt_tokens == sum(event["learnt_tokens"] for event in run.events("train"))
    assert plan.disk.checkpoints == len(saved_steps(run.checkpoints))
    written = (run.adapter / "adapter_model.safetensors").stat().st_size
    assert plan.disk.checkpoint == pytest.approx(written, rel=0.2)
    assert plan.seconds is not None
    assert all(value > 0 for value in plan.seconds.values())
    assert "preflight" in plan.seconds
    assert set(plan.seconds) >= {"training", "validation", "evaluating the base model"}
    again = verbs.plan(recipe, quiet=True, **{"training.preflight": False})
    assert again.seconds is not None
    assert "preflight" not in again.seconds
    assert again.seconds["evaluating the base model"] == 0.0  # the run kept its results


def test_each_of_several_workers_has_its_share_of_a_batch_and_all_its_weights(
    recipe: Path,
) -> None:
    if torch.cuda.is_available():
        pytest.skip("on a GPU each has a memory of its own")
    batch = {"training.batch_size": 4}
    one = verbs.plan(recipe, quiet=True, **batch)
    two = verbs.plan(recipe, quiet=True, **batch, **{"training.workers": 2})
    assert (two.steps, two.tokens, two.workers) == (one.steps, one.tokens, 2)
    assert two.memory.weights == one.memory.weights
    assert two.memory.activations < one.memory.activations
    assert two.peak is None
    assert two.total_memory == 2 * two.memory.total


def test_cuda_is_computed_without_one(recipe: Path, tiny_folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, so it is measured")
    plan = verbs.plan(recipe, device="cuda", quiet=True)
    assert plan.seconds is None
    assert plan.peak is None
    learning = plan.disk.checkpoint // 4  # adapters are float32 on the disk of this machine
    base = AutoModelForCausalLM.from_pretrained(tiny_folder).num_parameters()
    assert plan.memory.weights == 2 * base + 4 * learning  # an adapter is trained in float32
    assert plan.memory.gradients == 4 * learning
    assert plan.checkpointed < plan.memory.total


def test_a_run_that_cannot_fit_is_refused_before_anything_heavy(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("burnish.plan.estimate.FreeSpace", lambda memory, disk: FreeSpace(10, disk))
    with refused("too_little_memory", free=10, settings={}):
        verbs.plan(load_recipe(recipe), quiet=True)


def test_verb_prints_a_table_one_line_and_json(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["plan", str(recipe)])
    shown = capsys.readouterr().out
    assert "about " in shown
    assert "GB of memory" in shown
    assert "(6 items, of which 8% change, 80% power)" in " ".join(shown.split())
    assert "The budget of 2 for the suite's mean is too tight for that" in " ".join(shown.split())
    assert f"burnish run {recipe}" in shown
    cli.main(["plan", str(recipe), "--device", "cuda", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["memory"]["total"] > printed["memory"]["weights"]
    assert printed["power"][0].startswith(
        "The smallest budget that the suite can certify is a fall of "
    )


def test_each_of_several_suites_is_named(recipe: Path, tmp_path: Path) -> None:
    suite = tmp_path / "suite.jsonl"
    other = tmp_path / "other.jsonl"
    other.write_text(suite.read_text(encoding="utf-8"), encoding="utf-8")
    given = {"evaluate.general": [str(suite), str(other)]}
    plan = verbs.plan(recipe, quiet=True, **given)
    assert [line.partition(" ")[0] for line in plan.power][:2] == ["suite:", "suite:"]
    assert plan.power[-1].startswith("other: ")


def test_durations_are_read_by_people() -> None:
    assert [duration(s) for s in (41.4, 200, 9000)] == ["41 s", "3 min", "2.5 h"]


def test_activations_are_recomputed_where_a_step_would_not_fit() -> None:
    batch = Batch(rows=8, trunk=0, computed=80, learnt=8)
    assert memory(SHAPES, batch).total == 5000
    assert not needs_checkpointing(SHAPES, batch, 5600)  # a tenth stays free
    assert needs_checkpointing(SHAPES, batch, 5500)


def test_a_step_with_checkpointing_by_hand() -> None:
    # 400 for the weights, 40 and 80 for what learns, 60 x 6 for words; rows share no trunk:
    # 3 x (4 + 5) = 27 tokens keep the layer's input of 8 x 4 bytes, and 50 each of one layer.
    batch = Batch(rows=3, trunk=4, computed=19, learnt=6)
    found = memory(SHAPES, batch, checkpointing=True)
    assert found.trunk == 0
    assert found.activations == 27 * 8 * 4 + 27 * 50
    eager = replace(SHAPES, square=2.0, once=7, trained_number=8, four_bit=20, workspace=11)
    # The trunk's 4 tokens see themselves, 3 rows of 5 see those and themselves.
    whole = memory(eager, batch)
    assert whole.activations == 7 + 950 + 2 * (4 * 4 + 3 * 5 * 9)
    assert whole.gradients == 80
    assert whole.weights == round(70 * 4 + 10 * 8 + 20 * 4.127 / 8)
    assert whole.workspace == 11


def test_a_run_that_recomputes_activations_learns_the_same(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = verbs.train(recipe, quiet=True, name="plain")
    monkeypatch.setattr("burnish.pipeline.train.checkpoints_by_need", lambda *_: True)
    smaller = verbs.train(recipe, quiet=True, name="smaller")
    assert smaller.manifest().training["activation_checkpointing"]
    losses = [
        [event["loss"] for event in run.events() if event["phase"] == "train"]
        for run in (plain, smaller)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
