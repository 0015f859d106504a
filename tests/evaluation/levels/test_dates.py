"""Dates are read back from the questions and computed with `calendar` and `zoneinfo`-free UTC."""

import calendar
import re
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from burnish.evaluation.levels.dates import DATES
from burnish.evaluation.levels.words import MONTHS, WEEKDAYS
from tests.evaluation.levels.drawing import chosen, right

_DATE = r"(\d+) ([A-Z][a-z]+) (\d{4})"


def read(day: str, month: str, year: str) -> date:
    return date(int(year), MONTHS.index(month) + 1, int(day))


def test_weekdays_around_and_after() -> None:
    for item in chosen(DATES, 1):
        (day,) = re.findall(r"The day after (\w+) is$", item.question)
        assert WEEKDAYS.index(right(item)) == (WEEKDAYS.index(day) + 1) % 7
    for item in [*chosen(DATES, 2), *chosen(DATES, 3)]:
        day, days = re.search(r"Today is (\w+)\..* in (\d+) days", item.question).groups()  # type: ignore[union-attr]
        known = date(2024, 1, 1 + WEEKDAYS.index(day))  # 1 January 2024 was a Monday
        later = date.fromordinal(known.toordinal() + int(days))
        assert right(item) == later.strftime("%A")


def test_dates_after_and_between() -> None:
    for item in chosen(DATES, 4):
        *day, days = re.search(rf"{_DATE}\..* in (\d+) days", item.question).groups()  # type: ignore[union-attr]
        later = read(*re.fullmatch(_DATE, right(item)).groups())  # type: ignore[union-attr]
        assert later.toordinal() - read(*day).toordinal() == int(days)
    for item in chosen(DATES, 5):
        first, last = (read(*one) for one in re.findall(_DATE, item.question))
        assert right(item) == str((last - first).days)


def test_weekdays_of_dates() -> None:
    for item in chosen(DATES, 6):
        known, asked = (read(*one) for one in re.findall(_DATE, item.question))
        weekday = re.search(r"is a (\w+),", item.question)[1]  # type: ignore[index]
        assert weekday == calendar.day_name[calendar.weekday(*known.timetuple()[:3])]
        assert right(item) == calendar.day_name[calendar.weekday(*asked.timetuple()[:3])]
    for item in chosen(DATES, 7):
        order, weekday, month, year = re.search(
            r"of the (\w+) (\w+) of (\w+) (\d+)", item.question
        ).groups()  # type: ignore[union-attr]
        days = [
            week[WEEKDAYS.index(weekday)]
            for week in calendar.monthcalendar(int(year), MONTHS.index(month) + 1)
            if week[WEEKDAYS.index(weekday)]
        ]
        nth = ("first", "second", "third", "fourth").index(order)
        assert right(item) == f"{days[nth]} {month} {year}"


@pytest.mark.parametrize("count", [50])
def test_arrivals_in_other_time_zones(count: int) -> None:
    moment = rf"{_DATE}, (\d\d):(\d\d)"
    for item in chosen(DATES, 8, count):
        zones = [int(zone) for zone in re.findall(r"UTC([+-]\d+)", item.question)]
        *start, hours, minutes = re.search(
            rf"{moment}.* (\d+) hours and (\d+) minutes later", item.question
        ).groups()  # type: ignore[union-attr]
        texts = [start, re.fullmatch(moment, right(item)).groups()]  # type: ignore[union-attr]
        left, arrived = (
            datetime.combine(
                read(*text[:3]), datetime.min.time(), timezone(timedelta(hours=zone))
            ).replace(hour=int(text[3]), minute=int(text[4]))
            for text, zone in zip(texts, zones, strict=True)
        )
        passed = arrived.astimezone(UTC) - left.astimezone(UTC)
        assert passed == timedelta(hours=int(hours), minutes=int(minutes))
