"""Choosing a function with its arguments: one of 2 to 24, which look alike at high levels."""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from burnish.evaluation.levels.section import Item, Level, LevelSection, checked_item, conversation
from burnish.evaluation.levels.words import COLOURS, MONTHS, PEOPLE, PLACES, WEEKDAYS

# A value of an argument: its JSON schema, a random value, and the value in words.
Value = tuple[dict[str, Any], Callable[[Random], tuple[Any, str]]]


def _number(low: int, high: int) -> Value:
    def draw(rng: Random) -> tuple[int, str]:
        number = rng.randint(low, high)
        return number, str(number)

    return {"type": "integer"}, draw


def _one_of(words: tuple[str, ...] | list[str]) -> Value:
    def draw(rng: Random) -> tuple[str, str]:
        word = rng.choice(words)
        return word, word

    return {"type": "string"}, draw


def _date(rng: Random) -> tuple[str, str]:
    day, month, year = rng.randint(1, 28), rng.randrange(12), rng.randint(2027, 2039)
    return f"{year}-{month + 1:02d}-{day:02d}", f"{day} {MONTHS[month]} {year}"


def _clock(rng: Random) -> tuple[str, str]:
    hour, minute = rng.randint(7, 11), rng.choice([0, 15, 30, 45])
    evening = rng.random() < 0.5
    return (
        f"{hour + 12 * evening:02d}:{minute:02d}",
        f"{hour}:{minute:02d} in the {'evening' if evening else 'morning'}",
    )


_PERSON, _PLACE = _one_of(PEOPLE), _one_of(PLACES)
_DATE: Value = ({"type": "string", "description": "YYYY-MM-DD"}, _date)
_TIME: Value = ({"type": "string", "description": "HH:MM, 24 hours"}, _clock)
_MINUTES, _DEGREES = _number(5, 90), _number(14, 28)

# Function name, description, arguments, and a request with the arguments in words.
Function = tuple[str, str, dict[str, Value], str]
_FUNCTIONS: tuple[Function, ...] = (
    ("set_timer", "Starts a countdown.", {"minutes": _MINUTES}, "Wake me in {minutes} minutes."),
    ("set_alarm", "Rings at a time of day.", {"time": _TIME}, "Ring at {time}, please."),
    ("cancel_alarm", "Removes the alarm set for a time.", {"time": _TIME},
     "I no longer want to be woken at {time}."),
    ("set_temperature", "Heats or cools a room.", {"room": _PLACE, "degrees": _DEGREES},
     "I would like to have {degrees} degrees in the {room}."),
    ("get_temperature", "Tells how warm a room is.", {"room": _PLACE}, "How warm is the {room}?"),
    ("turn_on_light", "Switches the light of a room on.", {"room": _PLACE},
     "It is too dark in the {room}."),
    ("turn_off_light", "Switches the light of a room off.", {"room": _PLACE},
     "Nobody is in the {room} any more, so make it dark there."),
    ("set_light_colour", "Changes the colour of a room's light.",
     {"room": _PLACE, "colour": _one_of(COLOURS)}, "Make the lamp of the {room} shine {colour}."),
    ("send_message", "Sends a text to a person.",
     {"person": _PERSON, "text": _one_of(["Thank you", "I am late", "See you soon", "Call me"])},
     "Write '{text}' to {person}."),
    ("call_person", "Starts a phone call.", {"person": _PERSON}, "I want to speak to {person}."),
    ("add_contact", "Saves a person's telephone number.",
     {"person": _PERSON, "number": _number(200000, 999999)},
     "Remember the telephone number of {person}: {number}."),
    ("delete_contact", "Forgets a person's telephone number.", {"person": _PERSON},
     "Throw the telephone number of {person} away."),
    ("create_event", "Puts an event into the calendar.",
     {"person": _PERSON, "date": _DATE, "time": _TIME},
     "I meet {person} on {date} at {time}. Put it into my calendar."),
    ("move_event", "Moves the event with a person to another date.",
     {"person": _PERSON, "date": _DATE}, "My meeting with {person} will now be on {date}."),
    ("cancel_event", "Removes the event with a person.", {"person": _PERSON},
     "My meeting with {person} will not take place."),
    ("list_events", "Lists the events of a date.", {"date": _DATE}, "What do I have on {date}?"),
    ("book_table", "Reserves a table in a restaurant.",
     {"guests": _number(2, 12), "date": _DATE, "time": _TIME},
     "We want to eat out on {date} at {time}, with {guests} people in all."),
    ("book_train", "Buys train tickets.",
     {"passengers": _number(2, 8), "weekday": _one_of(WEEKDAYS)},
     "We need the train on {weekday} for {passengers} people."),
    ("add_to_list", "Adds things to the shopping list.",
     {"thing": _one_of(["rice", "milk", "bread", "flour", "tea"]), "amount": _number(2, 9)},
     "We are out of {thing}, so note {amount} of it for the shop."),
    ("remove_from_list", "Removes things from the shopping list.",
     {"thing": _one_of(["rice", "milk", "bread", "flour", "tea"])},
     "I bought the {thing}, so it need not be on the list."),
    ("convert_currency", "Converts euros into another currency.",
     {"euros": _number(20, 900), "currency": _one_of(["USD", "GBP", "JPY", "CHF"])},
     "How much are {euros} euros in {currency}?"),
    ("get_weather", "Forecasts the weather of a date.", {"date": _DATE},
     "Shall I take an umbrella on {date}?"),
    ("play_music", "Plays music in a room.", {"room": _PLACE}, "I want music in the {room}."),
    ("set_volume", "Sets the loudness of a room's music in percent.",
     {"room": _PLACE, "percent": _number(5, 95)},
     "The music in the {room} should be at {percent} percent."),
)  # fmt: skip
_OFFERED = (2, 2, 4, 8, 16, 24)
_CALL = '{"name": ..., "arguments": {...}}'
_ONE = f"Reply only with {_CALL} for the function to call."
_THREE = f"Reply only with a JSON list of {_CALL}, one for each wish, in the order of the wishes."


def make(level: int, rng: Random) -> Item:
    """Write a request and functions of which one, or at the last level each of three, fits."""
    offered = rng.sample(_FUNCTIONS, _OFFERED[level - 1])
    listing = "\n".join(json.dumps(_described(*function[:3])) for function in offered)
    if level == 1:
        return _after_examples(f"You can call these functions:\n{listing}\n\n{_ONE}", offered, rng)
    drawn = [_drawn(one, rng) for one in rng.sample(offered, 3 if level == 6 else 1)]
    requests, calls = [request for request, _ in drawn], [call for _, call in drawn]
    form = _THREE if level == 6 else _ONE
    question = f"You can call these functions:\n{listing}\n\nUser: {' '.join(requests)}\n\n{form}"
    return checked_item(question, json=calls if level == 6 else calls[0])


def _after_examples(start: str, offered: Sequence[Function], rng: Random) -> Item:
    """A request after one for each of two functions, in random order."""
    first, second = (_drawn(one, rng) for one in rng.sample(offered, 2))
    request, call = _drawn(rng.choice(offered), rng)
    turns = [
        (f"{start}\n\nUser: {first[0]}", json.dumps(first[1])),
        (f"User: {second[0]}", json.dumps(second[1])),
    ]
    return checked_item(conversation(turns, f"User: {request}"), json=call)


def _drawn(function: Function, rng: Random) -> tuple[str, dict[str, Any]]:
    """A request for a function with random arguments, and the call."""
    name, _, arguments, request = function
    values = {key: draw(rng) for key, (_, draw) in arguments.items()}
    call = {"name": name, "arguments": {key: value for key, (value, _) in values.items()}}
    return request.format(**{key: words for key, (_, words) in values.items()}), call


def _described(name: str, description: str, arguments: dict[str, Value]) -> dict[str, Any]:
    properties = {key: schema for key, (schema, _) in arguments.items()}
    return {"name": name, "description": description, "parameters": properties}


FUNCTION_CHOICE = LevelSection(
    "function_choice",
    "generated",
    (
        Level("one of two functions, after a call of each", 460, 48),
        Level("one of two functions", 310, 60),
        Level("one of four functions", 460, 60),
        Level("one of eight functions", 660, 60),
        Level("one of sixteen functions", 960, 60),
        Level("three calls among twenty-four functions", 1500, 160),
    ),
    make,
)
