"""The search on a tiny model: it ends where it should, goes on after a kill, keeps the budget."""

import contextlib
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from filelock import FileLock
from optuna.trial import TrialState, create_trial

from burnish.cli import main
from burnish.errors import RecipeError, RunError
from burnish.recipe.schema import Recipe, load_recipe
from burnish.runs.directory import LedgerRow, RunDirectory
from burnish.sweep.search import _is_behind, _Sweep, run_sweep
from burnish.sweep.space import recipe_settings, search_space
from tests.refused import refused
from tests.rows import labelled, write_rows

SUITE = [
    {"question": f"{i} The parcel is", "choices": [" here", " torn"], "answer": i % 2}
    for i in range(10)
]


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path) -> Path:
    write_rows(tmp_path / "rows.jsonl", labelled(20))
    write_rows(tmp_path / "suite.jsonl", SUITE)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: tiny\nmodel: {tiny_folder}\ndata: {{train: rows.jsonl, system: Say red or green}}\n"
        f"training: {{epochs: 2, learning_rate: 0.02}}\n"
        f"evaluate: {{general: {tmp_path / 'suite.jsonl'}}}\nbudget: {{general: 99}}\n"
        f"output: {tmp_path / 'runs'}\n"
        "sweep: {space: {training.learning_rate: [1e-4, 4e-2], lora.rank: [2, 4, 8]}}\n"
    )
    return path


def loaded(path: Path, **changes: Any) -> Recipe:
    return load_recipe(path, {key.replace("__", "."): value for key, value in changes.items()})


def spaced(path: Path, space: dict[str, Any], **changes: Any) -> Recipe:
    """The recipe with another space in place of its own."""
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join(text[:-1]) + f"sweep: {json.dumps({'space': space})}\n")
    return loaded(path, **changes)


def sweep(path: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "burnish.cli", "sweep", str(path), *arguments]


def row(delta: float) -> LedgerRow:
    ends = (delta - 0.01, delta + 0.01)
    change = 100, 0.8, 0.8 + delta, delta, *ends
    return LedgerRow("probe", "general", "accuracy", *change, budget=0.02)


def test_trials_are_runs_and_the_best_is_the_lowest_loss(recipe: Path, tmp_path: Path) -> None:
    found = run_sweep(loaded(recipe, training__early_stopping_patience=9), 3, quiet=True)
    assert [trial.number for trial in found.trials] == [0, 1, 2]
    done = [trial for trial in found.trials if trial.state == "done"]
    assert found.best == min(done, key=lambda trial: trial.validation)
    for trial in done:
        run = RunDirectory.open(tmp_path / "runs" / "tiny-sweep" / f"trial-{trial.number}")
        manifest = run.manifest()
        assert manifest.recipe["lora"]["rank"] == trial.settings["lora.rank"]
        assert manifest.origins["lora.rank"] == "derived"
        assert trial.validation == min(event["loss"] for event in run.events("validation"))
        assert (run.path / "adapter").exists()
        assert not run.results("tuned", "target")  # the test set is not touched
        assert [r.id for r in run.results("base", "suite-probe.suite")] == [
            r.id for r in run.results("tuned", "suite-probe.suite")
        ]
    assert len(list((tmp_path / "cache" / "results").iterdir())) == 1  # the base, once
    assert (found.folder / "trials.html").read_text().count('<th scope="row">') == 3


def test_more_trials_go_on_and_the_same_number_does_nothing(recipe: Path, tmp_path: Path) -> None:
    first = run_sweep(loaded(recipe), 2, quiet=True)
    assert run_sweep(loaded(recipe), 2, quiet=True) == first
    more = run_sweep(loaded(recipe), 3, quiet=True)
    assert list(more.trials[:2]) == list(first.trials)
    assert len(more.trials) == 3


def test_a_folder_that_cannot_be_used_is_a_sentence(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tiny-sweep"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"), refused("search_in_use", RunError, path=str(folder)):
        run_sweep(loaded(recipe), 1)
    (folder / "study.db").write_text("this is no database, and long enough to be read as one" * 9)
    with refused("database_unusable", RunError, path=str(folder / "study.db")):
        run_sweep(loaded(recipe), 1)
    (tmp_path / "file").write_text("")
    with refused("folder_not_writable", RunError):
        run_sweep(loaded(recipe, output=str(tmp_path / "file" / "runs")), 1)


def test_a_changed_recipe_is_not_continued(recipe: Path) -> None:
    run_sweep(loaded(recipe), 1, quiet=True)
    with refused("recipe_changed", RunError, keys=["training"]):
        run_sweep(loaded(recipe, training__epochs=3), 2, quiet=True)


def test_killed_and_continued_is_the_straight_search(recipe: Path, tmp_path: Path) -> None:
    straight = run_sweep(loaded(recipe, name="straight"), 3, quiet=True)
    command = sweep(recipe, "--trials", "3", "--json")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    events = tmp_path / "runs" / "tiny-sweep" / "trial-1" / "events.jsonl"
    deadline = time.time() + 90
    while time.time() < deadline and not (events.exists() and events.read_text().count("\n") > 2):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["trials"]
    assert [(t["settings"], t["validation"], t["state"]) for t in found] == [
        (t.settings, t.validation, t.state) for t in straight.trials
    ]


def test_interrupted_says_the_same_command(recipe: Path, tmp_path: Path) -> None:
    command = sweep(recipe, "--trials", "1", "--set", "training.epochs=400")
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A job in a shell's background is born deaf to it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    events = tmp_path / "runs" / "tiny-sweep" / "trial-0" / "events.jsonl"
    deadline = time.time() + 90
    while time.time() < deadline and not events.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "repeat the command to continue\n" in said
    assert "Traceback" not in said


def test_a_trial_outside_the_budget_never_wins(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate that learns best is made the one that forgets."""

    def general(_self: Any, _directory: RunDirectory, chosen: Recipe) -> LedgerRow:
        return row(-0.05 if chosen.training.learning_rate == 0.02 else -0.01)

    monkeypatch.setattr(_Sweep, "_general", general)
    space = {"training.learning_rate": [0.02, 0.005, 0.0025]}
    given = spaced(recipe, space, budget__general=2, training__evaluations=1)
    found = run_sweep(given, 5, quiet=True)
    lowest = min(found.trials, key=lambda trial: trial.validation)
    assert lowest.settings == {"training.learning_rate": 0.02}
    assert lowest.inside is False
    assert found.best is not None
    assert found.best.settings != lowest.settings
    assert found.best.inside


def test_a_bad_trial_is_stopped_early(recipe: Path, tmp_path: Path) -> None:
    space = {"training.learning_rate": [0.02, 0.015, 0.01, 1e-6]}
    found = run_sweep(spaced(recipe, space, training__epochs=8), 8, quiet=True)
    stopped = [trial for trial in found.trials if trial.state == "stopped early"]
    assert 1e-6 in {trial.settings["training.learning_rate"] for trial in stopped}
    for trial in stopped:
        if "same settings" in (trial.reason or ""):
            continue
        run = RunDirectory.open(tmp_path / "runs" / "tiny-sweep" / f"trial-{trial.number}")
        steps = run.events("train")
        assert steps[-1]["step"] < steps[-1]["steps"]
        assert not run.checkpoints.exists()


def study_of(*trials: tuple[list[float], TrialState, float]) -> optuna.Study:
    study = optuna.create_study()
    for losses, state, excess in trials:
        study.add_trial(
            create_trial(
                state=state,
                value=min(losses) if state == TrialState.COMPLETE else None,
                intermediate_values=dict(enumerate(losses, 1)),
                constraints={"general": excess},
            )
        )
    return study


@pytest.mark.parametrize(("loss", "behind"), [(1.4, False), (1.5, False), (1.6, True)])
def test_behind_is_above_the_median_of_the_best_so_far(loss: float, behind: bool) -> None:
    """At turn 1 the peers stand at 1.0 and 2.0, whose median is 1.5."""
    done, running = TrialState.COMPLETE, TrialState.RUNNING
    study = study_of(([1.0, 0.5], done, 0), ([2.0, 0.4], done, 0), ([loss], running, 0))
    assert _is_behind(study, 2) is behind


def test_a_trial_outside_the_budget_is_no_peer() -> None:
    done, running = TrialState.COMPLETE, TrialState.RUNNING
    peers = [([1.0], done, 0.0), ([0.1], done, 3.0), ([0.1], done, 3.0)]
    assert not _is_behind(study_of(*peers, ([1.2], running, 0.0)), 3)
    assert _is_behind(study_of(*peers, ([1.0], done, 0.0), ([1.2], running, 0.0)), 4)


def test_a_failed_trial_is_a_sentence_and_the_search_goes_on(recipe: Path) -> None:
    space = {"training.learning_rate": [0.02, 1e30, 2e30]}
    found = run_sweep(spaced(recipe, space), 4, quiet=True)
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert failed
    assert any(trial.code == "loss_not_finite" for trial in failed)
    assert any(" nan " in (trial.reason or "") for trial in failed)
    assert found.best is not None
    assert found.best.settings == {"training.learning_rate": 0.02}


def test_a_fault_of_the_recipe_is_no_failed_trial(recipe: Path) -> None:
    with refused("unknown_scorer"):
        run_sweep(loaded(recipe, evaluate__target=["acuracy"]), 1, quiet=True)
    assert run_sweep(loaded(recipe, training__epochs=1), 1, quiet=True).best is not None


@pytest.mark.parametrize(
    ("space", "code", "fields"),
    [
        (
            {"training.lerning_rate": [1e-4, 1e-3]},
            *("unknown_key", {"closest": "training.learning_rate"}),
        ),
        ({"training": [1, 2]}, "unknown_key", {"key": "training"}),
        ({"lora.rank": 8}, "space_not_list", {"key": "sweep.space.lora.rank"}),
        ({"lora.rank": [32, 8]}, "range_reversed", {"key": "sweep.space.lora.rank"}),
        ({"lora.rank": [8, None, 4]}, "space_value_type", {"key": "sweep.space.lora.rank"}),
        ({"lora.rank": [0, 8]}, "out_of_range", {"key": "lora.rank", "value": 0}),
        ({"lora.rank": [4.0, 8.0]}, "wrong_type", {"key": "lora.rank", "expected": "whole number"}),
        (
            {"training.lr_scheduler": ["cosine", "cosin", "linear"]},
            *("unknown_choice", {"key": "training.lr_scheduler", "value": "cosin"}),
        ),
        ({"data.limit": [10, 20]}, "not_searchable", {"key": "data.limit"}),
        ({"seed": [0, 20]}, "not_searchable", {"key": "seed"}),
        ({"training.max_length": [10, 20]}, "not_searchable", {"key": "training.max_length"}),
    ],
)
def test_a_bad_space_is_a_sentence(
    space: dict[str, Any], code: str, fields: dict[str, Any], recipe: Path
) -> None:
    with refused(code, RecipeError, **fields) as error:
        run_sweep(spaced(recipe, space), 2, quiet=True)
    assert "\n" not in str(error.value)
    assert fields.get("key", "").removeprefix("sweep.space.") in str(error.value)


def test_all_problems_of_a_space_at_once(recipe: Path) -> None:
    space = {"training.lerning_rate": [1e-4, 1e-3], "lora.rank": [32, 8]}
    with refused("recipe_problems", RecipeError) as caught:
        spaced(recipe, space)
    problems = caught.value.fields["problems"]
    assert [problem["code"] for problem in problems] == ["unknown_key", "range_reversed"]
    assert all(problem["message"] in str(caught.value) for problem in problems)


def test_two_problems_of_one_value_are_told_without_the_count(recipe: Path) -> None:
    space = {"training.epochs": [0, -1, 2]}
    with refused("recipe_problems", RecipeError) as caught:
        run_sweep(spaced(recipe, space), 1, quiet=True)
    problems = caught.value.fields["problems"]
    assert [(one["key"], one["value"]) for one in problems] == [
        ("training.epochs", 0),
        ("training.epochs", -1),
    ]


def test_rates_without_a_point_are_numbers(recipe: Path) -> None:
    assert search_space(loaded(recipe))["training.learning_rate"] == [0.0001, 0.04]


def test_the_default_space_holds_the_recipes_own_settings(recipe: Path) -> None:
    given = spaced(recipe, {}, training__learning_rate="auto", lora__rank=12)
    space = search_space(given)
    assert space["lora.rank"] == [8, 12, 16, 32]
    own = recipe_settings(given, space)
    assert own is not None
    assert own["lora.rank"] == 12
    # 10 x 5e-5 x (2000 / 48) ** 0.781 = 0.00921
    assert own["training.learning_rate"] == pytest.approx(0.00921, abs=1e-5)
    assert "lora.rank" not in search_space(spaced(recipe, {}, method="full"))


def test_without_validation_nothing_is_compared(recipe: Path) -> None:
    with refused("no_validation", RecipeError, key="training.evaluations"):
        run_sweep(loaded(recipe, training__evaluations=0), 1)
    with refused("no_validation", RecipeError, key="data.split.validation"):
        run_sweep(loaded(recipe, data__split__validation=0), 1)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with contextlib.suppress(SystemExit):
        main(arguments)
    return capsys.readouterr().out


def test_the_next_command_gives_the_best_settings(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--set", "training.batch_size=4"]
    lines = printed(capsys, "sweep", str(recipe), "--trials", "2", *size).splitlines()
    words = shlex.split(next(line for line in lines if line.startswith("next")))[1:]
    assert words[:2] == ["burnish", "run"]
    shown = printed(capsys, *words[1:], "--explain").splitlines()
    explained = {line.split()[0]: line.split()[1] for line in shown}
    assert explained["training.batch_size"] == "4"
    found = json.loads(printed(capsys, "sweep", str(recipe), "--trials", "2", *size, "--json"))
    assert shlex.split(found["next"]) == words
    best = found["trials"][found["best"]]["settings"]
    assert {key: explained[key] for key in best} == {k: str(value) for k, value in best.items()}
