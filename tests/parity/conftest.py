"""A run that was measured and judged on a tiny model, with its certificate of parity."""

import json
import shutil
from pathlib import Path

import pytest

import burnish
from burnish.models.load import load_model
from burnish.models.verbs import Choice
from burnish.run_directory import RunDirectory


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> RunDirectory:
    """Judged on a suite of a few items, so a search chose its adapter."""
    folder = tmp_path_factory.mktemp("parity")
    rows = [
        {"text": f"{word} number {i} please", "label": label}
        for i in range(20)
        for word, label in (("tent", "red"), ("parcel", "green"))
    ]
    # What the base says is right: a suite that it knows nothing of would not be searched on.
    choices = (" here", " torn")
    asked = [Choice(f"The parcel {i} is", choices) for i in range(40)]
    scores = [one.logprobs for one in load_model(str(tiny_folder), "cpu").score(asked)]
    items = [
        {"question": one.context, "choices": choices, "answer": int(own[1] > own[0])}
        for one, own in zip(asked, scores, strict=True)
    ]
    for name, lines in (("rows", rows), ("suite", items)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)
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
