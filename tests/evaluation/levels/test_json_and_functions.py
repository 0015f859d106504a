"""JSON items agree with their schemas, and are read back from their texts."""

import json
import re
from typing import Any

import jsonschema
import pytest

from burnish.evaluation.levels.function_choice import FUNCTION_CHOICE
from burnish.evaluation.levels.json_answers import JSON_ANSWERS
from burnish.evaluation.reply_checks import passes
from burnish.evaluation.tasks import CheckedItem
from tests.evaluation.levels.drawing import drawn


def parts(item: Any) -> tuple[str, dict[str, Any], Any]:
    """The text, the schema and the right value."""
    assert isinstance(item, CheckedItem)
    text, schema = re.search(r"Text: (.*)\n\nSchema: (.*)\n\n", item.prompt[0].content).groups()  # type: ignore[union-attr]
    return text, json.loads(schema), item.check["json"]


@pytest.mark.parametrize("level", [1, 2])
def test_values_after_examples_stand_in_the_text(level: int) -> None:
    for item in drawn(JSON_ANSWERS, level):
        assert isinstance(item, CheckedItem)
        value, text = item.check["json"], item.prompt[-1].content
        assert [list(json.loads(turn.content)) for turn in item.prompt[1::2]] == [list(value)] * 2
        for key, one in value.items():
            assert f'"{key}"' in text
            assert one == ("They are a gift" in text) if key == "gift" else str(one) in text
        assert passes(json.dumps(value), item.check)
        assert not passes(json.dumps(value | {"more": 1}), item.check)
        assert not passes(item.prompt[1].content, item.check)


@pytest.mark.parametrize("level", range(3, 8))
def test_values_follow_their_schemas_and_wrong_ones_fail(level: int) -> None:
    for item in drawn(JSON_ANSWERS, level):
        text, schema, value = parts(item)
        jsonschema.validate(value, schema)
        assert isinstance(item, CheckedItem)
        assert passes(f"```json\n{json.dumps(value, indent=2)}\n```", item.check)
        assert passes(f"Sure: {json.dumps(value)}", item.check)
        broken = json.dumps(value).replace("1", "4").replace("2", "5").replace('"na', '"ma')
        assert broken == json.dumps(value) or not passes(broken, item.check)
        for number in re.findall(r"[\d-]+", json.dumps(value)) if level <= 4 else []:
            assert number in text


def test_totals_and_groups_are_those_of_the_text() -> None:
    for item in drawn(JSON_ANSWERS, 6):
        text, _, value = parts(item)
        lines = re.findall(r"(\d+) (\w+) at (\d+) euros each", text)
        assert value["total_euros"] == sum(int(a) * int(e) for a, _, e in lines)
        assert [line["thing"] for line in value["items"]] == [thing for _, thing, _ in lines]
        assert (value["house_number"] is None) == ("Mill Lane" not in text)
    for item in drawn(JSON_ANSWERS, 7):
        text, _, value = parts(item)
        assert isinstance(item, CheckedItem)
        least = int(re.search(r"fewer than (\d+) seats", item.prompt[0].content)[1])  # type: ignore[index]
        bookings = re.findall(r"Booking (\d+): (\w+) books (\d+) seats in the (\w+)", text)
        groups: dict[str, list[dict[str, Any]]] = {}
        for number, person, seats, place in sorted(bookings):
            if int(seats) >= least:
                row = {"number": int(number), "person": person, "seats": int(seats)}
                groups.setdefault(place, []).append(row)
        assert value == [
            {"place": place, "seats": sum(row["seats"] for row in rows), "bookings": rows}
            for place, rows in sorted(groups.items())
        ]


@pytest.mark.parametrize("level", range(1, 7))
def test_calls_use_functions_that_are_offered(level: int) -> None:
    for item in drawn(FUNCTION_CHOICE, level):
        assert isinstance(item, CheckedItem)
        text = item.prompt[0].content
        offered = {one["name"]: one for one in map(json.loads, re.findall(r"^\{.*\}$", text, re.M))}
        assert len(offered) == (2, 2, 4, 8, 16, 24)[level - 1]
        calls = item.check["json"] if level == 6 else [item.check["json"]]
        assert len(calls) == (3 if level == 6 else 1)
        for call in calls:
            properties = offered[call["name"]]["parameters"]
            schema = {"properties": properties, "required": list(properties)}
            jsonschema.validate(call["arguments"], schema)
            assert set(call["arguments"]) == set(properties)
        assert passes(json.dumps(item.check["json"]), item.check)
        others = [name for name in offered if name != calls[0]["name"]]
        wrong = json.dumps(item.check["json"]).replace(calls[0]["name"], others[0])
        assert not passes(wrong, item.check)


def test_arguments_stand_in_the_request() -> None:
    for item in drawn(FUNCTION_CHOICE, 5, 100):
        assert isinstance(item, CheckedItem)
        request = item.prompt[0].content.split("User: ")[1]
        for value in item.check["json"]["arguments"].values():
            if re.fullmatch(r"\d\d:\d\d", str(value)):
                hour, minute = map(int, value.split(":"))
                time = f"{hour % 12 or 12}:{minute:02d}"
                assert f"{time} in the {'evening' if hour >= 12 else 'morning'}" in request
            elif re.fullmatch(r"\d{4}-\d\d-\d\d", str(value)):
                assert value[:4] in request
                assert str(int(value[8:])) in request
            else:
                assert str(value) in request
