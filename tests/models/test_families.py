"""Families that differ in kind: each trains, is saved and merged, and computes what a plain
forward pass of transformers computes."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import burnish
from burnish.conversation import Message
from burnish.data.render import render_prompt
from burnish.export.export import export
from burnish.models.interface import Choice, Sampling
from burnish.models.language_model import LanguageModel
from burnish.recipe.schema import recipe_of_rows
from burnish.runs.directory import RunDirectory
from tests.models.families import FAMILIES, save_family
from tests.rows import labelled, write_rows

NAMES = (
    "llama",
    "gemma3_text",  # windows
    "gpt_oss",  # windows, experts
    "qwen3_5_text",  # linear attention
    "nemotron_h",  # state space, attention and experts
    "mamba2",  # state space alone
    "lfm2",  # convolution
    "qwen3_moe",  # experts
    "deepseek_v3",  # latent attention, experts
    "llama4_text",  # chunked attention
    "opt",  # learned positions, dropout
    "gpt2",  # fused and transposed maps
    "zamba2",  # shared layers
)
SYSTEM = "Say red or green, and nothing else: where is my parcel and when will it come"


@pytest.fixture(scope="module", params=NAMES)
def run(
    request: pytest.FixtureRequest, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> RunDirectory:
    """Three steps of LoRA on rows longer than the family's window, with the preflight checks."""
    work = tmp_path_factory.mktemp(request.param)
    rows = write_rows(work / "rows.jsonl", labelled(14))
    settings = {
        "name": "run",
        "model": str(save_family(request.param, tiny_tokenizer, work / "model")),
        "output": str(work / "runs"),
        "data.system": SYSTEM,
        "training.epochs": 1,
        "training.learning_rate": 0.01,
        "evaluate.general": None,
    }
    return burnish.run(recipe_of_rows(rows, settings), quiet=True)


@pytest.fixture(scope="module")
def tuned(run: RunDirectory) -> LanguageModel:
    model = burnish.open_tuned(run)
    assert isinstance(model, LanguageModel)
    return model


@torch.no_grad()
def plain(module: Any, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities (T, V) of one sequence without a cache."""
    logits = module.eval()(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    found: torch.Tensor = logits.float().log_softmax(-1)
    return found


def test_it_trains_and_is_judged(run: RunDirectory) -> None:
    assert run.manifest().training["steps"] == 3
    assert run.verdict().decision in ("release", "hold", "inconclusive")
    checks = {check["name"]: check["passed"] for check in run.events("preflight")[0]["checks"]}
    assert set(checks.values()) <= {True, None}
    assert checks["merged = adapter"] is True
    assert run.events("lora_targets")[0]["modules"]


def test_scores_are_those_of_a_plain_pass(tuned: LanguageModel) -> None:
    texts, choices = [f"{SYSTEM} {word}" for word in ("the tent is", "a")], (" red", " green tent")
    found = tuned.score([Choice(text, choices) for text in texts])
    for text, scores in zip(texts, found, strict=True):
        start = len(tuned.tokenizer(text)["input_ids"])
        for choice, ours in zip(choices, scores.logprobs, strict=True):
            tokens = tuned.tokenizer(text + choice)["input_ids"]
            picked = plain(tuned.module, tokens)[range(len(tokens) - 1), tokens[1:]]
            assert float(picked[start - 1 :].sum()) == pytest.approx(ours, abs=2e-3)


def test_answers_to_unequal_prompts_are_the_likeliest(tuned: LanguageModel) -> None:
    prompts = [
        (Message("system", SYSTEM), Message("user", word)) for word in ("tent", "a b c " * 4)
    ]
    for prompt, answer in zip(prompts, tuned.generate(prompts, Sampling(8)), strict=True):
        start = render_prompt(prompt, tuned.tokenizer)
        logprobs = plain(tuned.module, [*start, *answer.tokens])[len(start) - 1 : -1]
        picked = logprobs[range(len(answer.tokens)), list(answer.tokens)]
        torch.testing.assert_close(picked, logprobs.max(-1).values, atol=2e-3, rtol=0)


def test_the_merged_export_is_the_tuned_model(run: RunDirectory, tuned: LanguageModel) -> None:
    merged = AutoModelForCausalLM.from_pretrained(str(export(run, "merged")))
    tokens = tuned.tokenizer(SYSTEM)["input_ids"]
    expected = plain(tuned.module, tokens)
    torch.testing.assert_close(plain(merged, tokens), expected, atol=2e-3, rtol=0)


def test_there_are_families_of_every_kind() -> None:
    words = {word for name in NAMES for word in FAMILIES[name].kind.split(", ")}
    kinds = {"dense", "window", "hybrid", "state space", "experts", "latent attention"}
    assert kinds | {"learned positions", "shared layers", "dropout"} <= words
