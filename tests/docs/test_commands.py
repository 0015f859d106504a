"""The commands that the pages show are run, where they end by themselves and train nothing."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish.cli import main
from burnish.models.registry import BUILT_IN
from burnish.runs.directory import RunDirectory
from burnish.serving.state.installation import Settings, open_service
from tests.docs.blocks import commands, shown
from tests.rows import chats, labelled, write_rows

# Verbs that train, or that serve until they are stopped; their own tests run them. Moving an alias
# and asking an endpoint take a server, so `tests/serving` and `tests/parity` do it.
NOT_HERE = {"run", "demo", "sweep", "heal", "serve", "worker", "alias", "parity"}
# A run that a page names -> the same folder everywhere.
RUNS = ("support-routing", "support-routing-2", "my-adapter", "courteous-policy", "NAME")


def _ends(words: tuple[str, ...]) -> bool:
    if words[0] == "run":
        return "--explain" in words
    is_asking = words[0] == "chat" and "--message" not in words
    is_elsewhere = any("://" in word or word in BUILT_IN for word in words)
    return not (words[0] in NOT_HERE or is_asking or is_elsewhere)


SHOWN = [tuple(words[1:]) for block in shown("sh") for words in commands(block)
         if words[0].endswith("burnish")]  # fmt: skip
COMMANDS = sorted({words for words in SHOWN if _ends(words)})


@pytest.fixture(scope="module")
def places(
    judged: RunDirectory, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with what the pages name: files of rows, a recipe, runs and a server's data."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "support.jsonl").write_bytes(chats(40))
    rows = [row["text"] + "," + row["label"] for row in labelled(20)]
    (folder / "support.csv").write_text("\n".join(["text,queue", *rows]))
    write_rows(folder / "rows.jsonl", labelled(20))
    recipe = (
        f"model: {tiny_folder}\ndata: {{train: rows.jsonl}}\ntraining: {{epochs: 1}}\n"
        "evaluate: {general: null, max_new_tokens: 4}\n"
    )
    (folder / "recipe.yaml").write_text(recipe)
    for name in ("support-routing", "courteous-replies"):
        (folder / "recipes" / name).mkdir(parents=True)
        write_rows(folder / "recipes" / name / "rows.jsonl", labelled(20))
        (folder / "recipes" / name / "recipe.yaml").write_text(recipe)
    for name in RUNS:
        shutil.copytree(judged.path, folder / "runs" / name)
    open_service(Settings(folder / "burnish-data")).close()
    return folder


@pytest.fixture
def here(places: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(places)
    yield places
    for exported in places.glob("runs/*/exported"):
        shutil.rmtree(exported)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_of_a_page_runs(words: tuple[str, ...], here: Path, tiny_folder: Path) -> None:
    rows = words[0] == "check" and not words[1].endswith(".yaml")
    given = [*words, "--model", str(tiny_folder)] if rows else [*words]
    ended: object = 0
    try:
        main(given)
    except SystemExit as error:
        ended = error.code
    # A comparison ends with 1 where it does not release.
    assert ended in ((0, 1) if words[0] == "compare" else (0, None))
