"""Encoders that people use: each learns labels and tags, is judged, saved and opened again."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest

import burnish
from burnish.models.classifier import load_classifier, max_text_tokens
from burnish.models.registry import resolve
from burnish.recipe.schema import recipe_of_rows
from tests.models.encoders import ENCODERS, POSITIONS, save_encoder
from tests.rows import labelled, write_rows


def tagged(pairs: int) -> list[dict[str, Any]]:
    return [
        {"tokens": tokens, "tags": ["B-thing" if word == "tent" else "O" for word in tokens]}
        for i in range(pairs)
        for tokens in (["the", "tent", f"{i}"], ["a", "parcel", f"{i}"])
    ]


ROWS = {"classify": labelled, "tag": tagged}


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(
    request: pytest.FixtureRequest, word_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return save_encoder(request.param, word_tokenizer, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("objective", ROWS)
def test_it_learns_and_opens_again(encoder: Path, objective: str, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", ROWS[objective](16))
    settings = {
        "name": "run",
        "model": str(encoder),
        "objective": objective,
        "training.epochs": 3,
        "training.learning_rate": 0.002,
        "training.batch_size": 8,
        "output": str(tmp_path),
    }
    run = burnish.run(recipe_of_rows(rows, settings), quiet=True)
    assert run.verdict().decision in ("release", "hold", "inconclusive")
    losses = [event["loss"] for event in run.events("train")]
    assert sum(losses[-3:]) < sum(losses[:3])
    tuned = run.results("tuned", "target")
    answers = burnish.open_classifier(run).predict([item.prompt for item in tuned])
    assert [answer.text for answer in answers] == [item.answer for item in tuned]


def test_the_longest_text_is_read(encoder: Path, word_tokenizer: Any, tmp_path: Path) -> None:
    """Its position embeddings alone set the limit: the tokenizer has none."""
    shutil.copytree(encoder, tmp_path, dirs_exist_ok=True)
    limitless = copy.deepcopy(word_tokenizer)
    limitless.model_max_length = 1 << 30
    limitless.save_pretrained(tmp_path)
    model = load_classifier(str(tmp_path), "cpu", "classify", ["a", "b"])
    assert max_text_tokens(resolve(str(tmp_path))) == model.context_length == POSITIONS
    assert model.predict(["x " * (POSITIONS - 2)])[0].text in ("a", "b")
