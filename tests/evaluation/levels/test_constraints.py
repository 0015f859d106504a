"""Constraints can all be met at once, and a reply that misses one of them fails."""

from typing import Any

import pytest

from burnish.evaluation.levels.constraints import CONSTRAINTS
from burnish.evaluation.reply_checks import passes
from burnish.evaluation.tasks import CheckedItem
from tests.evaluation.levels.drawing import drawn


def reply(check: dict[str, Any]) -> str:
    """A reply that meets all checks of an item."""
    words = [check["starts"]] if "starts" in check else ["Birds"]
    words += check.get("any_of", [])[:1]
    if "count" in check:
        words += [check["count"]["text"]] * check["count"]["times"]
    ending = check.get("ends", "")
    least = check.get("min_words", 0) - len(ending.split())
    words += ["sing"] * max(least - len(words), 12 - len(words), 0)
    if "max_words" in check:
        words = words[: check["max_words"] - len(ending.split())]
    count = check.get("sentences") or check.get("exact_lines") or 1
    inner = count - bool(ending)
    between = ". " if "sentences" in check else "\n"
    size = -(-len(words) // max(inner, 1))
    pieces = [" ".join(words[i * size : (i + 1) * size]) for i in range(max(inner, 1))]
    text = between.join(piece or "Yes" for piece in pieces)
    if not ending:
        return f"{text}."
    joined = ". " if "sentences" in check else "\n" if "exact_lines" in check else ". "
    return f"{text}{joined}{ending}"


@pytest.mark.parametrize("level", range(1, 7))
def test_all_constraints_can_be_met_and_each_one_counts(level: int) -> None:
    for item in drawn(CONSTRAINTS, level, 100):
        assert isinstance(item, CheckedItem)
        check = dict(item.check)
        constraints = len(check) - ({"min_words", "max_words"} <= set(check))
        assert constraints == level
        assert passes(reply(check), check), (check, reply(check))
        for name in check:
            others = {key: value for key, value in check.items() if key != name}
            assert not passes(_MISTAKES[name](reply(check)), check), name
            assert passes(reply(check), others) or not others


_MISTAKES: dict[str, Any] = {
    "starts": lambda text: f"Well, {text}",
    "ends": lambda text: f"{text} Really",
    "any_of": lambda text: "Birds sing here.",
    "none_of": lambda text: f"{text} And the is was of",
    "max_words": lambda text: f"{text} {'more ' * 60}",
    "min_words": lambda text: "Short.",
    "exact_lines": lambda text: "\n".join(["One more."] * 7),
    "sentences": lambda text: "One more. " * 7,
    "count": lambda text: "Birds sing here.",
}
