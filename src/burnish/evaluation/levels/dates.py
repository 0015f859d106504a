"""Dates and calendars, from the day after Monday to seconds across leap years and time zones."""

from datetime import date, datetime, timedelta
from random import Random

from burnish.evaluation.levels.section import Item, Level, LevelSection, completion_item
from burnish.evaluation.levels.words import MONTHS, PEOPLE, WEEKDAYS, ladder

_EVENTS = (
    "piano lesson", "football match", "dentist appointment", "chess club", "swimming lesson",
    "dance class", "choir practice", "parents' evening", "drawing course", "driving lesson",
    "job interview", "book club", "yoga class", "concert", "school trip", "house viewing",
)  # fmt: skip


def make(level: int, rng: Random) -> Item:
    """Write a question about dates of this level."""
    return _MAKERS[level - 1](rng)


def written(day: date) -> str:
    """A date in words: `3 May 2031`."""
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def _random_day(rng: Random, first: int = 2001, last: int = 2059) -> date:
    start = date(first, 1, 1)
    return start + timedelta(days=rng.randrange((date(last, 12, 31) - start).days))


def _weekdays(right: int, rng: Random) -> tuple[str, list[str]]:
    """A weekday (Monday is 0) and three other ones."""
    wrong = rng.sample([day for index, day in enumerate(WEEKDAYS) if index != right], 3)
    return WEEKDAYS[right], wrong


def _next_day(rng: Random) -> Item:
    day = rng.randrange(7)
    person, event = rng.choice(PEOPLE), rng.choice(_EVENTS)
    right, wrong = _weekdays((day + 1) % 7, rng)
    text = f"{person} has a {event} on {WEEKDAYS[day]}. The day after {WEEKDAYS[day]} is"
    return completion_item(text, right, wrong, rng)


def _days_later(low: int, high: int, rng: Random) -> Item:
    day, days = rng.randrange(7), rng.randint(low, high)
    person, event = rng.choice(PEOPLE), rng.choice(_EVENTS)
    right, wrong = _weekdays((day + days) % 7, rng)
    text = f"Today is {WEEKDAYS[day]}. {person} has a {event} in {days} days, which is a"
    return completion_item(text, right, wrong, rng)


def _date_later(rng: Random) -> Item:
    day, days = _random_day(rng), rng.randint(10, 45)
    offsets = ladder(days, 1, rng)
    right, *wrong = (written(day + timedelta(days=offset)) for offset in offsets)
    person, event = rng.choice(PEOPLE), rng.choice(_EVENTS)
    text = f"Today is {written(day)}. {person} has a {event} in {days} days, which is on"
    return completion_item(text, right, wrong, rng)


def _days_between(rng: Random) -> Item:
    first = _random_day(rng)
    days = rng.randint(60, 900)
    last = first + timedelta(days=days)
    right, *wrong = (str(value) for value in ladder(days, rng.choice([1, 1, 2, 10]), rng))
    text = f"The number of days from {written(first)} to {written(last)} is"
    return completion_item(text, right, wrong, rng)


def _weekday_from_known(rng: Random) -> Item:
    known = _random_day(rng)
    other = known + timedelta(days=rng.randint(40, 330))
    right, wrong = _weekdays(other.weekday(), rng)
    text = f"{written(known)} is a {WEEKDAYS[known.weekday()]}, so {written(other)} is a"
    return completion_item(text, right, wrong, rng)


def _nth_weekday(rng: Random) -> Item:
    year, month, weekday, nth = (
        rng.randint(1905, 2095), rng.randint(1, 12), rng.randrange(7), rng.randrange(4),
    )  # fmt: skip
    first = date(year, month, 1)
    day = first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * nth)
    days = [date(year, month, number) for number in range(1 + 7 * nth, 8 + 7 * nth) if number > 0]
    others = rng.sample([other for other in days if other != day], 3)
    order = ("first", "second", "third", "fourth")[nth]
    text = f"The date of the {order} {WEEKDAYS[weekday]} of {MONTHS[month - 1]} {year} is"
    return completion_item(text, written(day), [written(other) for other in others], rng)


def _time_zones(rng: Random) -> Item:
    """A flight over time zones and, often, over the end of a month or of February."""

    year, month = rng.randint(2001, 2059), rng.choice([2, 2, rng.randint(1, 12)])
    last = date(year + month // 12, month % 12 + 1, 1) - timedelta(days=rng.randint(1, 2))
    start = datetime(last.year, last.month, last.day, rng.randrange(24), rng.randrange(60))
    here, there = rng.sample(range(-11, 13), 2)
    hours, minutes = rng.randint(6, 30), rng.randrange(60)
    arrival = start + timedelta(hours=hours - here + there, minutes=minutes)
    offsets = ladder(0, rng.choice([1, 1, 2, 24]), rng, least=-100)
    right, *wrong = (_moment(arrival + timedelta(hours=offset)) for offset in offsets)
    text = (
        f"A ship leaves a harbour in the time zone UTC{here:+d} on {_moment(start)} local time. "
        f"It arrives {hours} hours and {minutes} minutes later in the time zone UTC{there:+d}. "
        "On arrival the local time is"
    )
    return completion_item(text, right, wrong, rng)


def _moment(moment: datetime) -> str:
    return f"{written(moment.date())}, {moment:%H:%M}"


_MAKERS = (
    _next_day,
    lambda rng: _days_later(2, 6, rng),
    lambda rng: _days_later(8, 60, rng),
    _date_later,
    _days_between,
    _weekday_from_known,
    _nth_weekday,
    _time_zones,
)
DATES = LevelSection(
    "dates",
    "scored",
    (
        Level("the weekday after a weekday", 60),
        Level("the weekday two to six days after a weekday", 60),
        Level("the weekday 8 to 60 days after a weekday", 60),
        Level("the date up to 45 days after a date", 90),
        Level("the days between two dates of up to three years", 90),
        Level("a weekday from a known one of the same year", 90),
        Level("the first to fourth weekday of a month, 1905 to 2095", 90),
        Level("local times across time zones, months and leap years", 170),
    ),
    make,
)
