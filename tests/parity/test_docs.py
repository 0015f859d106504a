"""The commands of the pages on export and parity are run, on a tiny model and against a live
endpoint, and the Python that reads a run on a tiny one."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

import burnish
from burnish.cli import main
from burnish.export.gguf import ARCHITECTURES
from burnish.parity.compare import _COARSE, _TOLERANCES
from burnish.recipe.schema import recipe_of_rows
from burnish.runs.directory import RunDirectory
from tests.docs.blocks import BLOCKS, Block
from tests.parity.test_compare import TUNED, served
from tests.rows import write_rows

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
EXPORT = (HOW_TO / "export.md").read_text(encoding="utf-8")
PARITY = (HOW_TO / "parity.md").read_text(encoding="utf-8")
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "run-directory.md"


@pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed"
)
def test_the_commands_run(
    run: RunDirectory, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": "where is my parcel?"}])
    manifest = run.manifest()
    manifest.name = "support-routing"
    run.write_manifest(manifest)
    shown = "".join(re.findall(r"```sh\n(.*?)```", EXPORT + PARITY, re.DOTALL)).splitlines()
    commands = [line.partition("#")[0].split() for line in shown if line.startswith("burnish")]
    assert [command[1] for command in commands] == ["export"] * 3 + ["parity"] * 4
    with served(run, tiny_folder) as url:
        places = {"runs/support-routing": str(run.path), "http://127.0.0.1:8000/v1": url}
        for command in commands:
            given = [_placed(word, places) for word in command[1:]]
            if given[0] == "export":
                main(given)
                continue
            with pytest.raises(SystemExit) as ended:
                main(given)
            assert ended.value.code == 0


def _placed(word: str, places: dict[str, str]) -> str:
    for there, here in places.items():
        word = word.replace(there, here)
    return TUNED if word.startswith("ft:") else word


def test_the_figures_are_those_of_the_code() -> None:
    allowed = re.findall(r"^\| (?:reloaded|merged|GGUF f32, f16, q8_0|endpoint) \| ([\d., ]+) \|",
                         PARITY, re.MULTILINE)  # fmt: skip
    told = [float(value) for cell in allowed for value in cell.split(", ")]
    names = ("reloaded", "merged", "f32", "f16", "q8_0", "endpoint")
    assert told == [_TOLERANCES[name] for name in names]
    assert f"a tolerance of at least {_COARSE:g} nats" in PARITY
    assert all(f"`{name}`" in EXPORT for name in ARCHITECTURES)


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.reads_a_run], ids=str)
def test_the_python_that_reads_a_run_works(
    block: Block, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the training is left out: its recipe is read, and the run is one that is there."""

    def started(recipe: str, **values: Any) -> RunDirectory:
        recipe_of_rows("rows.jsonl", values)
        assert recipe == "recipe.yaml"
        return run

    monkeypatch.setattr(burnish, "run", started)
    exec(compile(block.text, str(block), "exec"), {"print": lambda *_: None})


def test_every_file_of_a_run_is_on_its_page(judged: RunDirectory) -> None:
    page = REFERENCE.read_text(encoding="utf-8")
    found = {path.name + "/" * path.is_dir() for path in judged.path.iterdir()}
    assert [name for name in found if f"`{name}" not in page] == []
