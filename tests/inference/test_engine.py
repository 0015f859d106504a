"""The engine gives what plain decoding gives, whoever else is asking."""

import asyncio
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from burnish.conversation import Message
from burnish.data.render import render_prompt
from burnish.errors import ModelError
from burnish.inference.engine import Engine
from burnish.inference.scheduler import EngineLimits, Scheduler
from burnish.inference.stream import AnswerStream
from burnish.inference.types import GenerationRequest, Piece, SampledToken, SamplingSettings
from burnish.models.generate import Decoder
from burnish.models.interface import Sampling
from burnish.models.language_model import LanguageModel
from burnish.models.load import load_model
from tests.refused import refused
from tests.serving.api_refused import api_refused

LENGTHS = (3, 40, 7, 90, 1, 55)


def prompts(seed: int = 0, start: int = 0) -> list[tuple[int, ...]]:
    """Of several lengths, the first `start` tokens alike, and never a stop token."""
    generator = torch.Generator().manual_seed(seed)
    alike = torch.randint(3, 340, (start,), generator=generator).tolist()
    return [
        tuple(alike + torch.randint(3, 340, (n,), generator=generator).tolist()) for n in LENGTHS
    ]


def greedy(prompt: tuple[int, ...], tokens: int = 20, **more: Any) -> GenerationRequest:
    return GenerationRequest(
        prompt, SamplingSettings(tokens, temperature=0, top_logprobs=0), **more
    )


def read(stream: AnswerStream) -> tuple[str, list[SampledToken], Piece]:
    pieces = list(stream)
    text = "".join(piece.text for piece in pieces)
    return text, [drawn for piece in pieces for drawn in piece.drawn], pieces[-1]


def tokens(stream: AnswerStream) -> list[int]:
    return [drawn.token for drawn in read(stream)[1]]


def decoded(model: LanguageModel, given: list[tuple[int, ...]], length: int = 20) -> list[Any]:
    decoder = Decoder(model.network, model.tokenizer, Sampling(max_new_tokens=length))
    return [decoder.answers([prompt])[0][0] for prompt in given]


def plain_tokens(answer: Any, model: LanguageModel) -> list[int]:
    ends = {model.tokenizer.eos_token_id}
    return [token for token in answer.tokens if token not in ends]


def test_greedy_is_what_plain_decoding_says(model: LanguageModel, engine: Any) -> None:
    given = prompts()
    expected = decoded(model, given)
    assert not all(plain.finished for plain in expected)
    opened = engine(prefill_tokens=16)
    for prompt, plain in zip(given, expected, strict=True):
        text, drawn, last = read(opened.submit(greedy(prompt)))
        assert [each.token for each in drawn] == plain_tokens(plain, model)
        assert text == plain.text
        assert last.end == ("stop" if plain.finished else "length")
        assert last.used is not None
        assert last.used.drawn == len(plain.tokens)
        if not plain.finished:
            assert sum(each.logprob or 0.0 for each in drawn) == pytest.approx(
                plain.logprob, abs=1e-3
            )


@pytest.mark.parametrize("start", [0, 12, 70])
def test_answers_do_not_depend_on_who_joins_when(
    model: LanguageModel, engine: Any, start: int
) -> None:
    """With no, a copied and a shared common beginning."""
    given = prompts(seed=1, start=start)
    expected = decoded(model, given, 40)
    opened = engine(prefill_tokens=16, max_batch=4)
    running = []
    for prompt in given:
        running.append(opened.submit(greedy(prompt, 40)))
        time.sleep(0.01)  # the others are somewhere in between
    for stream, plain in zip(running, expected, strict=True):
        assert tokens(stream) == plain_tokens(plain, model)
    if start > 12:  # for the last 32 tokens nobody waits
        assert opened.counters().cached >= (start - 32) * (len(given) - 1)


def test_base_and_adapters_in_one_batch(
    model: LanguageModel, engine: Any, adapters: dict[str, str], tiny_folder: Path
) -> None:
    """Each row gives what PEFT gives for its adapter alone."""
    prompt = prompts(seed=2)[3]
    whose = [None, *adapters.values()]
    expected = []
    for folder in whose:
        alone = load_model(str(tiny_folder), "cpu", None if folder is None else Path(folder))
        expected.append(decoded(alone, [prompt])[0])
    opened = engine()
    running = [opened.submit(greedy(prompt, adapter=folder)) for folder in whose * 2]
    found = [read(stream) for stream in running]
    for (_, drawn, _), plain in zip(found, expected * 2, strict=True):
        assert [each.token for each in drawn] == plain_tokens(plain, model)
    assert len({text for text, *_ in found}) == len(whose), "an adapter changed nothing"


def test_a_known_beginning_is_not_computed_again(engine: Any) -> None:
    first, second = prompts(seed=3, start=60)[:2]
    opened = engine()
    cold = tokens(opened.submit(greedy(first)))
    assert tokens(opened.submit(greedy(second))) != cold
    _, drawn, last = read(opened.submit(greedy(first)))
    assert [each.token for each in drawn] == cold
    assert last.used is not None
    assert last.used.cached == len(first) - 1
    # A conversation goes on from the answer.
    longer = (*first, *cold, 5, 6, 7)
    last = read(opened.submit(greedy(longer)))[2]
    assert last.used is not None
    assert last.used.cached >= len(first) + len(cold) - 1
    warm = tokens(opened.submit(greedy(longer)))
    assert warm == tokens(engine().submit(greedy(longer)))


def test_projects_share_no_beginning(engine: Any) -> None:
    """Neither of what runs nor of what is kept: else one could guess another's prompts."""
    prompt = prompts(seed=3, start=60)[3]
    opened = engine()
    asked = [greedy(prompt, project=project) for project in ("a", "b", None, "a")]
    first = [opened.submit(request) for request in asked]
    assert len({tuple(tokens(stream)) for stream in first}) == 1
    assert opened.counters().cached == len(prompt) - 1
    for project, known in (("a", len(prompt) - 1), ("c", 0), ("c", len(prompt) - 1)):
        last = read(opened.submit(greedy(prompt, project=project)))[2]
        assert last.used is not None
        assert last.used.cached == known


def test_n_answers_share_their_prompt(engine: Any) -> None:
    prompt = prompts(seed=4)[3]
    opened = engine()
    requests = [GenerationRequest(prompt, SamplingSettings(12, seed=number)) for number in range(5)]
    found = [tokens(stream) for stream in [opened.submit(request) for request in requests]]
    assert len({tuple(each) for each in found}) > 1
    assert opened.counters().cached == 4 * (len(prompt) - 1)


def test_a_seed_is_enough(engine: Any) -> None:
    """Whatever else is in the batch."""
    prompt = prompts(seed=5)[1]
    request = GenerationRequest(prompt, SamplingSettings(40, temperature=1.3, top_p=0.9, seed=7))
    alone = tokens(engine().submit(request))
    opened = engine(prefill_tokens=8)
    others = [
        opened.submit(GenerationRequest(each, SamplingSettings(30, seed=1)))
        for each in prompts(seed=6)
    ]
    again = opened.submit(request)
    others += [opened.submit(greedy(each)) for each in prompts(seed=7)]
    assert tokens(again) == alone
    for other in others:
        read(other)
    assert (
        tokens(
            opened.submit(
                GenerationRequest(prompt, SamplingSettings(40, temperature=1.3, top_p=0.9, seed=8))
            )
        )
        != alone
    )


def test_a_seed_is_enough_where_an_answer_is_put_back(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The youngest goes back when the rows have grown beyond the places that there are."""
    put_back: list[GenerationRequest] = []
    sizes = Scheduler._plan_step

    def seen(batch: Scheduler) -> Any:
        before = list(batch.rows)
        found = sizes(batch)
        put_back.extend(row.request for row in before if row not in batch.rows)
        return found

    monkeypatch.setattr(Scheduler, "_plan_step", seen)
    first, second, third, *_ = prompts(seed=5)
    long: dict[str, Any] = {"temperature": 1.3, "top_p": 0.9, "bias": {2: -100.0}}
    request = GenerationRequest(third, SamplingSettings(200, **long, seed=7))
    alone = tokens(engine().submit(request))
    assert put_back == []
    opened = engine(cache_tokens=500)
    others = [
        opened.submit(GenerationRequest(each, SamplingSettings(200, **long, seed=1)))
        for each in (first, second)
    ]
    again = opened.submit(request)
    assert tokens(again) == alone
    assert request in put_back
    for other in others:
        assert len(tokens(other)) == 200


def test_logprobs_are_those_of_a_plain_pass(model: LanguageModel, engine: Any) -> None:
    """Of the unchanged distribution, although bias and penalties change what is drawn."""
    prompt = prompts(seed=8)[2]
    sampling = SamplingSettings(
        8, temperature=0, top_logprobs=3, bias={17: 50.0}, frequency_penalty=30.0
    )
    _, drawn, _ = read(engine().submit(GenerationRequest(prompt, sampling, prompt_logprobs=True)))
    whole = [*prompt, *(each.token for each in drawn)]
    with torch.no_grad():
        plain = model.module(torch.tensor([whole])).logits[0].log_softmax(-1)
    for place, each in enumerate(drawn, start=len(prompt)):
        before = plain[place - 1]
        assert each.logprob == pytest.approx(float(before[each.token]), abs=1e-4)
        values, best = before.topk(3)
        assert [token for token, _ in each.top] == best.tolist()
        assert [value for _, value in each.top] == pytest.approx(values.tolist(), abs=1e-4)
    assert drawn[0].token == 17


@pytest.mark.parametrize("length", [0, 4])
def test_the_prompt_is_told_once(model: LanguageModel, engine: Any, length: int) -> None:
    prompt = prompts(seed=9)[1]
    opened = engine(prefill_tokens=7)
    read(opened.submit(greedy(prompt)))  # a known beginning must not leave its tokens out
    sampling = SamplingSettings(length, temperature=0, top_logprobs=2)
    pieces = list(opened.submit(GenerationRequest(prompt, sampling, prompt_logprobs=True)))
    with_logprob = pieces[0].prompt
    assert not any(piece.prompt for piece in pieces[1:])
    assert [each.token for each in with_logprob] == list(prompt)
    assert with_logprob[0].logprob is None
    with torch.no_grad():
        plain = model.module(torch.tensor([prompt])).logits[0].log_softmax(-1)
    for place, each in enumerate(with_logprob[1:], start=1):
        assert each.logprob == pytest.approx(float(plain[place - 1, each.token]), abs=1e-4)
        assert len(each.top) == 2
    assert pieces[-1].end is not None


def test_who_hangs_up_leaves_the_batch(engine: Any) -> None:
    opened = engine(max_batch=1)
    long = opened.submit(
        GenerationRequest(prompts()[0], SamplingSettings(500, bias={2: -100.0, 0: -100.0}))
    )
    behind = opened.submit(greedy(prompts()[1], 3))
    with long:
        next(long)
        assert opened.counters().running == 1
    assert read(behind)[2].used is not None
    assert opened.counters().generated < 500


def test_one_failing_answer_leaves_the_others(
    model: LanguageModel, engine: Any, tmp_path: Path
) -> None:
    class Broken:
        ended = False

        def mask(self, logits_V: torch.Tensor, stops: Collection[int] = ()) -> None:
            raise RuntimeError("broken grammar")

        def advance(self, token: int) -> None:
            raise AssertionError

    given = prompts(seed=10)
    expected = decoded(model, given)
    opened = engine()
    running = [opened.submit(greedy(prompt)) for prompt in given]
    broken = opened.submit(GenerationRequest(given[0], SamplingSettings(9, grammar=Broken)))
    (tmp_path / "adapter_config.json").write_text("[1]")
    missing = [
        opened.submit(greedy(given[1], adapter=str(folder)))
        for folder in (tmp_path / "nothing", tmp_path)
    ]
    with pytest.raises(RuntimeError, match="broken grammar"):
        read(broken)
    for stream in missing:
        with refused("adapter_unreadable", ModelError):
            read(stream)
    for stream, plain in zip(running, expected, strict=True):
        assert tokens(stream) == plain_tokens(plain, model)


def test_a_pass_that_fails_fails_only_its_row(
    model: LanguageModel, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = prompts(seed=11)
    expected = decoded(model, given)
    opened = engine()
    run = opened._runner.run

    def failing(new: Any) -> Any:
        if any(each.row.tokens[:2] == list(given[3][:2]) for each in new):
            raise MemoryError("no room for this one")
        return run(new)

    monkeypatch.setattr(opened._runner, "run", failing)
    running = [opened.submit(greedy(prompt)) for prompt in given]
    for index, (stream, plain) in enumerate(zip(running, expected, strict=True)):
        if index == 3:
            with pytest.raises(MemoryError):
                read(stream)
        else:
            assert tokens(stream) == plain_tokens(plain, model)


def test_rows_and_places_are_bounded(model: LanguageModel, engine: Any) -> None:
    """Where room is short the youngest answers are put back, and come out the same."""
    given = [prompt for seed in range(2) for prompt in prompts(seed)]
    expected = decoded(model, given, 140)
    opened = engine(max_batch=5, cache_tokens=512)
    seen, put_back = [], 0
    advance = opened._scheduler.step

    def watched() -> None:
        nonlocal put_back
        advance()
        put_back += any(row.answer.count for row in opened._scheduler.waiting)
        seen.append(
            (
                len(opened._scheduler.rows),
                opened._scheduler.prefix_cache.used_slots(opened._scheduler._computed()),
            )
        )

    opened._scheduler.step = watched
    running = [opened.submit(greedy(prompt, 140)) for prompt in given]
    for stream, plain in zip(running, expected, strict=True):
        assert tokens(stream) == plain_tokens(plain, model)
    assert put_back, "there was room for all"
    assert max(rows for rows, _ in seen) <= 5
    assert max(places for _, places in seen) <= 512


def test_what_cannot_be_computed_is_refused(engine: Any) -> None:
    opened = engine(cache_tokens=128, max_waiting=2, max_batch=1)
    assert opened.context == 128
    with api_refused("context_length_exceeded", 128):
        opened.submit(greedy((5,) * 128))
    with api_refused("context_length_exceeded", 128, 200):
        opened.submit(
            GenerationRequest((5,) * 200, SamplingSettings(128 - 200))
        )  # what is left of the context
    with api_refused("empty_prompt", param="prompt"):
        opened.submit(greedy(()))
    with api_refused("invalid_token", param="prompt"):
        opened.submit(greedy((5, 10_000)))
    with api_refused("invalid_token", param="logit_bias"):
        opened.submit(GenerationRequest((5,), SamplingSettings(4, bias={10_000: 1.0})))
    endless = {2: -100.0, 0: -100.0}
    running = opened.submit(GenerationRequest((5,), SamplingSettings(1000, bias=endless)))
    next(running)
    waiting = [opened.submit(greedy((5,))) for _ in range(2)]
    with api_refused("overloaded", status=503):
        opened.submit(greedy((5,)))
    assert read(running)[2].end == "length"  # at the end of the context
    for stream in waiting:
        read(stream)


def test_close_finishes_what_was_asked(model: LanguageModel, engine: Any) -> None:
    opened = engine()
    running = [opened.submit(greedy(prompt)) for prompt in prompts()]
    opened.close()
    assert all(read(stream)[2].end for stream in running)
    with api_refused("shutting_down", status=503):
        opened.submit(greedy((5,)))
    assert model.module.config._attn_implementation == "sdpa"
    assert not any(module._forward_hooks for module in model.module.modules())


def test_close_does_not_wait_for_ever(engine: Any) -> None:
    opened = engine()
    long = opened.submit(
        GenerationRequest((5,), SamplingSettings(500, bias={2: -100.0, 0: -100.0}))
    )
    next(long)
    opened.close(seconds=0)
    with api_refused("shutting_down", status=503):
        read(long)


def test_pieces_come_to_an_event_loop(model: LanguageModel, engine: Any) -> None:
    given = prompts()
    expected = decoded(model, given)
    opened = engine()

    async def one(prompt: tuple[int, ...]) -> list[int]:
        with opened.submit(greedy(prompt)) as stream:
            return [drawn.token async for piece in stream for drawn in piece.drawn]

    async def everyone() -> list[list[int]]:
        return await asyncio.gather(*(one(prompt) for prompt in given))

    found = asyncio.run(everyone())
    assert found == [plain_tokens(plain, model) for plain in expected]


@pytest.mark.slow
def test_the_built_in_model_answers_as_it_does_alone(smollm2: LanguageModel) -> None:
    questions = ["What is the capital of France?", "Name three colours.", "Write about rain."]
    asked = [(Message("system", "Answer shortly. " * 20), Message("user", q)) for q in questions]
    expected = smollm2.generate(asked, Sampling(max_new_tokens=12))
    opened = Engine(smollm2, EngineLimits(prefill_tokens=64))
    rendered = [tuple(render_prompt(each, smollm2.tokenizer)) for each in asked]
    running = [opened.submit(greedy(prompt, 12)) for prompt in rendered]
    found = [read(stream)[0] for stream in running]
    assert opened.counters().cached > 100
    opened.close()
    assert found == [plain.text for plain in expected]


def test_an_adapted_model_is_no_base(tiny_folder: Path, adapters: dict[str, str]) -> None:
    adapted = load_model(str(tiny_folder), "cpu", Path(adapters["plain"]))
    assert isinstance(adapted.module, PeftModel)
    with refused("model_has_adapter", ModelError):
        Engine(adapted)
