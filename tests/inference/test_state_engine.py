"""The engine on models with states of their own: what transformers generates, whoever else asks."""

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from burnish.inference.engine import Engine
from burnish.inference.scheduler import EngineLimits
from burnish.inference.state_runner import StateRunner
from burnish.inference.types import GenerationRequest, SamplingSettings
from burnish.models.language_model import LanguageModel
from burnish.models.load import load_model
from tests.inference.test_engine import greedy, prompts, read, tokens
from tests.inference.test_forward import SMALL
from tests.inference.test_state_runner import FAMILIES, LINEAR

# One goes on by several tokens from a state, the other reads a prompt in one pass.
KINDS = {"qwen3.5": ("qwen3_5_text", SMALL | LINEAR), "jamba": FAMILIES["jamba"][:2]}


def save(kind: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    name, options = KINDS[kind]
    torch.manual_seed(0)
    ends = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id")}
    sizes = {"vocab_size": len(tokenizer), "initializer_range": 0.2}
    config = AutoConfig.for_model(
        name, **options | sizes | ends, pad_token_id=tokenizer.pad_token_id
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=KINDS)
def hybrid_folder(
    request: Any, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: Any
) -> Path:
    return save(request.param, tiny_tokenizer, tmp_path_factory.mktemp("hybrid") / request.param)


@pytest.fixture
def hybrid(hybrid_folder: Path) -> LanguageModel:
    return load_model(str(hybrid_folder), "cpu")


@pytest.fixture
def engine(hybrid: LanguageModel) -> Iterator[Any]:
    opened: list[Engine] = []

    def open_one(**limits: int) -> Engine:
        for earlier in opened:
            earlier.close(seconds=0)
        opened.append(Engine(hybrid, EngineLimits(**limits)))
        assert isinstance(opened[-1]._runner, StateRunner)
        return opened[-1]

    yield open_one
    for one in opened:
        one.close(seconds=0)


def generated(folder: Path, given: list[tuple[int, ...]], length: int, adapter: Any = None) -> Any:
    """What transformers' own `generate` answers to each prompt alone, without stop tokens."""
    model: Any = load_model(str(folder), "cpu", adapter).module
    ends = {model.config.eos_token_id}
    result = []
    for prompt in given:
        with torch.no_grad():
            ids = torch.tensor([prompt])
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=length,
                do_sample=False,
            )
        result.append([token for token in output[0, len(prompt) :].tolist() if token not in ends])
    return result


def test_answers_are_those_of_generate(hybrid_folder: Path, engine: Any) -> None:
    """For prompts of unequal length that come while others run, some with a common beginning."""
    given = prompts() + prompts(seed=1, start=40)
    expected = generated(hybrid_folder, given, 30)
    assert len({token for answer in expected for token in answer}) > 30
    opened = engine(prefill_tokens=16, max_batch=5)
    running = []
    for prompt in given:
        running.append(opened.submit(greedy(prompt, 30)))
        time.sleep(0.01)
    assert [tokens(stream) for stream in running] == expected


def test_a_conversation_goes_on_from_its_answer(hybrid_folder: Path, engine: Any) -> None:
    first = prompts(seed=2)[1]
    opened = engine()
    answer = tokens(opened.submit(greedy(first, 12)))
    longer = (*first, *answer, 5, 6, 7)
    assert [answer] == generated(hybrid_folder, [first], 12)
    _, drawn, last = read(opened.submit(greedy(longer, 12)))
    assert [[each.token for each in drawn]] == generated(hybrid_folder, [longer], 12)
    assert last.used is not None
    assert last.used.cached >= len(first) + len(answer) - 1


def test_answers_to_one_prompt_share_it(hybrid_folder: Path, engine: Any) -> None:
    """Those that wait for the first reader start from its state; another project's do not."""
    prompt = prompts(seed=3)[3]
    opened = engine(prefill_tokens=32)
    running = [opened.submit(greedy(prompt, 8)) for _ in range(4)]
    assert [tokens(stream) for stream in running] == generated(hybrid_folder, [prompt] * 4, 8)
    if not opened._runner.reads_whole:
        assert opened.counters().cached >= 2 * (len(prompt) - 1)
    before = opened.counters().cached
    read(opened.submit(greedy(prompt, 8, project="other")))
    assert opened.counters().cached == before


def test_base_and_adapters_in_one_batch(hybrid_folder: Path, engine: Any, tmp_path: Path) -> None:
    """Each row gives what PEFT gives for its adapter alone, also on recurrent layers."""
    folders: list[Path | None] = [None]
    for seed in range(2):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=["q_proj", "down_proj", "in_proj_qkv", "x_proj"],
            task_type="CAUSAL_LM",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = get_peft_model(load_model(str(hybrid_folder), "cpu").module, config)
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.3)
        folders.append(tmp_path / str(seed))
        adapted.save_pretrained(str(folders[-1]), save_embedding_layers=False)
    prompt, other, *_ = prompts(seed=4, start=20)
    expected = [generated(hybrid_folder, [prompt, other], 12, folder) for folder in folders]
    assert expected[0] != expected[1] != expected[2]
    opened = engine()
    running = [
        [
            opened.submit(greedy(each, 12, adapter=None if folder is None else str(folder)))
            for each in (prompt, other)
        ]
        for folder in folders
    ]
    assert [[tokens(stream) for stream in streams] for streams in running] == expected


def test_slots_are_bounded(engine: Any) -> None:
    """Where room is short the youngest answers are put back, and come out the same."""
    endless = SamplingSettings(130, temperature=0, bias={2: -100.0, 0: -100.0})
    requests = [GenerationRequest(prompt, endless) for prompt in prompts(seed=5)[:4]]
    opened = engine()
    alone = [tokens(opened.submit(request)) for request in requests]
    opened = engine(max_batch=3, cache_tokens=480)
    seen, put_back = [], 0
    advance = opened._scheduler.step

    def watched() -> None:
        nonlocal put_back
        advance()
        scheduler = opened._scheduler
        put_back += any(row.answer.count for row in scheduler.waiting)
        seen.append(scheduler.prefix_cache.used_slots(scheduler._computed()))

    opened._scheduler.step = watched
    running = [opened.submit(request) for request in requests]
    assert [tokens(stream) for stream in running] == alone
    assert put_back, "there was room for all"
    assert max(seen) <= 480


def test_who_hangs_up_leaves_the_batch(engine: Any) -> None:
    opened = engine(max_batch=2)
    endless = SamplingSettings(150, bias={2: -100.0, 0: -100.0})
    long = [opened.submit(GenerationRequest(prompt, endless)) for prompt in prompts()[:2]]
    behind = opened.submit(greedy(prompts()[1], 3))
    with long[0]:
        next(long[0])
        next(long[1])
    assert read(behind)[2].used is not None
    assert len(tokens(long[1])) > 100


def test_a_seed_is_enough(hybrid_folder: Path, engine: Any) -> None:
    prompt = prompts(seed=7)[1]
    request = GenerationRequest(prompt, SamplingSettings(30, temperature=1.3, top_p=0.9, seed=7))
    alone = tokens(engine().submit(request))
    opened = engine(prefill_tokens=8)
    others = [opened.submit(greedy(each)) for each in prompts(seed=8)]
    again = opened.submit(request)
    assert tokens(again) == alone
    for other in others:
        read(other)


def test_the_prompt_has_logprobs(hybrid: LanguageModel, engine: Any) -> None:
    prompt = prompts(seed=9)[1]
    sampling = SamplingSettings(4, temperature=0, top_logprobs=2)
    opened = engine(prefill_tokens=7)
    pieces = list(opened.submit(GenerationRequest(prompt, sampling, prompt_logprobs=True)))
    opened.close()
    with torch.no_grad():
        plain = hybrid.module(torch.tensor([prompt])).logits[0].log_softmax(-1)
    for place, each in enumerate(pieces[0].prompt[1:], start=1):
        assert each.logprob == pytest.approx(float(plain[place - 1, each.token]), abs=1e-4)
