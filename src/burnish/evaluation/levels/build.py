"""Builds the suite `levels` for a base model from the levels that were chosen for it."""

from collections import defaultdict
from collections.abc import Sequence

from burnish.errors import DataError
from burnish.evaluation.levels.draw import Part, draw_items, level_task
from burnish.evaluation.levels.edition import edition
from burnish.evaluation.levels.section import Item, LevelSection
from burnish.evaluation.suite import Section, Suite
from burnish.runs.levels import LevelChoice


def build_suite(choice: LevelChoice, sections: Sequence[LevelSection]) -> Suite:
    """The suite of a choice: a section for each kept level, and one of mastered levels per kind.

    Raises:
        DataError: the levels were chosen on another edition, whose items are not known here.
    """
    if (now := edition(sections)) != choice.edition:
        raise DataError(
            f"the levels of {choice.suite} were chosen on edition {choice.edition}, and this "
            f"version of Burnish has edition {now}",
            "use the version that started the run, or start the run again",
            code="edition_changed",
            suite=choice.suite,
            edition=choice.edition,
            expected=now,
        )
    by_name = {section.name: section for section in sections}
    probe, cert = (_part(choice, by_name, part) for part in ("probe", "cert"))
    return Suite(choice.suite, [*probe.sections, *cert.sections], parts=(probe, cert))


def _part(choice: LevelChoice, sections: dict[str, LevelSection], part: Part) -> Suite:
    name, tasks = f"{choice.suite}-{part}", list[Section]()
    mastered: dict[str, list[Item]] = defaultdict(list)
    longest: dict[str, int] = defaultdict(int)
    for chosen in choice.sections:
        section = sections[chosen.section]
        for kept in chosen.kept:
            count = kept.probe if part == "probe" else kept.cert
            items = draw_items(section, kept.level, part, count, choice.seed)
            tokens = section.levels[kept.level - 1].answer_tokens
            if kept.mastered:
                mastered[section.kind] += items
                longest[section.kind] = max(longest[section.kind], tokens)
            else:
                own = f"{name}.{section.name}_{kept.level}"
                tasks.append(level_task(own, items, tokens))
    tasks += [
        level_task(f"{name}.mastered_{kind}", items, longest[kind])
        for kind, items in mastered.items()
    ]
    return Suite(name, tasks)
