"""Each promise is broken on purpose and the sentence names the place; a sound run is untouched."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft.tuners.lora.layer import Linear
from safetensors.torch import load_file

import burnish
from burnish import cli
from burnish.errors import PreflightError
from burnish.models import continuation, from_run
from burnish.models.branches import Row
from burnish.models.generate import Decoder
from burnish.pipeline import verbs
from burnish.preflight import Check, raise_on_failure
from burnish.preflight.base import relative_difference, rows_in
from burnish.preflight.rows import check_every_row_trains
from burnish.preflight.run import pick_items
from burnish.training import checkpoint
from burnish.training.objectives.base import Loss
from burnish.training.objectives.grpo import Grpo
from burnish.training.objectives.sft import Sft
from tests.refused import refused
from tests.rows import labelled, write_rows

NAMES = [
    "every row is trained on",
    "the stop token is trained on",
    "accumulated = one batch",
    "trunk = plain",
    "saved = resumed",
    "reloaded = in memory",
    "merged = adapter",
]


# Objectives that sample at each step, with answers as long as a recipe may ask for.
SAMPLING = {
    "grpo": {
        "objective": "grpo", "grpo.num_generations": 4, "grpo.max_new_tokens": 20, "grpo.beta": 0.1,
        "grpo.num_iterations": 2, "training.batch_size": 4,
    },
    "distill": {
        "objective": "distill", "distill.on_policy": True, "distill.max_new_tokens": 20,
        "distill.system": "Say green",
    },
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path) -> Path:
    write_rows(tmp_path / "rows.jsonl", labelled(12))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: tiny\nmodel: {tiny_folder}\ndata: {{train: rows.jsonl, system: Say red or green}}\n"
        f"training: {{epochs: 1, learning_rate: 0.02}}\nlora: {{dropout: 0.1}}\n"
        f"evaluate: {{general: null}}\noutput: {tmp_path / 'runs'}\n"
    )
    return path


def found(recipe: Path, name: str, **overrides: Any) -> Check:
    checks = verbs.preflight(recipe, quiet=True, **overrides)
    assert [check.name for check in checks] == NAMES
    return checks[NAMES.index(name)]


def test_a_sound_run_passes(recipe: Path) -> None:
    checks = verbs.preflight(recipe, quiet=True)
    assert [check.name for check in checks] == NAMES
    assert all(check.passed for check in checks), checks
    values = {check.name: check.value for check in checks}
    assert values["saved = resumed"] == 0.0
    assert 0 < (values["trunk = plain"] or 0) < 1e-4


def test_the_run_after_it_is_bit_identical(recipe: Path) -> None:
    tried = burnish.train(recipe, quiet=True, name="tried")
    plain = burnish.train(recipe, quiet=True, name="plain", **{"training.preflight": False})
    assert len(tried.events("preflight")[0]["checks"]) == len(NAMES)
    assert plain.events("preflight") == []
    losses = [[event["loss"] for event in run.events("train")] for run in (tried, plain)]
    assert losses[0] == losses[1]
    name = "adapter_model.safetensors"
    expected, got = load_file(plain.adapter / name), load_file(tried.adapter / name)
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_a_failed_check_stops_the_run_before_its_first_step(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Sft, "loss", lambda self, network, items: Loss(self_loss(self, network, items) ** 2)
    )
    with refused("gradients_differ", PreflightError, check="accumulated = one batch"):
        burnish.train(recipe, quiet=True)
    assert not (recipe.parent / "runs" / "tiny").exists()  # nothing was trained, nothing is left


original_loss = Sft.loss


def self_loss(objective: Sft, network: Any, items: Any) -> Any:
    return original_loss(objective, network, items).total


def test_a_loss_that_is_no_sum(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Sft, "loss", lambda self, network, items: Loss(self_loss(self, network, items) / len(items))
    )
    check = found(recipe, "accumulated = one batch")
    assert check.passed is False
    # Each of two passes of one row counts twice, so the difference is as large as the gradient.
    assert check.value == pytest.approx(1.0, abs=1e-3)
    assert check.code == "gradients_differ"
    assert "lora_B" in check.fields["parameter"]


def test_a_loss_with_noise_has_no_accumulation_to_compare(recipe: Path) -> None:
    check = found(recipe, "accumulated = one batch", **{"sft.neftune_noise_alpha": 5.0})
    assert check.passed is None
    assert "random" in check.figure


def test_an_answer_that_ends_where_the_model_does_not_stop(
    recipe: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "endless"
    shutil.copytree(tiny_folder, folder)
    for name in ("tokenizer_config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        key = "eos_token" if name.startswith("tok") else "eos_token_id"
        settings[key] = "<|endoftext|>" if key == "eos_token" else 0
        (folder / name).write_text(json.dumps(settings))
    check = found(recipe, "the stop token is trained on", model=str(folder))
    assert check.passed is False
    assert "rows.jsonl:" in check.fields["row"]
    assert "'<|im_end|>'" in check.seen
    assert "'<|endoftext|>'" in check.seen
    fields = {"check": "the stop token is trained on", "stop_token": "'<|im_end|>'"}
    with refused("answer_not_ended", PreflightError, **fields):
        raise_on_failure([check])


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_branches_that_see_another_trunk(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    expand = continuation.expand_cache

    def halved(cache: Any, index_B: torch.Tensor) -> Any:
        expanded = expand(cache, index_B)
        for layer in expanded.layers:
            layer.values = layer.values * 0.5
        return expanded

    monkeypatch.setattr(continuation, "expand_cache", halved)
    check = found(recipe, "trunk = plain", **SAMPLING.get(name, {}))
    assert check.passed is False
    assert check.code == "logprobs_differ"
    assert check.fields["row"] == 1


def test_a_merge_that_adds_too_much(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delta = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda *given: 2 * delta(*given))
    check = found(recipe, "merged = adapter")
    assert check.passed is False
    assert check.code == "logits_differ"
    assert check.fields["row"] == 1


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_a_parameter_that_is_not_loaded(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    load = checkpoint.load_weights

    def all_but_one(model: Any, folder: Path) -> None:
        parameter = next(p for p in model.parameters() if p.requires_grad)
        kept = parameter.detach().clone()
        load(model, folder)
        parameter.data.copy_(kept)

    monkeypatch.setattr(checkpoint, "load_weights", all_but_one)
    check = found(recipe, "saved = resumed", **SAMPLING.get(name, {}))
    assert check.passed is False
    assert check.code == "state_not_restored"
    assert "lora_A" in check.fields["tensor"]


def test_random_states_that_are_not_restored(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_restore_random", lambda states: None)
    check = found(recipe, "saved = resumed", **{"lora.dropout": 0.5})
    assert check.passed is False
    assert check.code == "step_not_repeated"


def test_a_model_that_differs_from_its_files(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = from_run.load_model

    def changed(*given: Any, **options: Any) -> Any:
        model = load(*given, **options)
        model.module.get_input_embeddings().weight.data.mul_(1.1)
        return model

    monkeypatch.setattr(from_run, "load_model", changed)
    check = found(recipe, "reloaded = in memory")
    assert check.passed is False
    assert check.code == "logits_differ"


def test_full_tuning_has_nothing_to_merge(recipe: Path) -> None:
    checks = verbs.preflight(recipe, quiet=True, method="full")
    assert [check.passed for check in checks] == [True] * 6 + [None]
    assert "no adapter to merge" in checks[-1].figure


def test_documents_have_no_answers(recipe: Path, tmp_path: Path) -> None:
    rows = [{"text": f"the tent of number {i} is red and green"} for i in range(12)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"data.train": str(tmp_path / "texts.jsonl"), "data.system": None, "objective": "lm"}
    check = found(recipe, "the stop token is trained on", **changes)
    assert check.passed is None
    assert "documents" in check.figure


def test_rows_without_anything_learnt_are_named() -> None:
    rows = [Row([1, 2], [0.0, 1.0]), Row([3, 4], [0.0, 0.0])]
    examples = [SimpleNamespace(source=f"rows.jsonl:{n}", id=str(n)) for n in (1, 2)]
    tokenizer = SimpleNamespace(decode=lambda tokens: f"text {tokens}")
    model = SimpleNamespace(tokenizer=tokenizer)
    loop = SimpleNamespace(objective=Sft())
    subject: Any = SimpleNamespace(items=rows, examples=examples, model=model, loop=loop)
    check = check_every_row_trains(subject)
    assert check.passed is False
    assert check.figure == "1 of 2 rows"
    assert check.code == "nothing_learnt"
    assert check.fields == {"row": "rows.jsonl:2", "start": "text [3, 4]"}


def test_an_objective_that_compares_rows_of_a_pass_is_not_split(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sft, "additive", False)
    check = found(recipe, "accumulated = one batch")
    assert check.passed is None
    assert "with each other" in check.figure


def test_an_objective_that_samples_is_checked_on_what_it_sampled(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Prompt:
        row: tuple[int, ...]
        size: int = 4
        learnt: int = 0

    answer = Row([5, 6, 7, 8, 9], [0.0, 0.0, 0.0, 1.0, 1.0])
    monkeypatch.setattr(Sft, "items", lambda *_: [Prompt((5, 6, 7))] * 9)
    monkeypatch.setattr(Sft, "collect", lambda self, network, items, step: [answer for _ in items])
    checks = verbs.preflight(recipe, quiet=True)
    assert [check.passed for check in checks] == [None, None, *[True] * 5]
    assert "log-probabilities of 4 tokens" in checks[NAMES.index("trunk = plain")].figure


@pytest.mark.parametrize("name", SAMPLING)
def test_answers_are_few_and_short_before_the_first_step(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The run itself samples what the recipe says, and is the same with and without the checks."""
    drawn: list[tuple[int, int]] = []
    answers = Decoder.answers

    def counted(self: Decoder, prompts: Any, each: int = 1) -> Any:
        drawn.append((each, self.sampling.max_new_tokens))
        return answers(self, prompts, each)

    monkeypatch.setattr(Decoder, "answers", counted)
    checks = verbs.preflight(recipe, quiet=True, **SAMPLING[name])
    passed = {check.name: check.passed for check in checks}
    assert passed["every row is trained on"] is None
    assert all(passed[name] for name in NAMES[2:]), checks
    each = 2 if name == "grpo" else 1
    assert set(drawn) == {(each, 8)}
    drawn.clear()
    changes = SAMPLING[name] | {"training.epochs": 0.5}
    tried = burnish.train(recipe, quiet=True, name="tried", **changes)
    assert (4 if name == "grpo" else 1, 20) in drawn
    changes["training.preflight"] = False
    plain = burnish.train(recipe, quiet=True, name="plain", **changes)
    losses = [[event["loss"] for event in run.events("train")] for run in (tried, plain)]
    assert losses[0] == losses[1]


def test_equal_rewards_do_not_make_the_checks_empty(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No advantage, no gradient: a check would compare 0 with 0."""
    (tmp_path / "worth.py").write_text(
        "def same(answers, examples):\n    return [1] * len(answers)\n"
    )
    changes = SAMPLING["grpo"] | {"grpo.reward": f"{tmp_path / 'worth.py'}:same", "grpo.beta": 0.0}
    loss = Grpo.loss
    monkeypatch.setattr(
        Grpo, "loss", lambda self, *given: Loss(loss(self, *given).total / len(given[1]))
    )
    check = found(recipe, "accumulated = one batch", **changes)
    assert check.passed is False
    assert check.value == pytest.approx(1.0, abs=1e-3)


def test_a_reward_that_does_not_work_is_found_before_the_run(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "worth.py").write_text("def one(answers, examples):\n    return [1.0]\n")
    with refused("wrong_count_of_rewards", count=1, expected=4):
        verbs.preflight(
            recipe, quiet=True, **SAMPLING["grpo"], **{"grpo.reward": f"{tmp_path}/worth.py:one"}
        )


def test_rows_are_found_in_pairs_and_groups() -> None:
    @dataclass
    class Pair:
        pick_items: Row
        rejected: Row
        margin: float

    one, two = Row([1, 2], [0.0, 1.0]), Row([1, 3], [0.0, 1.0])
    assert rows_in(one) == [one]
    assert rows_in(Pair(one, two, 0.5)) == [one, two]
    assert rows_in((one, [two])) == [one, two]
    assert rows_in(SimpleNamespace(size=3)) == []


def test_difference_is_relative_to_the_largest_value() -> None:
    found = relative_difference(torch.tensor([1.0, 2.5]), torch.tensor([1.0, -2.0]))
    assert found.tolist() == [0.0, 2.25]


def test_chosen_rows_differ_in_size_and_are_short() -> None:
    rows = [Row([1] * n, [0.0] + [1.0] * (n - 1)) for n in (900, 5, 7, 3, 9)]
    assert [row.size for row in pick_items(rows)] == [3, 7]
    assert [row.size for row in pick_items(rows[:1])] == [900]


def test_a_fresh_head_is_not_told_at_length(recipe: Path) -> None:
    sets = ["--set", "objective=classify", "--set", "data.system=null"]
    command = [sys.executable, "-m", "burnish.cli", "preflight", str(recipe), *sets]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "reloaded = in memory" in said.stdout
    assert "LOAD REPORT" not in said.stderr


def test_verb_prints_marks_and_json(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["preflight", str(recipe), "--set", "training.gradient_accumulation=2"])
    shown = capsys.readouterr().out
    assert shown.count("✓") == len(NAMES)
    assert f"next   burnish run {recipe}" in shown
    cli.main(["preflight", str(recipe), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in printed["checks"]] == NAMES
