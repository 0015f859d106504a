"""The verb `suite`: any model on the levels, loaded or behind a server."""

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from burnish.cli import main
from burnish.evaluation.levels import registry
from burnish.evaluation.levels.section import Item, Level, LevelSection, checked_item, choice_item
from tests.json_server import answering


def _double(level: int, rng: Random) -> Item:
    number = rng.randrange(10**5)
    return checked_item(f"Double {number}, level {level}.", number=2 * number)


def _pick(level: int, rng: Random) -> Item:
    return choice_item(f"Say yes, {rng.randrange(10**5)}.", "yes", ["no", "maybe"], rng)


SECTIONS = (
    LevelSection("doubles", "generated", tuple(Level(f"{n}", 60, 8) for n in range(4)), _double),
    LevelSection("picks", "scored", tuple(Level(f"{n}", 60) for n in range(4)), _pick),
)


@pytest.fixture(autouse=True)
def _sections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "SECTIONS", SECTIONS)
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))


def served(path: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Doubles numbers at levels 1 and 2, and picks the letter of `yes`."""
    assert (path, asked["model"]) == ("/v1/chat/completions", "ours")
    question = asked["messages"][-1]["content"]
    if found := re.fullmatch(r"Double (\d+), level (\d)\.", question):
        text = f"It is {2 * int(found[1]) + (int(found[2]) > 2)}."
    else:
        letter = re.search(r"(\w)\) yes", question)
        assert letter
        text = letter[1]
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}


def test_a_served_model_is_measured_at_every_level(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(served) as url:
        main(["suite", "levels", "--model", url, "--served-name", "ours", "--items", "5"])
    said = capsys.readouterr().out
    assert "| ours | doubles | generated | 100 | 100 | 0 | 0 |" in said
    assert "| ours | picks | scored | 100 | 100 | 100 | 100 |" in said
    assert "57 to 100" in said  # Wilson's interval of 5 of 5


def test_a_loaded_model_is_measured_within_its_context(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--model", str(tiny_folder), "--items", "4", "--section", "picks", "--json")
    main(["suite", "levels", *arguments])
    shown = json.loads(capsys.readouterr().out)
    assert [one["section"] for one in shown["sections"]] == ["picks"]
    assert [point["n"] for point in shown["sections"][0]["points"]] == [4, 4, 4, 4]
    main(["suite", "levels", *arguments, "--context", "59"])
    (picks,) = json.loads(capsys.readouterr().out)["sections"]
    assert (picks["points"], picks["too_long"]) == ([], [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--model", "http://127.0.0.1:9/v1"), "no_served_name"),
        (("--model", "smollm2-135m", "--served-name", "ours"), "not_a_server"),
        (("--model", "smollm2-135m", "--section", "pics"), "unknown_section"),
    ],
)
def test_what_does_not_fit_is_refused(
    arguments: tuple[str, ...], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["suite", "levels", *arguments])
    assert stopped.value.code == 2
    assert f"[{code}]" in capsys.readouterr().err
