"""The levels of the suite `levels` that suit a base model: the content of `levels.json`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Reason = Literal["too_easy", "too_hard", "too_steep", "context"]


@dataclass(frozen=True, slots=True)
class MeasuredLevel:
    """How many of `n` PROBE items of a level the base model got right, and the share by chance."""

    level: int
    description: str
    n: int
    right: int
    chance: float

    @property
    def share(self) -> float:
        """The share of right answers."""
        return self.right / self.n


@dataclass(frozen=True, slots=True)
class KeptLevel:
    """A level whose items are in the suite: `probe` of them in PROBE, `cert` in CERT.

    A `mastered` level is one that the base model gets right; its few items share a row with those
    of other sections.
    """

    level: int
    description: str
    probe: int
    cert: int
    mastered: bool = False


@dataclass(frozen=True, slots=True)
class SectionLevels:
    """What PROBE says of a section.

    Attributes:
        section: its name.
        kind: `scored` or `generated`.
        curve: the levels that were measured, the easiest first.
        kept: the levels with items in the suite.
        reason: why no level is between chance and perfect; None if one is.
        tokens: tokens of the easiest level if the context is too short for it.
    """

    section: str
    kind: Literal["scored", "generated"]
    curve: tuple[MeasuredLevel, ...]
    kept: tuple[KeptLevel, ...] = ()
    reason: Reason | None = None
    tokens: int | None = None

    @property
    def counted(self) -> list[int]:
        """The kept levels that have a row of their own."""
        return [one.level for one in self.kept if not one.mastered]


@dataclass(frozen=True, slots=True)
class LevelChoice:
    """The levels of one suite for one base model.

    Attributes:
        suite: the suite's name in results, `levels` or `levels-7`.
        seed: the seed of its items.
        edition: hash of the generators.
        base: fingerprint of the base model.
        sections: all sections, in the order of the suite.
    """

    suite: str
    seed: int
    edition: str
    base: str
    sections: tuple[SectionLevels, ...]

    def sentences(self) -> list[str]:
        """Sentences on the levels that are kept, and on the sections without one."""
        kept = [
            f"{one.section} {' and '.join(map(str, one.counted))}"
            for one in self.sections
            if one.counted
        ]
        lines = []
        if kept:
            lines.append(
                f"The suite {self.suite} has the levels at which the base model is between chance "
                f"and 95%: {', '.join(kept)}."
            )
        words: dict[Reason, str] = {
            "too_easy": "The base model gets 95% or more right at every level of",
            "too_hard": "The base model is at chance at the easiest level of",
            "too_steep": "The base model goes from 95% or more to chance between two levels of",
            "context": "The context of the base model is too short for",
        }
        for reason, start in words.items():
            names = [one.section for one in self.sections if one.reason == reason]
            if names:
                lines.append(f"{start} {', '.join(names)}.")
        if any(level.mastered for one in self.sections for level in one.kept):
            lines.append(
                f"Levels that the base model masters have few items, in rows {self.suite}.mastered."
            )
        return lines


def level_sentences(choices: Sequence[LevelChoice]) -> list[str]:
    """The sentences of all suites with levels; empty if the run has none."""
    return [sentence for choice in choices for sentence in choice.sentences()]
