"""Tasks of lm-eval-harness: asked by our verbs, each item is answered as the harness answers it."""

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import DataError
from burnish.evaluation.contamination import texts_of
from burnish.evaluation.lm_eval import HarnessTask
from burnish.evaluation.load_suite import load_suites
from burnish.models.load import load_model
from tests.refused import refused

if importlib.util.find_spec("lm_eval") is None:
    pytest.skip("lm-eval-harness is not installed", allow_module_level=True)

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{train: {folder}/train.json, test: {folder}/test.json}}}}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
num_fewshot: 2
metric_list:
- {{metric: acc, aggregation: mean, higher_is_better: true}}
- {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""

WORDS = ("where", "is", "my", "red", "green", "tent", "parcel", "when", "will", "it", "come")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = random.Random(0)
    for split, count in (("train", 6), ("test", 40)):
        rows = [
            {
                "question": f"{split} {' '.join(draw.choices(WORDS, k=6))} {n}?",
                "choices": [" ".join(draw.choices(WORDS, k=k)) for k in (1, 2, 5)],
                "answer": n % 3,
            }
            for n in range(count)
        ]
        (tmp_path / f"{split}.json").write_text(json.dumps(rows))
    return tmp_path


def write(folder: Path, text: str = TASK, name: str = "parcels", **changed: str) -> str:
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / f"{name}.yaml"
    path.write_text(text.format(name=name, folder=folder))
    return f"lm_eval:{path}"


def section(name: str) -> HarnessTask:
    (suite,) = load_suites([name])
    (only,) = suite.sections
    assert isinstance(only, HarnessTask)
    return only


def harness_samples(name: str, model: Any) -> list[dict[str, Any]]:
    """The harness's own answers by its own model class."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        HFLM(pretrained=model.module, tokenizer=model.tokenizer, batch_size=4),
        tasks=[name.removeprefix("lm_eval:")],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
    )
    (samples,) = found["samples"].values()
    return sorted(samples, key=lambda sample: sample["doc_id"])


@pytest.mark.filterwarnings("ignore")
def test_either_of_two_right_answers_is_right_as_for_the_harness(
    folder: Path, tiny_folder: Path
) -> None:
    text = TASK.replace("num_fewshot: 2", "num_fewshot: 0")
    name = write(folder, text.replace("doc_to_target: answer", 'doc_to_target: "[0, 2]"'))
    task, model = section(name), load_model(str(tiny_folder), "cpu")
    ours, theirs = task.answer(model, 0, len(task)), harness_samples(name, model)
    assert [found.score for found in ours] == [sample["acc"] for sample in theirs]
    assert 0 < sum(found.score for found in ours) < 40


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", [True, False])
def test_choices_are_those_of_the_harness_item_by_item(
    norm: bool, folder: Path, tiny_folder: Path
) -> None:
    metric = "- {{metric: acc_norm, aggregation: mean, higher_is_better: true}}\n"
    name = write(folder, TASK if norm else TASK.replace(metric, ""))
    task, model = section(name), load_model(str(tiny_folder), "cpu")
    ours = task.answer(model, 0, len(task))
    theirs = harness_samples(name, model)
    assert len(ours) == len(theirs) == 40
    scores = []
    for item, found, sample in zip(task.items, ours, theirs, strict=True):
        doc, requests = sample["doc"], sample["arguments"]
        assert found.id == str(sample["doc_id"])
        assert [(item.context, choice) for choice in item.choices] == [
            tuple(arguments) for arguments in requests
        ]
        logprobs = [float(answer[0][0]) for answer in sample["resps"]]
        assert found.logprob == pytest.approx(logprobs[doc["answer"]], abs=1e-3)
        sizes = [len(choice) if norm else 1 for choice in doc["choices"]]
        values = [value / size for value, size in zip(logprobs, sizes, strict=True)]
        assert found.answer == doc["choices"][values.index(max(values))]
        assert found.score == sample["acc_norm" if norm else "acc"]
        scores.append(found.score)
    assert 0 < sum(scores) < 40  # some are right and some are wrong, so equality says something


def test_the_items_question_is_told_without_the_shots(folder: Path) -> None:
    task = section(write(folder))
    first = json.loads((folder / "test.json").read_text())[0]
    assert task.items[0].question == f"Question: {first['question']}\nAnswer:"
    assert str(task.items[0].context).count("Question:") == 3
    assert (task.name, len(task), task.by_length) == ("parcels", 40, True)
    text = texts_of(task)[0]
    assert text.own[1] == (task.items[0].question, f" {first['choices'][first['answer']]}")


def test_the_hash_changes_with_the_definition(folder: Path) -> None:
    one = section(write(folder))
    shots = section(write(folder, TASK.replace("num_fewshot: 2", "num_fewshot: 1")))
    again = section(write(folder))
    assert one.hash == again.hash != shots.hash


@pytest.mark.parametrize(
    ("old", "new", "code", "values"),
    [
        (
            "output_type: multiple_choice",
            "output_type: loglikelihood",
            "unsuitable_task",
            {"reason": "output_type", "output_type": "loglikelihood"},
        ),
        (
            "doc_to_target: answer",
            "doc_to_target: question",
            "answer_not_a_choice",
            {"count": 3},
        ),
        ("test.json", "gone.json", "task_not_loaded", {}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_asked_is_refused(
    folder: Path, old: str, new: str, code: str, values: dict[str, Any]
) -> None:
    text = TASK
    if "loglikelihood" in new:
        text = text[: text.index("metric_list")] + "metric_list: [{{metric: acc}}]\n"
    assert old in text
    with refused(code, DataError, **values):
        load_suites([write(folder, text.replace(old, new))])


def test_unknown_names_get_a_hint(folder: Path) -> None:
    with refused("unknown_task", DataError, task="arc_esy", closest="lm_eval:arc_easy"):
        load_suites(["lm_eval:arc_esy"])
    with refused("file_missing", DataError, path="gone.yaml"):
        load_suites(["lm_eval:gone.yaml"])


def test_without_the_harness_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with refused("not_installed", DataError, package="lm_eval") as error:
        load_suites(["lm_eval:arc_easy"])
    assert "`pip install burnish[lm-eval]`" in error.value.remedy


def test_several_suites_have_names_of_their_own(folder: Path) -> None:
    row = {"question": "Snow is", "choices": [" white", " red"], "answer": 0}
    (folder / "mine.jsonl").write_text(json.dumps(row))
    names = ["core", str(folder / "mine.jsonl"), write(folder)]
    assert [suite.name for suite in load_suites(names)] == ["core", "mine", "parcels"]
    with refused("duplicate_name", DataError, name="core", count=2):
        load_suites(["core", "core"])
