"""Every command of the page on export is run, on a tiny model and against a live endpoint."""

import importlib.util
import re
from pathlib import Path

import pytest

from burnish.cli import main
from burnish.models.gguf_writing import ARCHITECTURES
from burnish.parity.certificate import _COARSE, _TOLERANCES
from burnish.run_directory import RunDirectory
from tests.parity.test_certificate import TUNED, served

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


@pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed"
)
def test_its_commands_run(run: RunDirectory, tiny_folder: Path) -> None:
    manifest = run.manifest()
    manifest.name = "support-routing"
    run.write_manifest(manifest)
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    commands = [line.partition("#")[0].split() for line in "".join(blocks).splitlines()]
    assert [command[1] for command in commands] == ["export"] * 3 + ["parity"] * 3
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


def test_its_figures_are_those_of_the_code() -> None:
    allowed = re.findall(r"^\| (?:reloaded|merged|GGUF f32, f16, q8_0|endpoint) \| ([\d., ]+) \|",
                         PAGE, re.MULTILINE)  # fmt: skip
    told = [float(value) for cell in allowed for value in cell.split(", ")]
    names = ("reloaded", "merged", "f32", "f16", "q8_0", "endpoint")
    assert told == [_TOLERANCES[name] for name in names]
    assert f"allowed {_COARSE:g} nats everywhere" in PAGE
    assert all(f"`{name}`" in PAGE for name in ARCHITECTURES)
