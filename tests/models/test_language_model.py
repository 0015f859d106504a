"""The three verbs against plain transformers, on a tiny model and on the built-in one."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from burnish.conversation import Message
from burnish.data.chat_templates import next_speaker_index
from burnish.data.render import render_prompt
from burnish.errors import ModelError
from burnish.evaluation.tasks import DivergenceTask, Opening
from burnish.models import generate
from burnish.models.adapt import METHODS
from burnish.models.branches import Network, Row, branch_logprobs
from burnish.models.interface import Choice, Model, Sampling
from burnish.models.language_model import LanguageModel
from burnish.models.load import load_model
from tests.mock_model import MockModel
from tests.refused import refused

PROMPTS = [
    (Message("user", "where is my parcel"),),
    (Message("system", "red or green"), Message("user", "the tent is torn, please send one")),
    (Message("user", "yes"),),
]


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> LanguageModel:
    return load_model(str(tiny_folder), "cpu")


def plain_logprob(model: LanguageModel, before: list[int], behind: list[int]) -> float:
    logits = model.module(input_ids=torch.tensor([before + behind])).logits[0]
    logprobs = logits.log_softmax(-1)[len(before) - 1 : -1]
    return float(logprobs.gather(1, torch.tensor(behind)[:, None]).sum())


@torch.no_grad()
def test_score_equals_plain(tiny: LanguageModel) -> None:
    items = [
        Choice("where is my parcel and", (" when", " will it come", " no")),
        Choice("where is my tent", (" yes", " red green blue")),
        Choice("", ("the tent is torn", "the tent are torn")),
        Choice(PROMPTS[0], ("green", "red")),
    ]
    for item, scores in zip(items, tiny.score(items), strict=True):
        for choice, found in zip(item.choices, scores.logprobs, strict=True):
            if isinstance(item.context, str):
                bos = [] if item.context else [tiny.tokenizer.bos_token_id]
                before = bos + tiny.tokenizer(item.context)["input_ids"]
                whole = tiny.tokenizer(item.context + choice)["input_ids"]
                behind = whole[len(before) - len(bos) :]
            else:
                before = render_prompt(item.context, tiny.tokenizer)
                behind = tiny.tokenizer(choice)["input_ids"]
            assert found == pytest.approx(plain_logprob(tiny, before, behind), abs=1e-3)


@torch.no_grad()
def test_greedy_generation_equals_plain(tiny: LanguageModel) -> None:
    answers = tiny.generate(PROMPTS, Sampling(max_new_tokens=12))
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        tokens = render_prompt(prompt, tiny.tokenizer)
        for expected in answer.tokens:
            logits = tiny.module(input_ids=torch.tensor([tokens])).logits[0, -1]
            assert int(logits.argmax()) == expected
            tokens.append(expected)


def test_answers_do_not_depend_on_the_batch_nor_fill_the_memory(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["parcel " * (1 + place % 5) for place in range(11)]
    prompts = [(Message("user", text),) for text in texts]
    whole = tiny.generate(prompts, Sampling(max_new_tokens=6))
    asked: list[tuple[int, int]] = []
    extend = Network.extend

    def watched(network: Network, prefix: Any, rows: Any, *args: Any, **more: Any) -> Any:
        asked.append((len(rows), len(rows) * (max(map(len, rows)) + 6)))
        return extend(network, prefix, rows, *args, **more)

    monkeypatch.setattr(Network, "extend", watched)
    for answers, tokens in ((4, 10_000), (100, 200)):
        monkeypatch.setattr(generate, "_ANSWERS_AT_ONCE", answers)
        monkeypatch.setattr(generate, "_TOKENS_AT_ONCE", tokens)
        asked.clear()
        found = tiny.generate(prompts, Sampling(max_new_tokens=6))
        assert [answer.text for answer in found] == [answer.text for answer in whole]
        assert 1 < max(rows for rows, _ in asked) <= answers
        assert max(size for _, size in asked) <= tokens


def test_sampling_is_seeded_and_streamed(tiny: LanguageModel) -> None:
    pieces: dict[int, str] = {0: "", 1: "", 2: ""}

    def stream(index: int, text: str) -> None:
        pieces[index] += text

    drawn = Sampling(max_new_tokens=20, temperature=1.0, top_p=0.9, seed=4)
    first = tiny.generate(PROMPTS, drawn, stream)
    assert [answer.text for answer in first] == list(pieces.values())
    assert tiny.generate(PROMPTS, drawn) == first


def test_stop_strings_are_cut_off(tiny: LanguageModel) -> None:
    free = tiny.generate(PROMPTS[:1], Sampling(max_new_tokens=20))[0].text
    stop = free[5:7]
    found = tiny.generate(PROMPTS[:1], Sampling(max_new_tokens=20, stop=(stop,)))[0]
    assert found.text == free[: free.index(stop)]
    assert found.finished


@pytest.mark.parametrize("said", ["at home\nuser:\nthanks", "user: thanks", "at home\nusers"])
def test_an_answer_ends_where_another_speaks(
    said: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model without a chat template, whose answers no token may end; nothing of it leaks."""
    model = load_model(str(tiny_folder), "cpu")
    written = [*model.tokenizer(said)["input_ids"], model.tokenizer.eos_token_id]
    steps = iter(written * 2)
    monkeypatch.setattr(
        generate,
        "_sample",
        lambda logprobs_B_V, *_: torch.tensor([next(steps)] * len(logprobs_B_V)),
    )
    asked = [(Message("user", "where is it"),)]
    with_template = model.fingerprint
    (whole,) = model.generate(asked, Sampling())
    assert whole.text == said
    model.tokenizer.chat_template = None
    assert model.fingerprint != with_template
    steps = iter(written)
    shown: list[str] = []
    (answer,) = model.generate(asked, Sampling(), lambda _, text: shown.append(text))
    cut = next_speaker_index(said)
    expected = said if cut is None else said[:cut]
    assert "".join(shown) == answer.text == expected
    assert answer.finished
    decoded = model.tokenizer.decode(answer.tokens, skip_special_tokens=True)
    assert decoded == (expected or "user"[: len(decoded)])


@torch.no_grad()
def test_text_loss_equals_plain(tiny: LanguageModel) -> None:
    texts = ["where is my parcel and when will it come", "red", "green blue yes " * 60]
    for text, found in zip(texts, tiny.nll(texts), strict=True):
        tokens = tiny.tokenizer(text)["input_ids"]
        assert found.tokens == len(tokens)
        expected = plain_logprob(tiny, [tiny.tokenizer.bos_token_id], tokens)
        assert found.nats == pytest.approx(-expected, abs=1e-2)


@pytest.mark.parametrize(("method", "options"), [("lora", {"rank": 2, "alpha": 4}), ("full", {})])
@torch.no_grad()
def test_divergence_equals_plain(
    method: str, options: dict[str, Any], tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(tiny_folder), "cpu")
    with model.keeping_base():
        model.module = METHODS[method](model.module, seed=0, **options)
        torch.manual_seed(1)
        for parameter in model.module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.03 * torch.randn_like(parameter))
    answered = [(PROMPTS[0], "it will come"), (PROMPTS[1], "red"), (PROMPTS[2], "the tent is torn")]
    monkeypatch.setattr("burnish.models.branches._PROJECTED_AT_ONCE", 3)
    found = model.divergence(answered)
    for (prompt, reply), nats in zip(answered, found, strict=True):
        before = render_prompt(prompt, model.tokenizer)
        tokens = torch.tensor([before + model.tokenizer(reply)["input_ids"]])
        own = model.module(input_ids=tokens).logits[0, len(before) - 1 : -1].log_softmax(-1)
        with model.base():
            base = model.module(input_ids=tokens).logits[0, len(before) - 1 : -1].log_softmax(-1)
        expected = (base.exp() * (base - own)).sum(-1).mean()
        assert nats == pytest.approx(float(expected), rel=1e-3)
        assert nats > 1e-4
    with model.base() as base_model:
        assert base_model.divergence(answered) == [0.0, 0.0, 0.0]
    with model.at_scale(0.0):
        assert model.divergence(answered) == pytest.approx([0.0, 0.0, 0.0], abs=1e-5)
    task = DivergenceTask("d", [Opening("1", PROMPTS[0], "it will come")])
    assert task.answer(model, 0, 1)[0].score == pytest.approx(found[0], rel=1e-3)


def test_an_answer_ends_where_the_model_reads_no_further(tiny: LanguageModel) -> None:
    """Beside a short prompt in its batch, whose answer is as long as it would be alone."""
    short = (Message("user", "x"),)
    words = "x" * 400
    while len(render_prompt((Message("user", words),), tiny.tokenizer)) < tiny.context_length - 5:
        words += "x"
    long = (Message("user", words),)
    room = tiny.context_length - len(render_prompt(long, tiny.tokenizer))
    sampling = Sampling(max_new_tokens=9)
    cut, whole = tiny.generate([long, short], sampling)
    assert len(cut.tokens) == room == 5
    assert not cut.finished
    assert whole.tokens == tiny.generate([short], sampling)[0].tokens


def test_what_is_too_long_is_refused(tiny: LanguageModel) -> None:
    with refused("too_many_tokens", ModelError, limit=512):
        tiny.generate([(Message("user", "x" * 600),)], Sampling())


@pytest.mark.parametrize("kind", ["mock", "real"])
def test_both_speak_the_verbs(kind: str, tiny: LanguageModel) -> None:
    model: Model = MockModel({"yes": "no"}) if kind == "mock" else tiny
    assert len(model.generate(PROMPTS, Sampling(max_new_tokens=2))) == 3
    assert len(model.score([Choice("yes", ("no", "yes"))])[0].logprobs) == 2
    assert model.nll(["yes no"])[0].tokens > 0


@pytest.mark.slow
def test_trunk_equals_plain_on_the_built_in_model(smollm2: LanguageModel) -> None:
    tokens = [
        smollm2.tokenizer(f"You sort messages to the support desk. {text}")["input_ids"]
        for text in ("Where is my parcel?", "Cancel it", "The tent is torn and I want another one")
    ]
    rows = [Row(t, [0.0] * 9 + [1.0] * (len(t) - 9)) for t in tokens]
    head = smollm2.module.model.layers[3].self_attn.q_proj.weight
    for parameter in smollm2.module.parameters():
        parameter.requires_grad_(parameter is head)
    found = branch_logprobs(Network(smollm2.module), rows)
    loss = -(found.values_N * found.weights_N).sum()
    loss.backward()
    ours = head.grad.clone()
    head.grad = None
    plain = sum(
        torch.nn.functional.cross_entropy(
            smollm2.module(input_ids=torch.tensor([t])).logits[0, 8:-1],
            torch.tensor(t[9:]),
            reduction="sum",
        )
        for t in tokens
    )
    plain.backward()
    torch.testing.assert_close(loss, plain, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(ours, head.grad, atol=1e-3 * float(ours.abs().max()), rtol=1e-3)


@pytest.mark.slow
def test_the_built_in_model_answers(smollm2: LanguageModel) -> None:
    asked = (Message("user", "What is the capital of France?"),)
    assert "Paris" in smollm2.generate([asked], Sampling(max_new_tokens=20))[0].text


@pytest.mark.slow
def test_every_section_of_the_suite_is_unique_and_short(smollm2: Any) -> None:
    from statistics import median

    from burnish.evaluation.suite import load_suite
    from burnish.evaluation.tasks import ChoiceItem

    suite = load_suite("core")
    assert len(suite.sections) >= 12
    assert all(len(section) >= 100 for section in suite.sections)
    asked = [
        " ".join((item.question, *item.choices))
        if isinstance(item, ChoiceItem)
        else " ".join(turn.content for turn in item.prompt)
        for section in suite.sections
        for item in section.items
    ]
    assert len(set(asked)) == len(asked) >= 2500
    assert median(len(smollm2.tokenizer(text)["input_ids"]) for text in asked) < 30


def test_pickled_weights_are_not_opened(tiny_folder: Path, tmp_path: Path) -> None:
    """Also not beside a file that makes the folder look like one of safetensors."""
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    with refused("not_a_language_model", ModelError, model=str(folder)) as error:
        load_model(str(folder), "cpu")
    assert "safetensors" in error.value.fields["reason"]
