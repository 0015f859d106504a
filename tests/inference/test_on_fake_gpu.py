"""Generation, scoring and the engine as a GPU computes them: on one device, with few waits."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from burnish.conversation import Message
from burnish.inference.forward import ModelRunner
from burnish.inference.lora import AdapterPool
from burnish.inference.scheduler import ActiveRequest, EngineLimits, Scheduler
from burnish.inference.state_runner import StateRunner
from burnish.inference.stream import AnswerStream, Detokenizer, StopConditions
from burnish.inference.types import GenerationRequest, SamplingSettings
from burnish.models.interface import Choice, Sampling
from burnish.models.language_model import LanguageModel
from tests.fake_gpu import FakeGpu, fake_gpu, on_gpu, total

TOKENS = 4


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    with fake_gpu(monkeypatch) as device:
        yield device


@pytest.fixture
def model(gpu: FakeGpu, tiny_tokenizer: Any) -> LanguageModel:
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
    )
    module = on_gpu(LlamaForCausalLM(config).to(torch.bfloat16).eval(), gpu)
    return LanguageModel(module, tiny_tokenizer, name="tiny", source_sha256="0")


def only_bfloat16(gpu: FakeGpu) -> bool:
    """Whether every matrix product was one of the model's own dtype."""
    return {dtype for dtype, _ in gpu.products} == {torch.bfloat16}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation_waits_once_a_token_and_once_for_its_padding(
    model: LanguageModel, gpu: FakeGpu, temperature: float
) -> None:
    prompts = [(Message("user", "red " * count),) for count in (1, 4)]
    model.generate(prompts, Sampling(max_new_tokens=TOKENS, temperature=temperature, top_p=0.9))
    assert only_bfloat16(gpu)
    assert total(gpu.uploads) == 0
    assert total(gpu.waits) <= 2 * TOKENS, gpu.waits


def test_scoring_waits_once_for_each_batch(model: LanguageModel, gpu: FakeGpu) -> None:
    items = [Choice("where is my " + "red " * count, (" tent", " parcel")) for count in (1, 3)]
    assert [len(scores.logprobs) for scores in model.score(items)] == [2, 2]
    assert only_bfloat16(gpu)
    assert total(gpu.uploads) == 0
    first = total(gpu.waits)
    # One batch of two contexts, one of four choices, and a question of transformers for each.
    assert first <= 3, gpu.waits
    model.nll(["where is my parcel", "red"])
    assert total(gpu.waits) - first <= 2, gpu.waits


def request(prompt: list[int], model: LanguageModel, **settings: Any) -> ActiveRequest:
    asked = GenerationRequest(prompt, SamplingSettings(max_tokens=TOKENS, seed=1, **settings))
    answer = Detokenizer(asked.sampling, model.tokenizer, StopConditions(frozenset(), 64))
    return ActiveRequest(asked, answer, AnswerStream(), list(prompt))


SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 1.0},
    "nucleus": {"temperature": 1.0, "top_p": 0.9},
    "penalties": {"temperature": 1.0, "frequency_penalty": 0.5, "bias": {3: 1.0}},
}


@pytest.mark.parametrize("runner", [ModelRunner, StateRunner])
def test_a_step_of_the_engine_waits_a_bounded_number_of_times(
    model: LanguageModel, gpu: FakeGpu, runner: Any
) -> None:
    """Three answers behind a shared beginning, one that joins later, each sampled otherwise."""
    with torch.inference_mode():
        computing = runner(model.network, AdapterPool(model.module, 2))
        scheduler = Scheduler(computing, EngineLimits())
        shared = [*range(10, 60)]
        for number, settings in enumerate(SETTINGS.values()):
            scheduler.waiting.append(request([*shared, 70 + number], model, **settings))
        steps = list[int]()
        while scheduler.busy:
            gpu.reset()
            scheduler.step()
            assert only_bfloat16(gpu)
            assert total(gpu.uploads) == 0, gpu.uploads
            steps.append(total(gpu.waits))
        computing.close()
    # The tokens, and whether a nucleus is wider than what was sorted; the runner of states may ask
    # about padding.
    assert max(steps) <= 3, steps
    assert len(steps) >= TOKENS
