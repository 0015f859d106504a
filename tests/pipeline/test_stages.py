"""Several data sets in one run, and several runs one after the other."""

import html
import json
from pathlib import Path
from typing import Any

import pytest

import burnish
from burnish.errors import RecipeError, RunError
from burnish.pipeline.stages import _with_earlier, results_matrix, run_stages, stage_recipes
from burnish.recipe.schema import load_recipe
from burnish.runs.directory import LedgerRow, RunDirectory, Verdict
from burnish.training.batches import Batches, temperature_shares
from tests.refused import refused


def write(path: Path, count: int, words: tuple[tuple[str, str], ...]) -> Path:
    rows = [{"text": f"{w} number {i}", "label": label} for i in range(count) for w, label in words]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def base(tmp_path: Path, tiny_folder: Path) -> str:
    write(tmp_path / "colours.jsonl", 20, (("tent", "red"), ("parcel", "green")))
    write(tmp_path / "answers.jsonl", 10, (("tent please", "yes"), ("parcel please", "no")))
    return (
        f"name: both\nmodel: {tiny_folder}\noutput: {tmp_path / 'runs'}\n"
        "training: {epochs: 6, learning_rate: 0.02, preflight: false}\n"
        "evaluate: {general: null}\n"
    )


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_tasks_are_learnt_together_and_measured_apart(tmp_path: Path, base: str) -> None:
    path = recipe(
        tmp_path,
        base + "data: {train: colours.jsonl, system: colour}\n"
        "tasks: {answers: {train: answers.jsonl, system: answer, weight: 2}}\n",
    )
    run = burnish.run(path, quiet=True, training={"epochs": 12})
    rows = {row.task: row for row in run.ledger() if row.metric == "accuracy"}
    assert set(rows) == {"target", "target.answers"}
    first, *_, last = [event["sets"] for event in run.events("validation")]
    assert set(last) == {"validation", "answers"}
    assert all(last[name]["loss"] < 0.9 * first[name]["loss"] for name in last)
    assert run.manifest().data["answers.test"] == len(run.split("test", "answers"))
    assert (run.path / "report.html").exists()


def test_shares_by_temperature_and_weight() -> None:
    assert temperature_shares({"a": 900, "b": 100}, 1.0) == pytest.approx({"a": 0.9, "b": 0.1})
    assert temperature_shares({"a": 900, "b": 100}, 1e-12) == {"a": 1.0, "b": 0.0}
    assert temperature_shares({"a": 900, "b": 100}, 2.0) == pytest.approx({"a": 0.75, "b": 0.25})


class Numbered:
    def __init__(self, number: int) -> None:
        self.number, self.size, self.learnt = number, 1 + number % 7, 1


def test_a_set_that_gives_less_goes_on_where_it_stopped() -> None:
    sets = {"a": [Numbered(n) for n in range(60)], "b": [Numbered(n) for n in range(100, 120)]}
    batches = Batches(sets, 4, 1, 3, 0, {"a": 0.25, "b": 0.75})
    assert batches.counts() == {"a": 20, "b": 60}
    seen: list[list[int]] = [[], []]
    for step in range(batches.steps):
        for items in batches.step(step):
            numbers = [item.number for item in items]
            assert len({number >= 100 for number in numbers}) == 1  # one set a batch
            seen[numbers[0] >= 100] += numbers
    assert sorted(seen[0]) == list(range(60))  # a third each epoch, all in three
    assert sorted(seen[1]) == sorted([*range(100, 120)] * 9)


def test_stages_follow_each_other_and_all_test_sets_are_measured(tmp_path: Path, base: str) -> None:
    path = recipe(
        tmp_path,
        base + "data: {train: colours.jsonl, system: colour}\nstages:\n"
        "- {name: colours}\n"
        "- {name: answers, data: {train: answers.jsonl, system: answer}, training: {epochs: 8}}\n",
    )
    chosen = load_recipe(path)
    first, second = stage_recipes(chosen)
    assert (first.training.epochs, second.training.epochs) == (6, 8)
    assert (second.init, second.data.system) == ("continue", "answer")
    folder = run_stages(chosen, quiet=True)
    found = results_matrix(folder.ledger())
    assert {name: set(rows) for name, rows in found.items()} == {
        "1-colours": {"1-colours", "2-answers"},
        "2-answers": {"2-answers"},
    }
    before, after = found["1-colours"]["1-colours"], found["1-colours"]["2-answers"]
    assert before.base == after.base
    assert before.n == after.n
    assert before.tuned > before.base
    lineage = burnish.pipeline.verbs.RunDirectory.open(folder.path / "2-answers").manifest().lineage
    assert lineage["path"].endswith("1-colours")
    again = run_stages(chosen, resume=True, quiet=True)
    assert again.ledger() == folder.ledger()
    assert again.verdict() == folder.verdict()


def test_a_stage_that_ruins_an_earlier_task_is_held_and_passed_over(
    tmp_path: Path, base: str
) -> None:
    path = recipe(
        tmp_path,
        base + "data: {train: colours.jsonl, system: colour, split: {test: 0.5}}\n"
        "budget: {earlier: 25}\nstages:\n"
        "- {name: colours, training: {epochs: 20}}\n"
        "- {name: answers, data: {train: answers.jsonl}, training: {learning_rate: 0.3}}\n"
        "- {name: again, training: {epochs: 1, learning_rate: 0.000001}}\n",
    )
    folder = run_stages(load_recipe(path), quiet=True)
    earlier = {row.task: row for row in folder.ledger() if row.kind == "earlier"}
    ruined = earlier["1-colours after 2-answers"]
    assert ruined.passed is False
    assert ruined.budget == pytest.approx(0.25)
    assert ruined.delta < -0.2
    held = RunDirectory.open(folder.path / "2-answers")
    assert held.verdict().decision == "hold"
    page = (held.path / "report.html").read_text(encoding="utf-8")
    assert held.verdict().reasons[-1] in html.unescape(page)
    lineage = folder.manifest().lineage
    assert [Path(one).name for one in lineage["kept"]] == ["1-colours", "3-again"]
    last = RunDirectory.open(folder.path / "3-again").manifest().lineage
    assert last["path"].endswith("1-colours")
    kept = earlier["1-colours after 3-again"]
    assert kept.passed
    assert "stayed within its budget" in " ".join(folder.verdict().reasons)


def test_an_earlier_task_that_did_not_change_fell_by_nothing() -> None:
    row = LedgerRow(
        "a after b", "earlier", "accuracy", 9, 1, 1, 0.0, 0, 0, bound=0.0, passed=True, budget=0.1
    )
    verdict = Verdict("release", (), 2.0, 0.95, None, None, None)
    (said,) = _with_earlier(verdict, [row]).reasons
    assert "it fell by 0.0 points since its own stage, at most 0.0 (budget 10, n = 9)" in said


def test_a_folder_of_stages_is_no_run(tmp_path: Path, base: str) -> None:
    """Every verb says so, and healing takes nothing away from it before."""
    path = recipe(tmp_path, base + "data: {train: colours.jsonl}\nstages: [{name: only}]\n")
    folder = run_stages(load_recipe(path), quiet=True).path
    kept = sorted(found.name for found in folder.iterdir())
    for verb in (burnish.heal, burnish.evaluate, burnish.report, burnish.open_tuned):
        stages = [str(folder / "1-only")]
        with refused("run_of_stages", RunError, path=str(folder), stages=stages):
            verb(folder)
    assert sorted(found.name for found in folder.iterdir()) == kept


def test_an_earlier_task_may_be_left_unjudged(tmp_path: Path, base: str) -> None:
    path = recipe(
        tmp_path,
        base + "data: {train: colours.jsonl}\nbudget: {earlier: null}\n"
        "stages: [{name: one}, {name: two, training: {learning_rate: 0.3}}]\n",
    )
    folder = run_stages(load_recipe(path), quiet=True)
    assert not [row for row in folder.ledger() if row.kind == "earlier"]


@pytest.mark.parametrize(
    ("stage", "code", "fields", "place"),
    [
        (
            "{data: {train: answers.jsonl}}",
            *("bad_stage_name", {"stage": 1, "value": None}, "stage 1 "),
        ),
        ("{name: ../x}", "bad_name", {"key": "name", "value": "../x"}, "stage 1: "),
        ("{name: a, trainin: {epochs: 2}}", "unknown_key", {"key": "trainin"}, "stage a: "),
        (
            "{name: a, training: {epochs: -2}}",
            *("out_of_range", {"key": "training.epochs", "value": -2}, "stage a: "),
        ),
    ],
)
def test_faulty_stages_are_told_before_the_first(
    tmp_path: Path, base: str, stage: str, code: str, fields: dict[str, Any], place: str
) -> None:
    path = recipe(tmp_path, base + f"data: {{train: colours.jsonl}}\nstages: [{stage}]\n")
    with refused(code, RecipeError, **fields) as caught:
        run_stages(load_recipe(path), quiet=True)
    assert str(caught.value).startswith(place)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("second", "code", "shown"),
    [
        ("data: {train: gone.jsonl}", "file_missing", "gone.jsonl"),
        ("data: {train: colours.jsonl, test: .}", "is_folder", ""),
        ("replay: {rows: 4, data: gone.jsonl}", "file_missing", "gone.jsonl"),
        ("evaluate: {general: gone.jsonl}", "file_missing", "gone.jsonl"),
        ("evaluate: {general: long.jsonl}", "too_many_tokens", "'and on and on"),
        ("evaluate: {target: [acuracy]}", "unknown_scorer", "acuracy"),
        ("method: full", "method_differs", "full"),
        ("training: {fsdp: true}", "sharded_unsupported", "training.fsdp"),
    ],
)
def test_what_a_later_stage_lacks_is_told_before_the_first(
    tmp_path: Path, base: str, second: str, code: str, shown: str
) -> None:
    asked = {"id": "7", "question": "and on " * 500, "choices": [" a", " b"], "answer": 0}
    (tmp_path / "long.jsonl").write_text(json.dumps(asked))
    stages = f"stages:\n- {{name: a}}\n- {{name: b, {second}}}\n"
    path = recipe(tmp_path, base + "data: {train: colours.jsonl}\n" + stages)
    with refused(code) as caught:
        run_stages(load_recipe(path), quiet=True)
    assert str(caught.value).startswith("stage 2-b: ")
    assert shown in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_unknown_key_of_a_task_is_told(tmp_path: Path, base: str) -> None:
    path = recipe(
        tmp_path,
        base + "data: {train: colours.jsonl}\ntasks: {answers: {train: answers.jsonl, wight: 2}}\n",
    )
    with refused("unknown_key", RecipeError, key="tasks.answers.wight"):
        load_recipe(path)


@pytest.mark.parametrize("name", ["train", "../other"])
def test_a_task_cannot_have_the_name_of_a_split_or_a_path(
    tmp_path: Path, base: str, name: str
) -> None:
    text = f"data: {{train: colours.jsonl}}\ntasks: {{{name}: {{train: answers.jsonl}}}}\n"
    with refused("bad_name", RecipeError, key="tasks") as caught:
        load_recipe(recipe(tmp_path, base + text))
    assert repr(name) in str(caught.value)


def test_stages_are_not_passed_over(tmp_path: Path, base: str) -> None:
    path = recipe(tmp_path, base + "data: {train: colours.jsonl}\nstages: [{name: a}]\n")
    with refused("recipe_of_stages", RecipeError, count=1):
        burnish.train(path, quiet=True)
    assert not (tmp_path / "runs").exists()


def test_a_head_has_the_labels_of_all_tasks(tmp_path: Path, base: str) -> None:
    path = recipe(
        tmp_path,
        base + "objective: classify\ndata: {train: colours.jsonl}\n"
        "tasks: {answers: {train: answers.jsonl}}\n",
    )
    run = burnish.run(path, quiet=True)
    config = json.loads((run.adapter / "config.json").read_text())
    assert set(config["label2id"]) == {"red", "green", "yes", "no"}
    assert {row.task for row in run.ledger()} == {"target", "target.answers"}
