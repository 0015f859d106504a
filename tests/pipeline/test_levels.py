"""A run on the suite `levels`: what is chosen, written, measured and named, on a tiny model."""

import json
from pathlib import Path
from random import Random

import pytest

import burnish
from burnish.cli import main
from burnish.errors import DataError
from burnish.evaluation.levels import choose, registry
from burnish.evaluation.levels.section import Item, Level, LevelSection, checked_item, choice_item
from burnish.pipeline import verbs
from burnish.runs.directory import RunDirectory
from tests.refused import refused
from tests.rows import labelled, write_rows

# How often the short choice is right, by level: a random model prefers it.
_SHORT = (1.0, 0.8, 0.65, 0.3)


def _pick(level: int, rng: Random) -> Item:
    numbers = [f"{rng.randrange(10**6)} parcels and {rng.randrange(10**6)} tents" for _ in range(3)]
    choices = ["a", *numbers]
    right = choices[0 if rng.random() < _SHORT[level - 1] else 1 + rng.randrange(3)]
    wrong = [choice for choice in choices if choice != right]
    return choice_item(f"Which one is it, {rng.randrange(10**6)}?", right, wrong, rng)


def _never(level: int, rng: Random) -> Item:
    return checked_item(f"Say {rng.randrange(10**6)}.", number=-rng.randrange(10**9))


def _always(level: int, rng: Random) -> Item:
    return checked_item(f"Say {rng.randrange(10**6)}.", none_of=["zebra"])


def _levels(answer_tokens: int = 0) -> tuple[Level, ...]:
    return tuple(Level(f"level {n}", 120, answer_tokens) for n in range(1, 5))


PICK = LevelSection("pick", "scored", _levels(), _pick)
TALK = LevelSection("talk", "generated", _levels(4), _always)
HARD = LevelSection("hard", "generated", _levels(4), _never)


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "SECTIONS", (PICK, TALK, HARD))
    monkeypatch.setattr(choose, "CERT_ITEMS", 140)
    monkeypatch.setattr(choose, "_LIGHT_ROW", 12)
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    write_rows(tmp_path / "rows.jsonl", labelled(20))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: tiny\nmodel: {tiny_folder}\ndata: {{train: rows.jsonl, system: Say red or green}}\n"
        f"training: {{epochs: 4, learning_rate: 0.02}}\n"
        f"evaluate: {{general: levels}}\noutput: {tmp_path / 'runs'}\n"
    )
    return path


def test_a_run_has_the_levels_that_its_base_can_lose(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = burnish.run(recipe, quiet=True)
    (choice,) = run.levels()
    assert {one.section: (one.counted, one.reason) for one in choice.sections} == {
        "pick": ([2, 3], None),
        "talk": ([], "too_easy"),
        "hard": ([], "too_hard"),
    }
    rows = {row.task: row for row in run.ledger() if row.kind in ("general", "subset", "section")}
    assert list(rows) == [
        "levels-cert",
        "levels-cert.scored",
        "levels-cert.generated",
        "levels-cert.pick_2",
        "levels-cert.pick_3",
        "levels-cert.mastered_scored",
        "levels-cert.mastered_generated",
    ]
    kept = {level.level: level.cert for level in choice.sections[0].kept}
    assert rows["levels-cert.pick_2"].n == kept[2]
    assert rows["levels-cert.scored"].n == kept[2] + kept[3] + kept[1]
    assert (rows["levels-cert.scored"].budget, rows["levels-cert.scored"].passed) == (None, None)
    sentences = choice.sentences()
    assert "pick 2 and 3" in sentences[0]
    assert set(sentences) <= set(run.verdict().reasons)
    for page in ("report.html", "card.md"):
        text = (run.path / page).read_text()
        assert all(sentence in text for sentence in sentences), page
    curve = (run.path / "report.html").read_text().partition("Levels of the suite levels")[2]
    assert f"kept, {kept[2]} items" in curve
    assert "mastered, 12 items" in curve
    with pytest.raises(SystemExit):
        main(["evaluate", str(run.path), "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["levels"][0]["sections"][0]["section"] == "pick"


def test_the_plan_has_the_smallest_budget_of_the_chosen_levels(recipe: Path) -> None:
    plan = verbs.plan(recipe, quiet=True)
    assert "pick 2 and 3" in plan.power[0]
    assert any(line.startswith("The smallest budget") for line in plan.power)


def test_a_base_without_a_level_is_refused_before_training(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "SECTIONS", (HARD,))
    with refused("no_level_suits", DataError):
        burnish.train(recipe, quiet=True)
    assert not list((recipe.parent / "runs").glob("*"))


def test_suites_of_two_seeds_stand_side_by_side(recipe: Path) -> None:
    run = burnish.train(recipe, quiet=True, evaluate={"general": ["levels", "levels:7"]})
    first, second = RunDirectory(run.path).levels()
    assert (first.suite, second.suite, second.seed) == ("levels", "levels-7", 7)
    with refused("invalid_value", DataError, value="levels:x"):
        burnish.train(recipe, quiet=True, name="other", evaluate={"general": "levels:x"})
