"""The built-in example runs from any folder, and never deletes a run by itself."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from burnish.cli import main
from burnish.cli.demo import RECIPE
from burnish.recipe.schema import load_recipe
from burnish.runs.directory import RunDirectory
from tests.rows import choices, write_rows

ROOT = Path(__file__).parents[2]
# Reads the configuration of the package as a build does, and writes nothing.
LIST_FILES = """
from setuptools import Distribution
package = Distribution()
package.parse_config_files()
package.include_package_data = False
build = package.get_command_obj("build_py")
build.ensure_finalized()
for _, source, _, names in build.data_files:
    for name in names:
        print(f"{source}/{name}")
"""


def test_the_wheel_contains_the_recipe_and_its_rows() -> None:
    listed = subprocess.run(
        [sys.executable, "-c", LIST_FILES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    packaged = {(ROOT / line).resolve() for line in listed.stdout.splitlines()}
    recipe = load_recipe(RECIPE)
    assert {RECIPE.resolve(), Path(recipe.data.train).resolve()} <= packaged


def test_the_recipes_of_the_repository_have_the_demo() -> None:
    assert (ROOT / "recipes" / "support-routing" / "recipe.yaml").samefile(RECIPE)


@pytest.fixture
def small(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The demo in an empty folder, with a tiny model and a few steps."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "suite.jsonl", choices(8))
    changes = {
        "model": str(tiny_folder),
        "replay.rows": 0,
        "data.limit": 60,
        "training.epochs": 1,
        "evaluate.general": str(tmp_path / "suite.jsonl"),
    }
    return [
        "demo",
        *(word for key, value in changes.items() for word in ("--set", f"{key}={value}")),
    ]


def end_of(arguments: list[str]) -> Any:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code


def test_the_demo_runs_in_the_current_folder_and_any_verdict_is_an_answer(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*small, "--json"])
    assert json.loads(capsys.readouterr().out)["verdict"]["decision"] != "release"
    run = RunDirectory.open(tmp_path / "runs" / "support-routing")
    assert (run.path / "report.html").exists()

    assert end_of(small) == 2
    message = capsys.readouterr().err
    assert "[run_exists]" in message
    assert "--restart" in message
    assert "report.html" in message

    main([*small, "--resume", "--json"])
    (run.path / "mark").write_text("of the first run")
    main([*small, "--restart", "--json"])
    assert not (run.path / "mark").exists()


def test_an_unfinished_demo_can_be_resumed(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*small, "--json"])
    (tmp_path / "runs" / "support-routing" / "verdict.json").unlink()
    assert end_of(small) == 2
    assert "--resume" in capsys.readouterr().err


def test_a_folder_that_is_not_a_run_is_left_alone(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "runs" / "support-routing" / "thesis.txt"
    other.parent.mkdir(parents=True)
    other.write_text("three years of work")
    assert end_of([*small, "--restart"]) == 2
    assert "[output_exists]" in capsys.readouterr().err
    assert other.exists()
    assert end_of([*small, "--restart", "--resume"]) == 2
    assert "[options_exclude_each_other]" in capsys.readouterr().err
