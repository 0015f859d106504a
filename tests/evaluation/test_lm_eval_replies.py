"""Generated and other tasks of lm-eval-harness: its filters and metrics give its own answers."""

import importlib.util
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import DataError
from burnish.evaluation.lm_eval import _folders
from burnish.evaluation.lm_eval_tasks import HarnessReplyTask
from burnish.evaluation.load_suite import load_suites
from burnish.evaluation.suite import Suite, chance, split_suite
from burnish.models.load import load_model
from tests.mock_model import MockModel
from tests.refused import refused

if importlib.util.find_spec("lm_eval") is None:
    pytest.skip("lm-eval-harness is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

DATA = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{train: {folder}/train.json, test: {folder}/test.json}}}}
training_split: train
test_split: test
num_fewshot: 2
"""
# As gsm8k has it: two filters, a metric with what it ignores, words that end a reply.
MATH = (
    DATA
    + """\
output_type: generate_until
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
metric_list:
- {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true,
    regexes_to_ignore: [","]}}
generation_kwargs: {{until: ["Question:", "q"], do_sample: false, max_gen_toks: 12}}
filter_list:
- name: first-word
  filter: [{{function: regex, regex_pattern: "([a-zA-Z]+)"}}, {{function: take_first}}]
- name: whole
  filter: [{{function: take_first}}]
"""
)
# As ifeval has it: its own program grades a reply, and one of its metrics is no yes or no.
RULES = (
    DATA.replace("2", "0")
    + """\
output_type: generate_until
doc_to_text: question
doc_to_target: 0
process_results: !function grading.process_results
metric_list:
- {{metric: words, aggregation: mean, higher_is_better: true}}
- {{metric: short, aggregation: mean, higher_is_better: true}}
generation_kwargs: {{until: [], do_sample: false, max_gen_toks: 10}}
"""
)
GRADING = """\
def process_results(doc, results):
    words = len(results[0].split())
    return {"words": words / 7, "short": words <= doc["most"]}
"""
# As winogrande has it: each choice has a context of its own, and all have one continuation.
BLANKS = (
    DATA
    + """\
output_type: multiple_choice
doc_to_text: place
doc_to_target: question
doc_to_choice: choices
metric_list:
- {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
)
WORDS = ("where", "is", "my", "red", "green", "tent", "parcel", "when", "will", "it", "come")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = random.Random(0)
    for split, count in (("train", 5), ("test", 24)):
        rows = [
            {
                "question": f"{' '.join(draw.choices(WORDS, k=5))} {n}?",
                "answer": draw.choice(WORDS),
                "most": draw.randrange(8),
                "place": n % 2,
                "choices": [" ".join(draw.choices(WORDS, k=3)) for _ in range(2)],
            }
            for n in range(count)
        ]
        (tmp_path / f"{split}.json").write_text(json.dumps(rows))
    (tmp_path / "grading.py").write_text(GRADING)
    return tmp_path


def write(folder: Path, text: str, name: str = "parcels") -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text.format(name=name, folder=folder))
    return str(path)


def suite(name: str) -> Suite:
    (only,) = load_suites([name])
    return only


def harness_samples(path: str, model: Any, chat: bool) -> list[dict[str, Any]]:
    """The harness's own replies by its own model class, those of all filters."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        HFLM(pretrained=model.module, tokenizer=model.tokenizer, batch_size=4),
        tasks=[path],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )
    (samples,) = found["samples"].values()
    return sorted(samples, key=lambda sample: sample["doc_id"])


def some_right(folder: Path, model: Any, prefix: str) -> None:
    """Makes the model's own first word the answer of every other row."""
    (task,) = suite(f"lm_eval:{prefix}{folder}/parcels.yaml").sections
    rows = json.loads((folder / "test.json").read_text())
    for row, found in zip(rows, task.answer(model, 0, len(task)), strict=True):
        words = "".join(c if c.isalpha() and c.isascii() else " " for c in found.answer).split()
        if words and row["place"]:
            row["answer"] = words[0].upper()
    (folder / "test.json").write_text(json.dumps(rows))


@pytest.mark.parametrize(
    ("text", "prefix"),
    [(MATH, ""), (MATH, "chat:"), (RULES, "")],
    ids=["filters", "turns", "own_program"],
)
def test_replies_and_scores_are_those_of_the_harness(
    text: str, prefix: str, folder: Path, tiny_folder: Path
) -> None:
    path, model = write(folder, text), load_model(str(tiny_folder), "cpu")
    if text is MATH:
        some_right(folder, model, prefix)
    (task,) = suite(f"lm_eval:{prefix}{path}").sections
    assert isinstance(task, HarnessReplyTask)
    metric, name = ("exact_match", "first-word") if text is MATH else ("short", "none")
    assert (task.measure.metric, task.measure.filter) == (metric, name)
    ours = task.answer(model, 0, len(task))
    samples = harness_samples(path, model, chat=bool(prefix))
    theirs = [sample for sample in samples if sample["filter"] == name]
    assert [found.answer for found in ours] == [sample["resps"][0][0] for sample in theirs]
    assert [found.score for found in ours] == [float(sample[metric]) for sample in theirs]
    assert 0 < sum(found.score for found in ours) < len(ours) == 24
    assert chance(task) == 0


def test_choices_with_contexts_of_their_own_are_those_of_the_harness(
    folder: Path, tiny_folder: Path
) -> None:
    path, model = write(folder, BLANKS), load_model(str(tiny_folder), "cpu")
    (task,) = suite(f"lm_eval:{path}").sections
    ours = task.answer(model, 0, len(task))
    theirs = harness_samples(path, model, chat=False)
    assert [found.score for found in ours] == [sample["acc"] for sample in theirs]
    assert 0 < sum(found.score for found in ours) < 24
    assert chance(task) == 0.5


def test_code_is_run_in_the_sandbox(folder: Path) -> None:
    """HumanEval itself with its own program, on local problems: nothing is downloaded."""
    import lm_eval

    own = Path(lm_eval.__file__).parent / "tasks" / "humaneval"
    for file in own.glob("*.py"):
        shutil.copy(file, folder)
    text = (own / "humaneval.yaml").read_text()
    data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/code.json}}}}"
    text = text.replace("dataset_path: openai/openai_humaneval", data)
    (folder / "code.yaml").write_text(text)
    rows = [
        {
            "prompt": f"def add_{n}(a):\n",
            "test": f"def check(f):\n    assert f(1) == {n + 1}",
            "entry_point": f"add_{n}",
        }
        for n in range(5)
    ]
    (folder / "code.json").write_text(json.dumps(rows))
    (task,) = suite(f"lm_eval:{folder}/code.yaml").sections
    assert isinstance(task, HarnessReplyTask)
    assert (task.measure.metric, task.sampling.max_new_tokens) == ("pass@1", 1024)
    secret = folder / "secret"
    replies = [
        "    return a",  # right for add_0
        "    return a",
        "    return a +",
        f"    open({str(secret)!r}, 'w')\n    return a + 3",  # forbidden, so it fails
        "    return a + 4",
    ]
    prompts = [row["prompt"] for row in rows]
    model = MockModel(dict(zip(prompts, replies, strict=True)))
    found = task.answer(model, 0, len(task))
    assert [result.score for result in found] == [1, 0, 0, 0, 1]
    assert not secret.exists()


def test_a_group_has_a_section_for_each_task_and_its_parts_are_split(folder: Path) -> None:
    for name in ("one", "two"):
        write(folder, MATH, name)
    path = folder / "both.yaml"
    path.write_text("group: both\ntask: [one, two]\n")
    both = suite(f"lm_eval:{path}")
    assert [len(task) for task in both.sections] == [24, 24]
    probe, cert = split_suite(both)
    assert [len(task) for task in (*probe.sections, *cert.sections)] == [7, 7, 17, 17]


def test_the_folders_of_a_group_are_those_of_all_its_members() -> None:
    names = {folder.name for folder in _folders("leaderboard")}
    assert {"leaderboard", "ifeval", "gpqa", "musr"} <= names
    assert {"arc", "gsm8k", "winogrande", "benchmarks"} <= {f.name for f in _folders("openllm")}
    assert [folder.name for folder in _folders("gsm8k")] == ["gsm8k"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("num_fewshot: 0", "num_fewshot: 0\nrepeats: 4", "repeats"),
        ("- {{metric: short, aggregation: mean, higher_is_better: true}}\n", "", "metrics"),
        ("len(results[0].split())", "1 / 0", "grading"),
        ("num_fewshot: 0", 'num_fewshot: 0\ngen_prefix: "So:"', "gen_prefix"),
    ],
)
def test_a_task_that_cannot_be_measured_gets_a_sentence(
    old: str, new: str, reason: str, folder: Path
) -> None:
    program = folder / "grading.py"
    if old in GRADING:
        program.write_text(GRADING.replace(old, new))
    if reason == "metrics":
        program.write_text(GRADING.replace('"short": words <= doc["most"]', ""))
    path = write(folder, RULES.replace(old, new))
    with refused("unsuitable_task", DataError, reason=reason):
        suite(f"lm_eval:chat:{path}")


def test_a_task_without_its_data_gets_a_sentence(folder: Path) -> None:
    path = write(folder, MATH.replace("test.json", "gone.json"))
    with refused("task_not_loaded", DataError):
        suite(f"lm_eval:{path}")
