"""Jobs as recipes: values worked out by hand, rows laid out, rewards asked."""

import json
from pathlib import Path
from typing import Any

import pytest

from burnish.data.load import load
from burnish.errors import DataError, GraderError, RecipeError
from burnish.recipe.schema import load_recipe
from burnish.serving.jobs import job_recipe
from burnish.serving.jobs.job_recipe import (
    Start,
    local_grader,
    recipe_for,
    write_job_files,
    write_recipe,
)
from burnish.serving.jobs.results import error_of, warnings
from burnish.serving.jobs.run_recipe import outcome
from burnish.serving.state.tables import JobRow
from tests.refused import refused

GRADER = {"type": "string_check", "name": "same"}


def job(kind: str, *, validation: bool = False, **hyperparameters: Any) -> JobRow:
    own: dict[str, Any] = {"hyperparameters": hyperparameters}
    if kind == "reinforcement":
        own["grader"] = GRADER
    return JobRow(
        id="ftjob-a",
        model="tiny",
        status="queued",
        training_file="file-a",
        method={"type": kind, kind: own},
        seed=7,
        created_at=1,
        validation_file="file-b" if validation else None,
    )


def test_auto_is_left_to_the_recipe(tmp_path: Path) -> None:
    wanted = job("supervised", n_epochs="auto", batch_size="auto", learning_rate_multiplier="auto")
    values = recipe_for(wanted, tmp_path, Start("smollm2-135m"), {"budget.general": 3.0}, 1e-3)
    write_recipe(tmp_path / "recipe.yaml", values)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.origins["training.epochs"] == "default"
    assert recipe.training.learning_rate == "auto"
    assert (recipe.objective, recipe.seed, recipe.budget.general) == ("sft", 7, 3.0)
    assert (recipe.data.train, recipe.data.validation) == (tmp_path / "train.jsonl", None)
    assert job_recipe.resolved(wanted, recipe) == {
        "n_epochs": 3,
        "batch_size": 8,
        "learning_rate_multiplier": "auto",
    }


@pytest.mark.parametrize(
    ("kind", "given", "held"),
    [
        ("supervised", {}, "auto"),
        ("supervised", {"replay.rows": 0}, 0),
        ("dpo", {}, "auto"),
        ("reinforcement", {}, 0),
    ],
)
def test_jobs_are_held_to_the_base_unless_the_installation_says_no(
    kind: str, given: dict[str, Any], held: str | int, tmp_path: Path
) -> None:
    values = recipe_for(job(kind), tmp_path, Start("smollm2-135m"), given, 1e-3)
    assert values["replay.rows"] == held


@pytest.mark.parametrize(
    ("kind", "workers", "held"), [("supervised", 2, 64), ("reinforcement", 1, 0)]
)
def test_what_all_jobs_are_given_is_left_out_where_it_cannot_be_had(
    kind: str, workers: int, held: int, tmp_path: Path
) -> None:
    given = {"training.workers": 2, "replay.rows": 64}
    values = recipe_for(job(kind), tmp_path, Start("smollm2-135m"), given, 1e-3)
    assert (values["training.workers"], values["replay.rows"]) == (workers, held)


def test_what_is_asked_goes_before_the_installation(tmp_path: Path) -> None:
    wanted = job(
        "dpo", validation=True, n_epochs=2, batch_size=96, learning_rate_multiplier=0.5, beta=0.4
    )
    given = {"training.epochs": 9, "dpo.loss_type": "ipo"}
    values = recipe_for(wanted, tmp_path, Start("smollm2-135m"), given, 1e-3)
    write_recipe(tmp_path / "recipe.yaml", values)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert (recipe.training.epochs, recipe.dpo.loss_type, recipe.dpo.beta) == (2, "ipo", 0.4)
    assert recipe.training.batch_size * recipe.training.gradient_accumulation == 96
    assert recipe.training.batch_size == 32
    assert recipe.training.learning_rate == 5e-4
    assert recipe.data.validation == tmp_path / "validation.jsonl"


def test_a_tuned_model_goes_on_in_its_own_adapter(tmp_path: Path) -> None:
    start = Start("smollm2-135m", tmp_path / "earlier")
    values = recipe_for(job("supervised"), tmp_path, start, {}, 1e-3)
    assert (values["init_from"], values["init"]) == (str(tmp_path / "earlier"), "continue")


def test_an_interval_becomes_a_number_of_passes(tmp_path: Path) -> None:
    wanted = job("reinforcement", n_epochs=2, batch_size=5, compute_multiplier=0.5)
    values = recipe_for(wanted, tmp_path, Start("smollm2-135m"), {}, 1e-3)
    write_recipe(tmp_path / "recipe.yaml", values)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.grpo.num_generations == 4
    # 100 rows less 25 to test and 10 to validate are 13 steps an epoch, 26 in all
    assert job_recipe.validation_passes(recipe, 13, 100) == 2
    assert job_recipe.validation_passes(recipe, 1000, 100) == 1


def rows(path: Path, count: int) -> Path:
    found = [
        {"messages": [{"role": "user", "content": f"what is {i}"}], "question": "q", "answer": "a"}
        for i in range(count)
    ]
    path.write_text("\n\n".join(map(json.dumps, found)))
    return path


def test_rows_of_a_grader_are_prompts_whatever_else_they_say(tmp_path: Path) -> None:
    wanted, folder = job("reinforcement"), tmp_path / "job"
    assert write_job_files(wanted, folder, {"train": rows(tmp_path / "upload", 12)}, {}) == 12
    assert json.loads((folder / "grader.json").read_text()) == GRADER
    values = recipe_for(wanted, folder, Start("smollm2-135m"), {}, 1e-3)
    write_recipe(folder / "recipe.yaml", values)
    recipe = load_recipe(folder / "recipe.yaml")
    assert recipe.grpo.reward == str(folder / "grader.json")
    found = load(recipe.data, seed=0, use=recipe.objective_settings.rows)
    assert {turn.role for example in found.train for turn in example.messages} == {"user"}


def test_rows_are_taken_as_they_are_and_once_more(tmp_path: Path) -> None:
    source = rows(tmp_path / "upload", 10)
    for _ in range(2):  # a worker that was killed lays them out again
        assert write_job_files(job("supervised"), tmp_path / "job", {"train": source}, {}) == 10
    assert (tmp_path / "job" / "train.jsonl").samefile(source)
    with refused("too_few_rows", DataError, count=9, least=10):
        write_job_files(job("dpo"), tmp_path / "job", {"train": rows(source, 9)}, {})


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"text,label\n" + b"a,b\n" * 30, "a CSV file"),
        (b"text\tlabel\n" + b"a\tb\n" * 30, "a TSV file"),
        (b"once upon a time\n" * 30, "plain text"),
        (b"PAR1" + bytes(99), "a Parquet file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a PNG image"),
        (bytes(range(256)) * 9, "not a text file"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "upload").write_bytes(content)
    with refused("other_file_kind", DataError, part="train", found=found):
        write_job_files(job("supervised"), tmp_path / "job", {"train": tmp_path / "upload"}, {})


def test_rows_are_counted_as_they_are_read(tmp_path: Path) -> None:
    text = rows(tmp_path / "upload", 12).read_text()
    for content in (text.replace("\n", "\r").encode(), text.encode("utf-16")):
        (tmp_path / "upload").write_bytes(content)
        folder = tmp_path / "job"
        assert write_job_files(job("supervised"), folder, {"train": tmp_path / "upload"}, {}) == 12


def test_a_file_of_both_sets_is_taken_with_a_warning(tmp_path: Path) -> None:
    wanted, folder = job("supervised", validation=True), tmp_path / "job"
    turns = [
        [{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": "a"}]
        for i in range(40)
    ]
    for name in ("one", "other"):  # the same content under two ids
        (tmp_path / name).write_text("\n".join(json.dumps({"messages": each}) for each in turns))
    write_job_files(
        wanted, folder, {"train": tmp_path / "one", "validation": tmp_path / "other"}, {}
    )
    values = recipe_for(wanted, folder, Start("smollm2-135m"), {"data.limit": 30}, 1e-3)
    write_recipe(folder / "recipe.yaml", values)
    found = load(load_recipe(folder / "recipe.yaml").data, seed=0)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [19, 3, 8]
    events = {str(event.data["kind"]): event for event in warnings(found.findings) if event.data}
    assert (events["same"].level, events["limit"].level) == ("warn", "info")
    assert "the validation file has the same rows as the train file" in events["same"].message
    assert "keeps 30 of the 40 rows of validation" in events["limit"].message


def test_an_error_of_a_recipe_is_of_no_file() -> None:
    error = RecipeError("the rate is 0", "raise it", code="bad_value")
    found = error_of(outcome(error), "/data")
    assert found == {"code": "recipe", "message": str(error), "param": None}


def test_graders_ask_models_by_their_names_here() -> None:
    judge = {"type": "score_model", "model": "tiny", "input": []}
    both = {"type": "multi", "graders": {"a": judge, "b": {"type": "python"}}}
    found = local_grader(both, {"tiny": "/models/tiny"})
    assert found["graders"] == {"a": judge | {"model": "/models/tiny"}, "b": {"type": "python"}}
    assert both["graders"]["a"] == judge  # what the client gave stays as it was
    with refused("unknown_model", GraderError, model="tiny"):
        local_grader(both, {"other": "x"})
