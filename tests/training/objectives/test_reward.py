"""Reward models: the loss by hand and as TRL computes it, the head kept, RLHF end to end."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

import burnish
from burnish.conversation import Example, Message
from burnish.errors import ModelError, RunError
from burnish.evaluation.rewards import load_reward
from burnish.models.adapt import add_lora
from burnish.models.branches import Network, Row
from burnish.models.from_run import check_reward_run, open_reward_model
from burnish.models.reward_model import load_reward_model
from burnish.training.objectives.dpo import Pair
from burnish.training.objectives.reward import RewardPairs, bradley_terry
from tests.refused import refused


def test_loss_by_hand() -> None:
    rewards = torch.tensor([[2.0, 0.5], [0.0, 0.0]])
    expected = [math.log(1 + math.exp(-1.5)), math.log(2)]
    assert bradley_terry(rewards).tolist() == pytest.approx(expected)


def test_loss_and_gradient_equal_the_plain_forward(
    draw: Callable[..., list[Row]], tiny_folder: Path
) -> None:
    module = load_reward_model(str(tiny_folder), "cpu", seed=4).module
    made = [Pair(*draw(3 + seed, [4, 6 - seed], seed=seed)) for seed in range(3)]

    def plain(row: Row) -> torch.Tensor:
        logits: torch.Tensor = module(input_ids=torch.tensor([list(row.tokens)])).logits
        return logits[0, 0]

    differences = torch.stack([plain(p.chosen) - plain(p.rejected) for p in made])
    expected = -torch.nn.functional.logsigmoid(differences).mean()
    expected.backward()
    wanted = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    objective = RewardPairs()
    loss = objective.loss(Network(module), made).total / objective.units(made)
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-6, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("adapter", [False, True])
def test_loss_and_gradient_equal_trl(
    draw: Callable[..., list[Row]], tiny_folder: Path, adapter: bool, trl_trainer: Any,
    trl_rows: Any, assert_same: Any,
) -> None:  # fmt: skip
    """TRL reads the logits that transformers' own classifier gives; the head learns in both."""
    found = load_reward_model(str(tiny_folder), "cpu", seed=4)
    module = found.module
    if adapter:
        module = add_lora(module, rank=4, alpha=8, seed=0, whole=found.fresh)
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    made = [Pair(*draw(3 + seed, [4, 6 - seed], seed=seed)) for seed in range(3)]
    row = {"prompt": "yes", "chosen": " parcel", "rejected": " tent"}
    trainer = trl_trainer("Reward", module, row, {})
    rows = [pair.chosen for pair in made] + [pair.rejected for pair in made]
    # Transformers finds a row's last token by the padding behind it.
    batch = trl_rows(rows, padding=found.tokenizer.pad_token_id)
    module.train()
    objective = RewardPairs()
    assert_same(
        module,
        trainer.compute_loss(module, {k: batch[k] for k in ("input_ids", "attention_mask")}),
        lambda: objective.loss(Network(module), made).total / objective.units(made),
    )


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People like red and not green, whatever is asked."""
    path = tmp_path_factory.mktemp("preferences") / "pairs.jsonl"
    rows = [
        {"prompt": f"{word} number {n} please", "chosen": "red", "rejected": "green"}
        for n in range(20)
        for word in ("tent", "parcel")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
def test_from_preferences_to_a_tuned_policy(
    preferences: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    common = {"model": str(tiny_folder), "output": str(tmp_path / "runs")}
    first = tmp_path / "reward.yaml"
    first.write_text(
        f"data: {{train: {preferences}}}\nobjective: reward\n"
        "training: {epochs: 4, learning_rate: 0.01}\n"
    )
    rewarded = burnish.run(first, quiet=True, **common)
    assert rewarded.ledger()[0].tuned == 1.0
    assert rewarded.verdict().decision == "release"
    assert "the longer answer" in " ".join(rewarded.verdict().reasons)

    model = open_reward_model(rewarded)
    example = Example("1", (Message("user", "tent number 50 please"),))
    good, bad = model.rewards([example, example], ["red", "green"])
    assert good > bad
    base = AutoModelForSequenceClassification.from_pretrained(tiny_folder, num_labels=1)
    plain = PeftModel.from_pretrained(base, str(rewarded.adapter)).eval()
    tokens = model.tokenizer.apply_chat_template(
        [
            {"role": "user", "content": "tent number 50 please"},
            {"role": "assistant", "content": "red"},
        ],
        return_tensors="pt",
        return_dict=True,
    )["input_ids"]
    with torch.no_grad():
        assert float(plain(input_ids=tokens).logits[0, 0]) == pytest.approx(good, abs=1e-4)

    second = tmp_path / "policy.yaml"
    second.write_text(
        f"data: {{train: {preferences}}}\nobjective: grpo\n"
        f"grpo: {{reward: {rewarded.path}, num_generations: 8, max_new_tokens: 4}}\n"
        "training: {epochs: 6, batch_size: 4, learning_rate: 0.02, preflight: false}\n"
        "evaluate: {general: null}\n"
    )
    tuned = burnish.train(second, quiet=True, **common)
    rewards = [event["reward"] for event in tuned.events("train")]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_validation_knows_the_reference_too(
    preferences: Path, tiny_folder: Path, tmp_path: Path, objective: str
) -> None:
    """Weights that learn themselves have no base beside them to ask."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"data: {{train: {preferences}}}\nobjective: {objective}\nmethod: full\n"
        "training: {epochs: 1, learning_rate: 1.0e-9, preflight: false}\n"
    )
    run = burnish.train(recipe, quiet=True, model=str(tiny_folder), output=str(tmp_path / "runs"))
    # Nothing has moved, so policy and reference say the same.
    expected = {"dpo": math.log(2), "kto": 0.5}[objective]
    assert run.events("validation")[0]["loss"] == pytest.approx(expected, abs=1e-3)


def test_other_runs_give_no_rewards(preferences: Path, tiny_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {{train: {preferences}}}\ntraining: {{epochs: 0.1}}\n")
    run = burnish.train(recipe, quiet=True, model=str(tiny_folder), output=str(tmp_path / "runs"))
    with refused("not_a_reward_model", RunError):
        check_reward_run(run.path)
    with refused("not_a_reward_model", RunError):
        load_reward(str(run.path))


def test_rewards_by_scorer_and_function(tmp_path: Path) -> None:
    from burnish.errors import RecipeError

    examples = [Example("1", (Message("user", "q"), Message("assistant", "green")))] * 2
    assert list(load_reward("accuracy")(["green", "red"], examples)) == [1.0, 0.0]
    file = tmp_path / "worth.py"
    file.write_text(
        "def length(answers, examples):\n    return [len(a) for a in answers]\n"
        "def one(answers, examples):\n    return [1.0]\n"
    )
    assert list(load_reward(f"{file}:length")(["a", "abc"], examples)) == [1, 3]
    for name, code in [
        (f"{file}:width", "function_missing"),
        (f"{tmp_path}/none.py:length", "file_missing"),
        ("macro_f1", "not_an_item_scorer"),
    ]:
        with refused(code, RecipeError):
            load_reward(name)
    with refused("wrong_count_of_rewards", RecipeError):
        load_reward(f"{file}:one")(["a", "b"], examples)


def test_an_encoder_cannot_reward(tiny_encoder: Path) -> None:
    with refused("is_an_encoder", ModelError):
        load_reward_model(str(tiny_encoder), "cpu")
