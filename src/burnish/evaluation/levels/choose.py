"""Chooses the levels of each section at which a base model is between chance and perfect.

Only PROBE is looked at. A section is measured from its easiest level upwards until the base model
is at chance. The easiest and the hardest level above chance by two standard errors and below 95%
are kept. Items are divided among the kept levels so that the mean has a small variance for its
time: in proportion to the root of p (1 - p) over the cost of an item (Neyman 1934, Journal of the
Royal Statistical Society 97:558-625; with costs: Cochran 1977, Sampling Techniques, section 5.5).
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from burnish.errors import DataError
from burnish.evaluation.levels.draw import draw_items, level_task
from burnish.evaluation.levels.edition import edition
from burnish.evaluation.levels.section import Level, LevelSection
from burnish.evaluation.suite import PROBE, Section, chance
from burnish.runs.directory import ItemResult
from burnish.runs.levels import KeptLevel, LevelChoice, MeasuredLevel, Reason, SectionLevels

# Results of the base model on a task.
Answers = Callable[[Section], Sequence[ItemResult]]

_Key = tuple[str, int]  # the name of a section and the number of a level

PERFECT = 0.95
# Items of a level that decide whether it is kept, and of one with long prompts.
_TRIED, _TRIED_LONG, _LONG = 32, 16, 1000
# Items in CERT, about as many as `core` has there; the least of a kept level as a part of an equal
# share: the bound of the mean is that of equal sections if none is small.
CERT_ITEMS, _LEAST = 1800, 0.8
# Items in CERT of a mastered level, and of all mastered levels of one kind together.
_LIGHT, _LIGHT_ROW = 10, 60
# Generating a token takes about as long as reading so many.
_GENERATED = 3


def measured_level(
    section: LevelSection, number: int, results: Sequence[ItemResult], guess: float
) -> MeasuredLevel:
    """The point of the level curve that these results are."""
    right = sum(result.score > 0.5 for result in results)
    described = section.levels[number - 1].description
    return MeasuredLevel(number, described, len(results), right, guess)


def choose_levels(
    sections: Sequence[LevelSection],
    answers: Answers,
    context: int,
    suite: str = "levels",
    seed: int = 0,
) -> list[SectionLevels]:
    """Return the levels of each section to keep, with the numbers of their items.

    Args:
        sections: the sections of the suite.
        answers: returns the base model's results on a task of PROBE items.
        context: tokens that the model reads at once.
        suite: the suite's name in results.
        seed: the seed of the items.

    Raises:
        DataError: no section has a level that the base model can lose.
    """
    measured = [_measure(section, answers, context, suite, seed) for section in sections]
    by_name = {section.name: section for section in sections}
    weights = {
        (one.section, number): _weight(one, number, by_name[one.section])
        for one in measured
        for number in _window(one)
    }
    light = _light_items(measured)
    if not weights and not light:
        raise DataError(
            "the base model is at chance at every level of the suite levels, so nothing can be "
            "lost",
            "set evaluate.general to core, or choose a larger model",
            code="no_level_suits",
            context=context,
        )
    counts = _divide(weights, CERT_ITEMS - sum(light.values()))
    chosen = []
    for one in measured:
        section = by_name[one.section]
        kept = [_level(section, n, counts[one.section, n]) for n in _window(one)]
        if (number := _mastered(one)) is not None:
            kept.append(replace(_level(section, number, light[one.section]), mastered=True))
        chosen.append(replace(one, kept=tuple(sorted(kept, key=lambda level: level.level))))
    return chosen


def choice_of(
    sections: Sequence[LevelSection],
    answers: Answers,
    context: int,
    base: str,
    suite: tuple[str, int],
) -> LevelChoice:
    """The choice for a base model with this fingerprint; `suite` is its name and its seed."""
    name, seed = suite
    chosen = choose_levels(sections, answers, context, name, seed)
    return LevelChoice(name, seed, edition(sections), base, tuple(chosen))


def tried_items(level: Level) -> int:
    """The number of PROBE items that decide whether a level is kept."""
    return _TRIED if level.tokens <= _LONG else _TRIED_LONG


def _measure(
    section: LevelSection, answers: Answers, context: int, suite: str, seed: int
) -> SectionLevels:
    """The level curve up to the first level at chance; the first level alone does not end it."""
    curve: list[MeasuredLevel] = []
    for number, level in enumerate(section.levels, 1):
        if level.tokens > context:
            break
        items = draw_items(section, number, "probe", tried_items(level), seed)
        name = f"{suite}-ladder.{section.name}_{number}"
        task = level_task(name, items, level.answer_tokens)
        results = answers(task)
        curve.append(measured_level(section, number, results, chance(task)))
        if number > 1 and not _above(curve[-1]):
            break
    empty = SectionLevels(section.name, section.kind, tuple(curve))
    if not curve:
        return replace(empty, reason="context", tokens=section.levels[0].tokens)
    return replace(empty, reason=_reason(empty))


def _reason(one: SectionLevels) -> Reason | None:
    """Why no level of a measured section is between chance and perfect; None if one is."""
    if _window(one):
        return None
    mastered = [level for level in one.curve if level.share >= PERFECT]
    if not mastered:
        return "too_hard"
    return "too_easy" if len(mastered) == len(one.curve) else "too_steep"


def _window(one: SectionLevels) -> list[int]:
    """The easiest and the hardest level between chance and perfect; empty if there is none."""
    inside = [level.level for level in one.curve if _above(level) and level.share < PERFECT]
    return sorted({inside[0], inside[-1]}) if inside else []


def _above(level: MeasuredLevel) -> bool:
    """Whether the base model is above chance by two standard errors."""
    error = math.sqrt(level.share * (1 - level.share) / level.n)
    return level.share > level.chance + 2 * error


def _mastered(one: SectionLevels) -> int | None:
    """The hardest level that the base model gets right; None if there is none."""
    return max((level.level for level in one.curve if level.share >= PERFECT), default=None)


def _divide(weights: Mapping[_Key, float], total: int) -> dict[_Key, int]:
    """Items of each level in proportion to its weight, and for none less than _LEAST of a share."""
    least, fixed = _LEAST * total / max(1, len(weights)), set[_Key]()
    while True:
        rest = sum(weight for key, weight in weights.items() if key not in fixed)
        room = total - least * len(fixed)
        free = {key: room * w / rest for key, w in weights.items() if key not in fixed}
        if not (low := {key for key, share in free.items() if share < least}):
            return {key: round(free.get(key, least)) for key in weights}
        fixed |= low


def _weight(one: SectionLevels, number: int, section: LevelSection) -> float:
    """The root of p (1 - p) over the cost of an item of a measured level."""
    measured = next(level for level in one.curve if level.level == number)
    share = (measured.right + 1) / (measured.n + 2)
    level = section.levels[number - 1]
    return math.sqrt(share * (1 - share) / (level.tokens + _GENERATED * level.answer_tokens))


def _light_items(measured: Sequence[SectionLevels]) -> dict[str, int]:
    """CERT items of the mastered level of each section that has one, by its name."""
    mastered = [one for one in measured if _mastered(one) is not None]
    rows = Counter(one.kind for one in mastered)
    return {one.section: max(_LIGHT, math.ceil(_LIGHT_ROW / rows[one.kind])) for one in mastered}


def _level(section: LevelSection, number: int, cert: int) -> KeptLevel:
    probe = max(2, round(cert * PROBE / (1 - PROBE)))
    return KeptLevel(number, section.levels[number - 1].description, probe, cert)
