"""JSON from a text and a schema, which together determine one right value."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from burnish.evaluation.levels.section import Item, Level, LevelSection, checked_item, conversation
from burnish.evaluation.levels.words import COLOURS, MONTHS, PEOPLE, PLACES, THINGS

_TEXT, _NUMBER = {"type": "string"}, {"type": "integer"}


@dataclass(frozen=True, slots=True)
class Record:
    """A text, the schema of its JSON, the one right value, and what the schema leaves open."""

    text: str
    schema: dict[str, Any]
    value: Any
    rules: str = ""


def make(level: int, rng: Random) -> Item:
    """Write a text to turn into JSON; at levels 1 and 2 with two examples before it."""
    if level <= 2:
        return _after_examples(_two_fields if level == 1 else _flat, rng)
    record = record_of(level, rng)
    question = (
        f"Turn the text into JSON that follows the schema.\n\nText: {record.text}\n\n"
        f"Schema: {json.dumps(record.schema)}\n\n{record.rules}Reply with the JSON only."
    )
    return checked_item(question, json=record.value)


def record_of(level: int, rng: Random) -> Record:
    """The text of an item of level 3 or higher, with its schema and value."""
    return _MAKERS[level - 3](rng)


def _after_examples(make_record: Callable[[Random, int], Record], rng: Random) -> Item:
    """A text after two others of the same kind with their JSON; the keys are named."""
    kind = rng.randrange(10**6)
    records = [make_record(rng, kind) for _ in range(3)]
    keys = ", ".join(f'"{key}"' for key in records[0].value)
    asked = [f"Write this as JSON with the keys {keys}: {record.text}" for record in records]
    turns = [(asked[index], json.dumps(records[index].value)) for index in (0, 1)]
    return checked_item(conversation(turns, asked[2]), json=records[2].value)


def _schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties),
            "additionalProperties": False}  # fmt: skip


def _two_fields(rng: Random, kind: int) -> Record:
    person, number = rng.choice(PEOPLE), rng.randint(18, 90)
    field, text = (
        ("age", f"{person} is {number} years old."),
        ("points", f"{person} has {number} points."),
        ("room", f"{person} sits in room {number}."),
    )[kind % 3]  # fmt: skip
    return Record(text, _schema({"name": _TEXT, field: _NUMBER}), {"name": person, field: number})


def _order(rng: Random) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A sentence on an order, and its flat schema and value."""
    person, thing, colour = rng.choice(PEOPLE), rng.choice(THINGS), rng.choice(COLOURS)
    amount, place, gift = rng.randint(2, 60), rng.choice(PLACES), rng.random() < 0.5
    text = (
        f"{person} orders {amount} {colour} {thing} for the {place}. "
        f"{'They are' if gift else 'They are not'} a gift."
    )
    value = {"customer": person, "thing": thing, "colour": colour, "amount": amount,
             "place": place, "gift": gift}  # fmt: skip
    schema = {"customer": _TEXT, "thing": _TEXT, "colour": _TEXT, "amount": _NUMBER,
              "place": _TEXT, "gift": {"type": "boolean"}}  # fmt: skip
    return text, schema, value


def _flat(rng: Random, kind: int) -> Record:
    text, schema, value = _order(rng)
    fields = Random(kind).sample(sorted(schema), 4)
    return Record(text, _schema({f: schema[f] for f in fields}), {f: value[f] for f in fields})


def _nested(rng: Random) -> Record:
    """An object in an object, and a list in the order of the text."""
    host, *guests = rng.sample(PEOPLE, rng.randint(4, 6))
    place, day, month = rng.choice(PLACES), rng.randint(1, 28), rng.randrange(12)
    text = (
        f"{host} gives a party in the {place} on {day} {MONTHS[month]}. "
        f"The guests are {', '.join(guests[:-1])} and {guests[-1]}."
    )
    schema = _schema({
        "host": _TEXT, "guests": {"type": "array", "items": _TEXT},
        "when": _schema({"day": _NUMBER, "month": _NUMBER}), "place": _TEXT,
    })  # fmt: skip
    value = {"host": host, "guests": guests, "when": {"day": day, "month": month + 1},
             "place": place}  # fmt: skip
    return Record(text, schema, value, "Write place as one word. ")


def _derived(rng: Random) -> Record:
    """Dates in ISO form, a choice of names, missing values as null, and a total."""
    day, month, year = rng.randint(1, 28), rng.randrange(12), rng.randint(2019, 2031)
    things = rng.sample(THINGS, 3)
    lines = [(thing, rng.randint(2, 12), rng.randint(2, 30)) for thing in things]
    person = rng.choice(PEOPLE)
    paid = rng.choice(["paid", "open", "cancelled"])
    status = {"paid": "It has been paid.", "open": "Nobody has paid for it yet.",
              "cancelled": "It was called off."}[paid]  # fmt: skip
    known = rng.random() < 0.5
    street = f" It goes to {rng.randint(2, 99)} Mill Lane." if known else ""
    text = (
        f"On {MONTHS[month]} {day}, {year}, {person} ordered "
        f"{lines[0][1]} {things[0]} at {lines[0][2]} euros each, {lines[1][1]} {things[1]} at "
        f"{lines[1][2]} euros each and {lines[2][1]} {things[2]} at {lines[2][2]} euros each. "
        f"{status}{street}"
    )
    item = _schema({"thing": _TEXT, "amount": _NUMBER, "euros_each": _NUMBER})
    schema = _schema({
        "date": {"type": "string", "format": "date"}, "customer": _TEXT,
        "status": {"enum": ["paid", "open", "cancelled"]},
        "items": {"type": "array", "items": item},
        "total_euros": _NUMBER, "house_number": {"type": ["integer", "null"]},
    })  # fmt: skip
    number = int(street.split()[3]) if known else None
    value = {
        "date": f"{year}-{month + 1:02d}-{day:02d}", "customer": person, "status": paid,
        "items": [{"thing": t, "amount": a, "euros_each": e} for t, a, e in lines],
        "total_euros": sum(a * e for _, a, e in lines), "house_number": number,
    }  # fmt: skip
    return Record(text, schema, value, "Use null for what the text does not say. ")


def _report(rng: Random) -> Record:
    """Ten bookings as a list that is filtered, sorted and grouped."""
    people, places = rng.sample(PEOPLE, 5), rng.sample(PLACES, 3)
    bookings = [
        (rng.choice(people), rng.choice(places), number, rng.randint(2, 40))
        for number in rng.sample(range(100, 999), 10)
    ]
    least = sorted(seats for *_, seats in bookings)[3]
    text = " ".join(
        f"Booking {number}: {person} books {seats} seats in the {place}."
        for person, place, number, seats in bookings
    )
    booking = _schema({"number": _NUMBER, "person": _TEXT, "seats": _NUMBER})
    group = _schema({
        "place": _TEXT, "seats": _NUMBER, "bookings": {"type": "array", "items": booking},
    })  # fmt: skip
    value = []
    for place in sorted(places):
        rows = sorted(
            (number, person, seats)
            for person, where, number, seats in bookings
            if where == place and seats >= least
        )
        if rows:
            listed = [{"number": n, "person": p, "seats": s} for n, p, s in rows]
            value.append({"place": place, "seats": sum(s for *_, s in rows), "bookings": listed})
    rules = (
        f"Leave out bookings of fewer than {least} seats. Make one object for each place that "
        "still has bookings, in alphabetical order of the places. Sort its bookings by number. "
        "The seats of a place are the sum of its bookings that are left. Write a place as one "
        "word. "
    )
    return Record(text, {"type": "array", "items": group}, value, rules)


_MAKERS: tuple[Callable[[Random], Record], ...] = (
    lambda rng: _two_fields(rng, rng.randrange(3)),
    lambda rng: _flat(rng, rng.randrange(10**6)),
    _nested,
    _derived,
    _report,
)
JSON_ANSWERS = LevelSection(
    "json_answers",
    "generated",
    (
        Level("two fields, after two examples", 190, 24),
        Level("four fields of three types, after two examples", 260, 40),
        Level("two fields by a schema", 170, 40),
        Level("four fields of three types by a schema", 240, 80),
        Level("a nested object and a list", 390, 140),
        Level("ISO dates, fixed choices, missing values and a total", 600, 240),
        Level("ten bookings filtered, sorted and grouped", 1000, 480),
    ),
    make,
)
