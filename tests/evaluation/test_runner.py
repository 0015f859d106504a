"""Nothing is computed twice: cache, continuation, and tasks by hand on the mock model."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from burnish.conversation import Conversation, Example, Message
from burnish.evaluation.runner import run_task
from burnish.evaluation.tasks import ChoiceItem, ChooseTask, GenerateTask, TextLossTask, label_task
from burnish.models.interface import Generation, Sampling, Stream
from burnish.runs.directory import read_results
from tests.mock_model import MockModel


class Counting(MockModel):
    """A mock that counts what it was asked."""

    asked = 0

    def generate(
        self, prompts: Sequence[Conversation], sampling: Sampling, stream: Stream | None = None
    ) -> list[Generation]:
        self.asked += len(prompts)
        return super().generate(prompts, sampling, stream)


def example(number: int) -> Example:
    turns = (Message("user", f"question {number}"), Message("assistant", f"answer {number}"))
    return Example(str(number), turns, label=f"answer {number}")


EXAMPLES = [example(number) for number in range(600)]
TASK = GenerateTask("target", EXAMPLES, "accuracy", Sampling())


def test_scores_items(tmp_path: Path) -> None:
    model = Counting({"question 0": "Answer 0.", "question 1": "answer 2"})
    results = run_task(model, TASK, tmp_path / "target.jsonl")
    assert [item.score for item in results[:3]] == [1.0, 0.0, 0.0]
    assert results == read_results(tmp_path / "target.jsonl")


def test_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "target.jsonl"
    whole = run_task(Counting({}), TASK, path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:400]) + lines[400][:30])
    model = Counting({})
    assert run_task(model, TASK, path) == whole
    assert model.asked == 200


def test_another_model_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "target.jsonl"
    run_task(Counting({}), TASK, path)
    model = Counting({"question 0": "answer 0"})
    assert run_task(model, TASK, path)[0].score == 1.0
    assert model.asked == 600


def test_base_results_are_cached_by_model_and_task(tmp_path: Path) -> None:
    first, second, other = Counting({}), Counting({}), Counting({}, otherwise="x")
    cache = tmp_path / "cache"
    run_task(first, TASK, tmp_path / "a.jsonl", cache=cache)
    run_task(second, TASK, tmp_path / "b.jsonl", cache=cache)
    run_task(other, TASK, tmp_path / "c.jsonl", cache=cache)
    assert (first.asked, second.asked, other.asked) == (600, 0, 600)
    assert read_results(tmp_path / "b.jsonl") == read_results(tmp_path / "a.jsonl")


def test_hash_changes_with_what_matters() -> None:
    shorter = GenerateTask("target", EXAMPLES[:5], "accuracy", Sampling())
    sampled = GenerateTask("target", EXAMPLES, "accuracy", Sampling(temperature=1))
    assert len({TASK.hash, shorter.hash, sampled.hash}) == 3


def test_choice_by_likelihood_and_by_length(tmp_path: Path) -> None:
    items = [ChoiceItem("1", "q", ("yes", "no"), 1), ChoiceItem("2", "r", ("yes", "no"), 0)]
    model = MockModel({"q": "no", "r": "no"})  # its answer has log-probability 0, others less
    for by_length in (False, True):
        task = ChooseTask("s", items, by_length)
        results = run_task(model, task, tmp_path / f"{by_length}.jsonl")
        assert [item.score for item in results] == [1.0, 0.0]
        assert [item.answer for item in results] == ["no", "no"]


def test_labels_by_likelihood() -> None:
    labels = [f"answer {n}" for n in range(600)]
    model = MockModel({f"question {n}": f"answer {n}" for n in range(600)})
    results = label_task("target", EXAMPLES, labels).answer(model, 0, 3)
    assert [item.score for item in results] == [1.0, 1.0, 1.0]


def test_text_loss_is_nats_a_token() -> None:
    result = TextLossTask("t", [("1", "one two three")]).answer(MockModel({}), 0, 1)[0]
    assert result.logprob is not None
    assert result.score == pytest.approx(-result.logprob / 3)


def test_what_two_wrote_at_once_or_a_full_disk_cut_is_measured_anew(tmp_path: Path) -> None:
    path, cache = tmp_path / "a.jsonl", tmp_path / "cache"
    whole = run_task(Counting({}), TASK, path, cache=cache)
    (kept,) = cache.iterdir()
    for spoilt in (path.read_text() * 2, path.read_text()[:1000]):
        kept.write_text(spoilt)
        assert run_task(Counting({}), TASK, tmp_path / f"{len(spoilt)}.jsonl", cache=cache) == whole
        assert read_results(kept) == whole
    path.write_text(path.read_text() * 2)
    assert run_task(Counting({}), TASK, path) == whole == read_results(path)
