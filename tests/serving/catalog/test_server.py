"""A model that cannot be served gets a sentence at the start, and the others are served."""

import json
from pathlib import Path

import pytest

from burnish.errors import ModelError
from burnish.inference.types import SamplingSettings
from burnish.serving.catalog.server import model_warnings, open_server
from burnish.serving.state.installation import Settings
from tests.refused import refused


@pytest.fixture
def unknown(tmp_path: Path, tiny_folder: Path) -> str:
    """A folder whose architecture nobody knows."""
    folder = tmp_path / "unknown"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "nobody_knows"}))
    return str(folder)


def test_one_bad_model_leaves_the_others(unknown: str, tiny_folder: Path, tmp_path: Path) -> None:
    models = {"bad": unknown, "good": str(tiny_folder)}
    settings = Settings(tmp_path / "data", models=models)
    (warning,) = [text for text in model_warnings(settings) if "bad" in text]
    assert "nobody_knows" in warning
    server = open_server(settings, device="cpu")
    with refused("unknown_architecture", ModelError, architecture="nobody_knows"):
        server.engines.target("bad")
    target = server.engines.target("good")
    sampling = SamplingSettings(3, temperature=0, bias={2: -100.0})
    with target.engine.submit(target.ask((5, 6, 7), sampling, None, 0)) as answer:
        assert sum(len(piece.drawn) for piece in answer) == 3
    server.drain()


def test_no_server_without_a_model(unknown: str, tmp_path: Path) -> None:
    with refused("unknown_architecture", ModelError, architecture="nobody_knows") as error:
        model_warnings(Settings(tmp_path / "data", models={"bad": unknown}))
    assert "the model bad" in error.value.seen
