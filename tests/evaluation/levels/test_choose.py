"""Which levels a base model keeps: by hand-made sections and a base with a known ability."""

from collections.abc import Mapping, Sequence
from random import Random

import pytest

from burnish.errors import DataError
from burnish.evaluation.levels.build import build_suite
from burnish.evaluation.levels.choose import CERT_ITEMS, Answers, choice_of, choose_levels
from burnish.evaluation.levels.draw import content_hash, draw_items
from burnish.evaluation.levels.edition import edition
from burnish.evaluation.levels.section import (
    Item,
    Level,
    LevelSection,
    checked_item,
    choice_item,
    continuation_item,
)
from burnish.evaluation.suite import Section, chance, split_suite
from burnish.evaluation.tasks import CheckedTask, ChooseTask
from burnish.runs.directory import ItemResult
from burnish.runs.levels import LevelChoice
from tests.refused import refused

# The share of right answers at each level.
Ability = Mapping[str, Sequence[float]]


def _sum(level: int, rng: Random) -> Item:
    first, second = (rng.randrange(10 ** (level + 2)) for _ in range(2))
    return checked_item(f"What is {first} + {second}?", number=first + second)


def _larger(level: int, rng: Random) -> Item:
    numbers = rng.sample(range(10 ** (level + 2)), 4)
    wrong = [str(one) for one in sorted(numbers)[:3]]
    return choice_item(f"Which of {numbers} is the largest?", str(max(numbers)), wrong, rng)


def _levels(tokens: int = 100, answer_tokens: int = 0) -> tuple[Level, ...]:
    return tuple(Level(f"{n} digits", tokens * n, answer_tokens) for n in range(1, 5))


SUMS = LevelSection("sums", "generated", _levels(answer_tokens=20), _sum)
LARGER = LevelSection("larger", "scored", _levels(), _larger)


def base(ability: Ability, asked: list[str]) -> Answers:
    """Answers of a model that is right in that share of the items, by section and level."""

    def answers(task: Section) -> list[ItemResult]:
        asked.append(task.name)
        section, _, level = task.name.rpartition(".")[2].rpartition("_")
        right = round(ability[section][int(level) - 1] * len(task))
        assert all(int(item.id.rpartition("-")[2]) < 5_000_000 for item in task.items)  # PROBE
        return [
            ItemResult(item.id, "", "", "", float(place < right))
            for place, item in enumerate(task.items)
        ]

    return answers


def choice(ability: Ability, context: int = 10_000) -> LevelChoice:
    sections = [section for section in (SUMS, LARGER) if section.name in ability]
    return choice_of(sections, base(ability, []), context, "base", ("levels", 0))


def test_items_are_those_of_their_seed_and_parts_share_none() -> None:
    probe, again = (draw_items(SUMS, 2, "probe", 50) for _ in range(2))
    assert probe == again
    assert draw_items(SUMS, 2, "probe", 20) == probe[:20]
    cert, other = draw_items(SUMS, 2, "cert", 50), draw_items(SUMS, 2, "probe", 50, seed=7)
    contents = [{content_hash(item) for item in items} for items in (probe, cert, other)]
    assert [len(one) for one in contents] == [50, 50, 50]
    assert not contents[0] & contents[1]
    assert len(contents[0] & contents[2]) < 3
    assert not {item.id for item in probe} & {item.id for item in [*cert, *other]}


def test_a_level_with_few_items_gives_them_once_and_to_one_part() -> None:
    few = LevelSection(
        "few",
        "scored",
        _levels(),
        lambda _, rng: continuation_item(f"Number {rng.randrange(100)} is", " a", [" b"], rng),
    )
    probe, cert = (draw_items(few, 1, part, 500) for part in ("probe", "cert"))  # type: ignore[arg-type]
    questions = [{str(item.context) for item in part} for part in (probe, cert)]  # type: ignore[union-attr]
    assert len(probe) + len(cert) == len(questions[0] | questions[1]) == 100
    assert 15 <= len(probe) <= 45


def test_the_easiest_and_the_hardest_level_between_chance_and_perfect_are_kept() -> None:
    asked: list[str] = []
    answers = base({"sums": (1.0, 0.9, 0.5, 0.2), "larger": (0.8, 0.7, 0.3, 0.9)}, asked)
    sums, larger = choose_levels([SUMS, LARGER], answers, 10_000)
    assert (sums.counted, larger.counted) == ([2, 4], [1, 2])
    assert [kept.level for kept in sums.kept if kept.mastered] == [1]
    assert [round(level.share, 1) for level in sums.curve] == [1.0, 0.9, 0.5, 0.2]
    assert {level.chance for level in larger.curve} == {0.25}
    # Level 3 is at chance, so level 4 is not asked.
    assert asked == [
        *(f"levels-ladder.sums_{n}" for n in (1, 2, 3, 4)),
        *(f"levels-ladder.larger_{n}" for n in (1, 2, 3)),
    ]


@pytest.mark.parametrize(
    ("shares", "reason"),
    [
        ((1.0, 1.0, 1.0, 1.0), "too_easy"),
        ((0.2, 0.25, 0.25, 0.25), "too_hard"),
        ((1.0, 0.25, 0.25, 0.25), "too_steep"),
        ((0.25, 0.8, 0.25, 0.25), None),
    ],
)
def test_a_section_without_a_level_has_its_reason(
    shares: tuple[float, ...], reason: str | None
) -> None:
    chosen = choice({"sums": (0.5, 0.5, 0.5, 0.5), "larger": shares})
    larger = chosen.sections[1]
    assert larger.reason == reason
    assert larger.counted == ([] if reason else [2])
    named = [line for line in chosen.sentences() if "larger" in line]
    assert len(named) == 1


def test_levels_beyond_the_context_are_left_out() -> None:
    ability = {"sums": (0.5, 0.5, 0.5, 0.5), "larger": (0.5, 0.5, 0.5, 0.5)}
    assert [one.counted for one in choice(ability, 250).sections] == [[1, 2], [1, 2]]
    short = LevelSection("sums", "generated", _levels(1000, 20), _sum)
    chosen = choice_of([short, LARGER], base(ability, []), 900, "base", ("levels", 0))
    assert [(one.reason, one.tokens) for one in chosen.sections] == [
        ("context", 1000),
        (None, None),
    ]


def test_what_can_be_lost_gets_more_items_and_what_is_mastered_few() -> None:
    chosen = choice({"sums": (1.0, 0.9, 0.5, 0.0), "larger": (1.0, 1.0, 1.0, 1.0)})
    sums, larger = chosen.sections
    counts = {kept.level: kept.cert for kept in sums.kept}
    assert counts[1] == 60 < counts[2] < counts[3]  # one mastered section of its kind
    assert [(kept.level, kept.cert) for kept in larger.kept] == [(4, 60)]
    assert sum(counts.values()) + 60 == CERT_ITEMS
    assert all(abs(kept.probe / kept.cert - 3 / 7) < 0.05 for kept in sums.kept)


def test_no_level_has_much_less_than_an_equal_share() -> None:
    long = LevelSection("larger", "scored", _levels(tokens=2000), _larger)
    ability = {"sums": (0.94, 0.5, 0.5, 0.5), "larger": (0.9, 0.9, 0.0, 0.0)}
    chosen = choose_levels([SUMS, long], base(ability, []), 10_000)
    counts = [kept.cert for one in chosen for kept in one.kept]
    assert sum(counts) == CERT_ITEMS
    assert min(counts) == pytest.approx(0.8 * CERT_ITEMS / 4)
    assert max(counts) == counts[1] > CERT_ITEMS / 4  # level 4 of sums: nearest to one half


def test_the_same_base_gives_the_same_choice() -> None:
    ability = {"sums": (1.0, 0.9, 0.5, 0.0), "larger": (0.8, 0.7, 0.3, 0.9)}
    assert choice(ability) == choice(ability)


def test_a_base_at_chance_everywhere_is_refused() -> None:
    with refused("no_level_suits", DataError, context=10_000):
        choice({"sums": (0.0,) * 4, "larger": (0.25,) * 4})


def test_the_suite_has_a_section_for_each_level_and_splits_into_its_parts() -> None:
    chosen = choice({"sums": (1.0, 0.9, 0.5, 0.0), "larger": (1.0, 1.0, 1.0, 1.0)})
    suite = build_suite(chosen, (SUMS, LARGER))
    probe, cert = split_suite(suite)
    assert [task.name for task in cert.sections] == [
        "levels-cert.sums_2",
        "levels-cert.sums_3",
        "levels-cert.mastered_generated",
        "levels-cert.mastered_scored",
    ]
    kinds = [type(task) for task in probe.sections]
    assert kinds == [CheckedTask, CheckedTask, CheckedTask, ChooseTask]
    sizes = {kept.level: kept.cert for kept in chosen.sections[0].kept}
    assert [len(task) for task in cert.sections] == [sizes[2], sizes[3], 60, 60]
    assert chance(cert.sections[3]) == 0.25
    contents = [
        {content_hash(i) for task in part.sections for i in task.items} for part in (probe, cert)
    ]
    assert not contents[0] & contents[1]


def test_another_edition_is_refused() -> None:
    chosen = choice({"sums": (0.5,) * 4, "larger": (0.5,) * 4})
    with refused("edition_changed", DataError, suite="levels", expected=edition((LARGER, SUMS))):
        build_suite(chosen, (LARGER, SUMS))


def test_the_edition_changes_with_any_item() -> None:
    other = LevelSection("sums", "generated", SUMS.levels, lambda n, rng: _sum(n + 1, rng))
    longer = LevelSection("sums", "generated", _levels(answer_tokens=21), _sum)
    assert len({edition([one]) for one in (SUMS, other, longer)}) == 3
