"""What the base writes itself: whole rows, written once, learnt beside the task."""

from pathlib import Path
from typing import Any

import pytest
import torch

import burnish
from burnish.errors import DataError, ModelError
from burnish.models.branches import Row, branch_logprobs
from burnish.models.language_model import LanguageModel
from burnish.models.load import load_model
from burnish.training.replay import Replayed, own_rows, replayed
from tests.refused import refused
from tests.rows import write_rows


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    """A random model seldom ends a turn; this one is biased towards its stop token."""
    found = load_model(str(tiny_folder), "cpu")
    stop = found.tokenizer.eos_token_id
    head: Any = found.network.model.get_output_embeddings()
    bias = torch.zeros(head.weight.shape[0])
    bias[stop] = 2.0
    head.bias = torch.nn.Parameter(bias)
    return found


def test_rows_are_conversations_whose_answers_are_learnt(
    model: LanguageModel, tmp_path: Path
) -> None:
    found = replayed(model, 6, 0, tmp_path)
    assert len({one.question for one in found}) == len(found) == 6
    stop = model.tokenizer.eos_token_id
    for one in found:
        learnt = [
            token for token, weight in zip(one.tokens, one.row.weights, strict=True) if weight
        ]
        written = [token for token in learnt if token != stop]
        assert model.tokenizer.decode(written, skip_special_tokens=True) == one.answer
        assert stop not in learnt[:-1]
        assert one.example.messages[0].content == one.question


def test_they_are_written_once_and_alike(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = replayed(model, 4, 1, tmp_path / "one")
    assert replayed(model, 4, 1, tmp_path / "other") == first
    assert replayed(model, 4, 2, tmp_path / "other") != first
    monkeypatch.setattr("burnish.training.replay._questions", lambda *_: pytest.fail("again"))
    assert replayed(model, 4, 1, tmp_path / "one") == first


def test_at_the_base_the_expected_gradient_is_nothing(model: LanguageModel, tmp_path: Path) -> None:
    """The score has mean 0 under the model's own samples: of 8 times as many, the norm of the mean
    is the square root of 8 times smaller. Under another token it stays.
    """
    weight: Any = model.network.model.get_output_embeddings().weight

    def gradient(rows: list[Any]) -> torch.Tensor:
        weight.requires_grad_(True)
        weight.grad = None
        for row in rows:
            (-branch_logprobs(model.network, [row]).values_N.sum() / len(rows)).backward()
        return weight.grad.clone()

    own = [one.row for one in replayed(model, 160, 3, tmp_path)]
    other = [
        Row([5 if w else t for t, w in zip(row.tokens, row.weights, strict=True)], row.weights)
        for row in own
    ]
    assert gradient(own[:20]).norm() > 1.8 * gradient(own).norm()
    assert gradient(other[:20]).norm() < 1.5 * gradient(other).norm()


def test_a_model_without_a_template_says_so(model: LanguageModel, tmp_path: Path) -> None:
    template = model.tokenizer.chat_template
    try:
        model.tokenizer.chat_template = None
        with refused("no_chat_template", ModelError):
            replayed(model, 2, 9, tmp_path)
    finally:
        model.tokenizer.chat_template = template


def rows_file(folder: Path, count: int, words: int = 3) -> Path:
    asked = [{"question": f"what is {i}" + " so" * words, "answer": "that"} for i in range(count)]
    return write_rows(folder / "general.jsonl", asked)


def test_own_rows_are_drawn_learnt_and_held(model: LanguageModel, tmp_path: Path) -> None:
    path = rows_file(tmp_path, 600)
    found = own_rows(path, model.tokenizer, 12, 5, None)
    assert len({one.example.id for one in found}) == 12
    assert found == own_rows(path, model.tokenizer, 12, 5, None)
    assert found != own_rows(path, model.tokenizer, 12, 6, None)
    for one in found:
        learnt = [t for t, weight in zip(one.row.tokens, one.row.weights, strict=True) if weight]
        assert model.tokenizer.decode(learnt, skip_special_tokens=True).strip() == "that"
        assert one.whole.weights == [0.0] + [1.0] * (one.row.size - 1)


def test_too_few_own_rows_that_fit_are_told(model: LanguageModel, tmp_path: Path) -> None:
    path = rows_file(tmp_path, 8)
    with refused("too_few_rows", DataError, path=str(path), count=8, expected=9):
        own_rows(path, model.tokenizer, 9, 0, None)
    longer = rows_file(tmp_path, 2, 200).read_text()
    path = rows_file(tmp_path, 8)
    path.write_text(path.read_text() + longer.replace("what is", "who is"))
    with refused("too_few_rows", DataError, count=8, expected=9):
        own_rows(path, model.tokenizer, 9, 0, 100)


def test_of_automatic_rows_runs_of_all_seeds_share_what_is_written(
    model: LanguageModel, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def written(_: LanguageModel, *asking: Any) -> list[Replayed]:
        asked.append(asking[:2])
        return replayed(model, 6, 0, tmp_path)

    monkeypatch.setattr("burnish.training.replay.replayed", written)
    rows_file(tmp_path, 40)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {tiny_folder}\noutput: {tmp_path}\ndata: {{train: general.jsonl}}\n"
        "training: {epochs: 1, preflight: false}\nevaluate: {general: null}\n"
    )
    for rows, seed in (("auto", 1), ("auto", 2), (6, 2)):
        settings = {"replay.rows": rows, "seed": seed, "name": f"{rows}-{seed}"}
        run = burnish.train(recipe, quiet=True, **settings)
        assert [line["rows"] for line in run.events() if line["phase"] == "replay"] == [6]
    assert asked == [(64, 0), (64, 0), (6, 2)]


@pytest.mark.parametrize("mode", ["anchor", "text"])
def test_a_recipe_names_own_rows_beside_itself(
    tmp_path: Path, tiny_folder: Path, mode: str
) -> None:
    rows_file(tmp_path, 80)
    rows = [{"text": f"tent number {i}", "label": ("red", "green")[i % 2]} for i in range(40)]
    write_rows(tmp_path / "rows.jsonl", rows)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: own\nmodel: {tiny_folder}\noutput: {tmp_path}\ndata: {{train: rows.jsonl}}\n"
        "training: {epochs: 1, preflight: false}\nevaluate: {general: null}\n"
        f"replay: {{data: general.jsonl, mode: {mode}}}\n"
    )
    run = burnish.train(recipe, quiet=True)
    read = list(run.stream("replay"))
    assert len(read) == 64
    assert all(one.prompt[-1].content.startswith("what is") for one in read)
    manifest = run.manifest()
    assert manifest.origins["replay.rows"] == "derived"
    held = [line for line in run.events() if "anchor" in " ".join(line)]
    assert bool(held) == (mode == "anchor")
