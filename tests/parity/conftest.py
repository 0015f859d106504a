"""A run that was measured and judged on a tiny model, with its parity certificate."""

import shutil
from pathlib import Path

import pytest

import burnish
from burnish.models.interface import Choice
from burnish.models.load import load_model
from burnish.runs.directory import RunDirectory
from tests.rows import labelled, write_rows


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> RunDirectory:
    """Judged on a suite of a few items, so a search chose its adapter."""
    folder = tmp_path_factory.mktemp("parity")
    write_rows(folder / "rows.jsonl", labelled(20))
    # What the base says is right: a suite that it knows nothing of would not be searched on.
    choices = (" here", " torn")
    asked = [Choice(f"The parcel {i} is", choices) for i in range(40)]
    scores = [one.logprobs for one in load_model(str(tiny_folder), "cpu").score(asked)]
    items = [
        {"question": one.context, "choices": choices, "answer": int(own[1] > own[0])}
        for one, own in zip(asked, scores, strict=True)
    ]
    write_rows(folder / "suite.jsonl", items)
    (folder / "recipe.yaml").write_text(
        f"model: {tiny_folder}\ndata: {{train: rows.jsonl}}\nlora: {{rank: 4}}\n"
        f"evaluate: {{general: ['{folder / 'suite.jsonl'}'], max_new_tokens: 4}}\n"
        f"training: {{epochs: 1, learning_rate: 0.02, preflight: false}}\noutput: {folder}\n"
    )
    return burnish.run(folder / "recipe.yaml", quiet=True, name="judged")


@pytest.fixture
def run(judged: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy that may be changed."""
    shutil.copytree(judged.path, tmp_path / "run")
    return RunDirectory.open(tmp_path / "run")
