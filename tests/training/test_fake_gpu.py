"""Training steps as a GPU takes them: nothing on the wrong device, in float32, or waited for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from burnish.conversation import Example, Message
from burnish.models.adapt import add_lora
from burnish.models.branches import Network, Row
from burnish.models.head_inputs import TaggedTokens
from burnish.models.interface import Sampling
from burnish.training.anchor import Anchored, anchors
from burnish.training.batches import Batches
from burnish.training.loop import Loop, Settings
from burnish.training.objectives.classify import Classify, LabelledText
from burnish.training.objectives.distill import Distill, OwnBase, Twin
from burnish.training.objectives.dpo import Dpo, Pair
from burnish.training.objectives.grpo import Group, Grpo
from burnish.training.objectives.kto import Judged, Kto
from burnish.training.objectives.lm import Lm
from burnish.training.objectives.reward import RewardPairs
from burnish.training.objectives.sft import Sft
from burnish.training.objectives.tag import Tag, TaggedText
from tests.fake_gpu import fake_gpu, on_gpu, total

SIZES: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 4, "pad_token_id": 0,
}  # fmt: skip
LABELS: dict[str, Any] = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
# Reading the loss with the metrics, and the norm of the gradients.
STEP = 2
# transformers asks whether positions show packed rows: once for each pass without a cache.
PASS = 1
# Three tokens that all answers draw together. Behind prompts of unequal length transformers asks
# for each further token whether there is padding.
SAMPLING = 3 + 2
SAMPLED = Sampling(max_new_tokens=3, temperature=1.0)


def row(prompt: int, answer: int, first: int = 5) -> Row:
    """A row whose beginning is the same as that of every other with as long a prompt."""
    tokens = [*range(10, 10 + prompt), first, *range(100, 99 + answer)]
    return Row(tokens, [0.0] * prompt + [1.0] * answer)


def rows() -> list[Row]:
    return [row(6, 2 + number, first=5 + number) for number in range(4)]


def pairs() -> list[Pair]:
    return [Pair(row(4 + n, 3, first=5), row(4 + n, 4, first=6)) for n in range(4)]


def judged() -> list[Judged]:
    return [Judged(row(5, 2 + n), row(5, 3, first=9), liked=n % 2 == 0) for n in range(4)]


def twins() -> list[Twin]:
    return [Twin(row(4, 3, first=n), row(7, 3, first=n)) for n in range(4)]


def groups() -> list[Group]:
    example = Example("1", (Message("user", "a"), Message("assistant", "b")))
    return [Group(tuple(range(10, 16 + number)), example) for number in range(4)]


def texts() -> list[LabelledText]:
    return [LabelledText([*range(10, 14 + n)], "ab"[n % 2]) for n in range(4)]


def tagged() -> list[TaggedText]:
    return [
        TaggedText(TaggedTokens((1, 10, 11, 2 + n), (0, 1), (1, 2)), "ab", [1.0, 1.0])
        for n in range(4)
    ]


def decoder(kind: Any = LlamaForCausalLM, **more: Any) -> Any:
    return kind(LlamaConfig(**SIZES, num_key_value_heads=2, **more))


def encoder(kind: Any) -> Any:
    return kind(BertConfig(**SIZES, **LABELS))


@dataclass(frozen=True)
class Case:
    """An objective on a model, and how often a step may wait."""

    objective: Callable[[Any], Any]
    items: Callable[[], Sequence[Any]]
    waits: int
    model: Callable[[], Any] = decoder
    anchored: bool = False


def grpo(tokenizer: Any, **more: Any) -> Grpo:
    return Grpo(
        reward=lambda answers, _: [float(place % 2) for place, _ in enumerate(answers)],
        tokenizer=tokenizer,
        num_generations=2,
        sampling=SAMPLED,
        **more,
    )


def distill(tokenizer: Any, **more: Any) -> Distill:
    return Distill(teacher=OwnBase(), tokenizer=tokenizer, sampling=SAMPLED, **more)


CASES = {
    "sft": Case(lambda _: Sft(), rows, STEP),
    "sft-noise": Case(lambda _: Sft(neftune_noise_alpha=5.0), rows, STEP + PASS),
    "sft-entropy": Case(lambda _: Sft(token_weighting="entropy"), rows, STEP),
    "sft-likely": Case(lambda _: Sft(token_weighting="likely"), rows, STEP),
    "sft-anchored": Case(lambda _: Sft(), rows, STEP, anchored=True),
    "lm": Case(lambda _: Lm(), rows, STEP + PASS),
    "dpo": Case(lambda _: Dpo(), pairs, STEP),
    "dpo-reference": Case(lambda _: Dpo(precompute_reference=False), pairs, STEP),
    "ipo": Case(lambda _: Dpo(loss_type="ipo"), pairs, STEP),
    "simpo": Case(lambda _: Dpo(loss_type="simpo"), pairs, STEP),
    "orpo": Case(lambda _: Dpo(loss_type="orpo"), pairs, STEP),
    "kto": Case(lambda _: Kto(), judged, STEP),
    "grpo": Case(grpo, groups, STEP + SAMPLING),
    "grpo-twice": Case(partial(grpo, num_iterations=2, beta=0.1), groups, 2 * STEP + SAMPLING + 2),
    "distill": Case(distill, twins, STEP),
    "distill-own": Case(partial(distill, on_policy=True), twins, STEP + SAMPLING),
    "reward": Case(
        lambda _: RewardPairs(),
        pairs,
        STEP,
        partial(decoder, LlamaForSequenceClassification, num_labels=1),
    ),
    "classify": Case(
        lambda _: Classify(),
        texts,
        STEP + PASS,
        partial(decoder, LlamaForSequenceClassification, **LABELS),
    ),
    "classify-encoder": Case(
        lambda _: Classify(), texts, STEP + PASS, partial(encoder, BertForSequenceClassification)
    ),
    "tag": Case(lambda _: Tag(), tagged, STEP, partial(encoder, BertForTokenClassification)),
}


@pytest.mark.parametrize("name", CASES)
def test_step_on_a_gpu(
    name: str, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    head = ["classifier"] if "encoder" in name or name == "tag" else ["score"]
    model = case.model().to(torch.bfloat16)
    whole = head if case.model is not decoder else None
    model = add_lora(model, rank=4, alpha=8, seed=0, whole=whole)
    monkeypatch.setattr(Loop, "_save", lambda _: None)
    with fake_gpu(monkeypatch) as gpu:
        network = Network(on_gpu(model, gpu))
        objective = case.objective(tiny_tokenizer)
        batches = Batches({"train": objective.prepare(network, case.items())}, 4, 1, 2, seed=0)
        if case.anchored:
            batches.beside = held = anchors(network, rows())
            batches.beside_each = 2
            objective = Anchored(objective, tolerated=0.01, share=1.0)
            assert len(held) == 4
        seen: list[dict[str, Any]] = []

        def listen(phase: str, values: dict[str, Any]) -> None:
            """Counts the second step alone, behind all that is done once."""
            if phase == "train":
                seen.append(values | {"waits": dict(gpu.waits), "uploads": dict(gpu.uploads)})
                seen[-1]["float32"] = {
                    place for (dtype, place) in gpu.products if dtype is not torch.bfloat16
                }
                gpu.reset()

        settings = Settings(1e-3, evaluations=0, checkpoints=1)
        Loop(network.wrapped, batches, objective, settings, {}, tmp_path, listen).run()
    second = seen[1]
    assert {p.grad is None for p in model.parameters()} == {True}
    assert not second["uploads"]
    assert not second["float32"]
    assert sum(second["waits"].values()) <= case.waits, second["waits"]


def test_what_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device without numbers refuses and counts what the tests above rely on."""
    with fake_gpu(monkeypatch) as gpu:
        x = torch.ones(3, 3, dtype=torch.bfloat16, device="cuda")
        assert x.device.type == "cuda"
        with pytest.raises(AssertionError, match="is on the CPU"):
            x + torch.ones(3, 3)
        with pytest.raises(AssertionError, match="float32"):
            x @ x.float()
        assert total(gpu.waits) == 0
        float(x.sum())
        x.tolist()
        x[x > 0]
        assert total(gpu.waits) == 3
        torch.ones(3).to("cuda")
        torch.tensor([1, 2], device="cuda")
        torch.ones(3).to("cuda", non_blocking=True)
        assert total(gpu.uploads) == 3
        torch.ones(3).pin_memory().to("cuda", non_blocking=True)
        assert total(gpu.uploads) == 3
