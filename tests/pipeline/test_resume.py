"""What of a recipe may change before a run is continued, and what may not."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import RunError
from burnish.models.lineage import recipe_of
from burnish.models.load import pick_device
from burnish.pipeline.resume import continue_run, warnings_about_changed_files
from burnish.recipe.schema import Recipe, load_recipe
from burnish.runs.directory import Manifest, RunDirectory, State
from tests.refused import refused


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(
        f"name: one\ndata: {{train: rows.jsonl}}\ndevice: cpu\noutput: {tmp_path / 'runs'}\n"
        f"budget: {{general: 2.0}}\ntraining: {{epochs: 3}}\nlora: {{rank: 16}}\n"
    )
    return tmp_path / "recipe.yaml"


def begun(recipe: Recipe, state: State) -> RunDirectory:
    manifest = Manifest(
        name=recipe.name,
        state=state,
        recipe=recipe.model_dump(mode="json"),
        origins=dict(recipe.origins),
        host={"device": str(pick_device(recipe.device))},
    )
    return RunDirectory.create(recipe.output / recipe.name, manifest)


@pytest.mark.parametrize("state", ["training", "trained"])
@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ({"training.epochs": 9}, {"training.epochs": [3.0, 9.0]}),
        ({"seed": 4}, {"seed": [0, 4]}),
        ({"data.system": "Be brief."}, {"data.system": [None, "Be brief."]}),
        ({"lora.rank": 8, "method": "full"}, {"method": ["lora", "full"], "lora.rank": [16, 8]}),
        (
            {"data.columns": {"text": "body"}},
            {"data.columns.text": [None, "body"], "data.columns": [{}, None]},
        ),
        (
            {"budget.general": 3, "sft.neftune_noise_alpha": 5},
            {"sft.neftune_noise_alpha": [0.0, 5.0]},
        ),
    ],
)
def test_what_the_weights_depend_on_is_refused(
    change: dict[str, Any], changes: dict[str, list[Any]], state: State, path: Path
) -> None:
    run = begun(load_recipe(path), state)
    before = (run.path / "manifest.json").read_bytes()
    with refused("recipe_changed", RunError, path=str(run.path), changes=changes) as caught:
        continue_run(load_recipe(path, change))
    assert all(
        json.dumps(value) in str(caught.value) for pair in changes.values() for value in pair
    )
    assert (run.path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("state", ["training", "trained"])
def test_what_is_read_after_training_may_change_and_is_recorded(state: State, path: Path) -> None:
    begun(load_recipe(path), state)
    changes = {"budget.general": 5.0, "evaluate.limit": 7}
    run = continue_run(load_recipe(path, changes))
    assert run is not None
    manifest = run.manifest()
    assert recipe_of(manifest).budget.general == 5.0
    assert recipe_of(manifest).evaluate.limit == 7
    assert manifest.origins["budget.general"] == "command line"
    assert manifest.changes == [
        {"key": "evaluate.limit", "before": None, "after": 7, "state": state},
        {"key": "budget.general", "before": 2.0, "after": 5.0, "state": state},
    ]
    again = continue_run(load_recipe(path, changes))
    assert again is not None
    assert again.manifest().changes == manifest.changes


def test_a_verdict_keeps_the_budget_that_it_was_reached_with(path: Path) -> None:
    begun(load_recipe(path), "certified")
    with refused("recipe_changed", RunError, changes={"budget.general": [2.0, 5.0]}):
        continue_run(load_recipe(path, {"budget.general": 5.0}))


def test_a_run_may_be_moved_searched_and_its_preflight_left_out(path: Path, tmp_path: Path) -> None:
    run = begun(load_recipe(path), "training")
    (tmp_path / "elsewhere").mkdir()
    run.path.rename(tmp_path / "elsewhere" / "two")
    moved: dict[str, Any] = {
        "output": str(tmp_path / "elsewhere"),
        "name": "two",
        "training.preflight": False,
    }
    moved |= {"sweep.space": {"lora.rank": [4, 8]}}
    found = continue_run(load_recipe(path, moved))
    assert found is not None
    assert found.manifest().name == "two"
    assert recipe_of(found.manifest()).output == tmp_path / "elsewhere"
    assert found.manifest().changes == []


@pytest.mark.parametrize("folder", [{}, {"folder": "{tmp_path}"}])
def test_a_run_goes_on_from_any_folder(
    folder: dict[str, str], path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was begun before runs knew their folder goes on from the folder of its beginning."""
    monkeypatch.chdir(tmp_path)
    extra = "replay: {data: more.jsonl}\ntasks: {b: {train: b.jsonl}}\n"
    path.write_text(path.read_text() + extra)
    run = begun(load_recipe(path.name), "training")
    manifest = run.manifest()
    manifest.host |= {key: value.format(tmp_path=tmp_path) for key, value in folder.items()}
    run.write_manifest(manifest)
    assert continue_run(load_recipe(path.name)) is not None
    if folder:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        again = continue_run(load_recipe("../recipe.yaml"))
        assert again is not None
        assert again.manifest() == manifest
        changes = {"data.train": ["rows.jsonl", "other.jsonl"]}
        with refused("recipe_changed", RunError, changes=changes):
            continue_run(load_recipe("../recipe.yaml", {"data.train": "other.jsonl"}))


def test_training_goes_on_in_the_same_place_only(path: Path) -> None:
    run = begun(load_recipe(path), "training")
    manifest = run.manifest()
    manifest.host["device"] = "cuda, bfloat16"
    run.write_manifest(manifest)
    changes = {"device": ["cuda, bfloat16", "cpu, float32"]}
    with refused("recipe_changed", RunError, changes=changes):
        continue_run(load_recipe(path))
    manifest.state = "trained"
    run.write_manifest(manifest)
    assert continue_run(load_recipe(path)) is not None


def test_a_run_without_its_data_is_begun_again(path: Path) -> None:
    run = begun(load_recipe(path), "created")
    assert continue_run(load_recipe(path)) is None
    assert not run.path.exists()
    with refused("run_missing", RunError, path=str(run.path)):
        continue_run(load_recipe(path))


def test_a_folder_without_its_manifest_is_not_continued(path: Path) -> None:
    run = begun(load_recipe(path), "training")
    (run.path / "manifest.json").unlink()
    with refused("no_manifest", RunError, path=str(run.path)):
        continue_run(load_recipe(path))


def test_a_run_without_its_rows_is_started_again(path: Path) -> None:
    run = begun(load_recipe(path), "training")
    path = run.path / "data" / "train.jsonl"
    with refused("run_file_missing", RunError, path=str(path)):
        run.split("train")


def test_files_that_changed_or_went_since_the_run_began_are_named(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("rows.jsonl", "test.csv", "tools.json")
    for name in names:
        Path(name).write_text(name)
    run = begun(load_recipe(path), "training")
    manifest = run.manifest()
    manifest.host["folder"] = str(tmp_path)
    manifest.data["sha256"] = {
        str(name): hashlib.sha256(name.encode()).hexdigest() for name in names
    }
    run.write_manifest(manifest)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert warnings_about_changed_files(run) == []
    (tmp_path / "rows.jsonl").write_text("fewer")
    (tmp_path / "tools.json").unlink()
    changed, gone = warnings_about_changed_files(run)
    assert changed.startswith(f"rows.jsonl has changed since {run.path} was started, and the run ")
    assert gone.startswith(f"tools.json was deleted since {run.path} was started")
    assert all(text.endswith("start a run with another --name") for text in (changed, gone))
