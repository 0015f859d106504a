"""Questions in eight languages are answered again from their numbers; Babel knows the weekdays."""

import re
from collections import Counter
from itertools import pairwise

import pytest

from burnish.evaluation.levels.languages import LANGUAGE_SECTION, LANGUAGES, Language
from tests.evaluation.levels.drawing import chosen, right


def language_of(question: str) -> Language:
    """The language in which one of the sentences of a question is written."""
    for language in LANGUAGES.values():
        for sentence in (language.left, language.now, language.highest, language.total):
            if sentence in question:
                return language
        patterns = (
            language.tomorrow,
            language.days,
            language.many_days,
            language.cell,
            language.price,
        )
        for pattern in patterns:
            shown = re.escape(pattern)
            for name in ("d", "n", "g", "p"):
                shown = shown.replace(rf"\{{{name}\}}", r"[^|]+?")
            if re.search(shown, question):
                return language
    raise AssertionError(question)


def rows(question: str) -> list[list[str]]:
    lines = [line.strip("|").split("|") for line in question.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def answer(question: str, language: Language) -> str:
    """The answer, computed from the numbers in the question."""
    table = rows(question)
    asked = question.split("\n\n")[-1]
    numbers = [int(number) for number in re.findall(r"\d+", asked)]
    if table and asked == language.highest:
        return max(table, key=lambda row: int(row[1]))[0]
    if table and asked == language.total:
        return str(sum(int(price) * int(stock) for _, price, stock in table))
    if table:
        quoted = re.findall(r"[«„“「]\s*(.+?)\s*[»“”」]", asked)[0]
        return next(row[1] for row in table if row[0] == quoted)
    today = [day for day in language.weekdays if day in asked]
    if today:
        place = language.weekdays.index(max(today, key=len))
        return language.weekdays[(place + (numbers or [1])[0]) % 7]
    if language is LANGUAGES["ja"] and "1キロの値段" in asked:  # "1 kilo costs": not an amount
        numbers.remove(1)
    had, sold, *more = numbers
    left = had - sold
    if len(more) == 2:
        return str((left + more[0]) * more[1])
    return str(left + sum(more))


def test_rows_of_weekdays_go_on() -> None:
    for item in chosen(LANGUAGE_SECTION, 1):
        shown = re.findall(r"[\w-]+", item.question)
        (days,) = [one.weekdays for one in LANGUAGES.values() if set(shown) <= set(one.weekdays)]
        places = [days.index(day) for day in [*shown, right(item)]]
        assert all((late - early) % 7 == 1 for early, late in pairwise(places))


@pytest.mark.parametrize("level", range(2, 7))
def test_answers_follow_from_the_numbers(level: int) -> None:
    seen = Counter[str]()
    for item in chosen(LANGUAGE_SECTION, level, 200):
        language = language_of(item.question)
        seen[language.left] += 1
        assert right(item) == answer(item.question, language)
    assert len(seen) == len(LANGUAGES) == 8
    assert min(seen.values()) >= 10


@pytest.mark.parametrize("code", sorted(LANGUAGES))
def test_weekdays_are_those_of_the_language(code: str) -> None:
    babel = pytest.importorskip("babel", reason="Babel comes with the packages of the docs")
    days = babel.Locale(code).days["stand-alone"]["wide"]
    assert [days[index] for index in range(7)] == list(LANGUAGES[code].weekdays)


@pytest.mark.parametrize("code", sorted(LANGUAGES))
def test_a_language_is_complete(code: str) -> None:
    language = LANGUAGES[code]
    assert len(set(language.names)) == 8
    assert len(language.goods or language.names) == 8
    assert len(set(language.headers)) == 3
    for pattern, names in (
        (language.has, "ag"), (language.sells, "b"), (language.buys, "c"), (language.price, "p"),
        (language.tomorrow, "d"), (language.days, "dn"), (language.many_days, "dn"),
        (language.cell, "g"), (language.left, ""), (language.now, ""), (language.total, ""),
    ):  # fmt: skip
        assert sorted(re.findall(r"\{(\w)\}", pattern)) == sorted(names)
