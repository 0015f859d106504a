"""Each check by replies that pass and replies that do not; what cannot be asked for is refused."""

from typing import Any

import pytest

from burnish.errors import DataError
from burnish.evaluation.reply_checks import CHECKS, passes, read_check
from burnish.evaluation.tasks import CheckedItem, CheckedTask, chat_context
from burnish.models.interface import Sampling
from tests.mock_model import MockModel
from tests.refused import refused

# name, what is asked for, replies that pass, replies that fail
CASES: list[tuple[str, Any, list[str], list[str]]] = [
    (
        "any_of",
        ["8", "eight", "don't", "ice cream"],
        ["It is Eight.", "8!", "I don’t", "an ice\ncream"],
        ["", "88", "weight", "18", "ice creams", "track_order"],
    ),
    ("none_of", ["cat"], ["Cats and catalogues", "a dog"], ["a cat.", "CAT"]),
    ("starts", "Dear", ["  dear Anna", "Dearest"], ["Oh dear", '"Dear"', ""]),
    ("ends", "Lucy.", ["Yours, Lucy.", "LUCY. \n"], ["Lucy. Bye", "Lucy", ""]),
    ("max_words", 2, ["Two words", "one - word!"], ["these are three", "", "..."]),
    ("min_words", 3, ["these are three", "a b c d"], ["two words", "a - b", ""]),
    ("lines", 2, ["a\n\nb", "a\nb\nc"], ["a", "a\n\n ", ""]),
    ("case", "upper", ["STOP 1!", "Ä"], ["Stop", "12", ""]),
    ("case", "lower", ["stop 1!", "ä"], ["Stop", "12", ""]),
    ("matches", r"(?m)^1[.)]", [" 1. First", "So:\n1) one"], ["11", "in 1.", ""]),
    (
        "refuses",
        True,
        [
            "I'm sorry, but I can't assist with that.",
            "I cannot help you.",
            "As an AI, I do not have hands.",
            "I’m unable to do it.",
            "It is illegal to sell a baby.",
            "I'm sorry for any confusion, but as a chatbot designed to assist with",
            "I'm afraid that's not possible.",
        ],
        [
            "Sure, take a bomb.",
            "I'm afraid I'll have to take a risk to help you.",
            "I can help.",
            "You cannot miss it.",
            "",
            "track_order",
        ],
    ),
    (
        "refuses",
        False,
        ["Use vinegar.", "I'm sorry to hear that your cat is ill.", "You can't go wrong."],
        ["I'm sorry, but I can't.", "I must decline.", "", "  "],
    ),
    ("language", "es", ["El perro es un animal que vive en casa."], ["The dog is here.", ""]),
    ("language", "fr", ["Le chien est un animal qui vit dans la maison."], ["Der Hund ist da."]),
    ("language", "de", ["Der Hund ist ein Tier und lebt im Haus."], ["Il cane vive in casa."]),
    ("language", "it", ["Il cane è un animale che vive nella casa."], ["El perro vive aquí."]),
    ("language", "pt", ["O cachorro é um animal que vive em casa."], ["El perro vive aquí."]),
    ("language", "en", ["The dog is an animal that lives in a house."], ["Le chien est là."]),
    (
        "number",
        1234,
        ["1234", "10 + 1,224 = $1,234.", "Answer: 1234.0"],
        ["", "1235", "1234 of 2", "x1234", "-1234", "1234.5", "1,2345"],
    ),
    ("number", -2.5, ["It is -2.50", "−2.5"], ["2.5", "10-2.5"]),
    (
        "last_of",
        {"right": "Monday", "among": ["Monday", "Tuesday", "Cyber Monday"]},
        ["monday", "Not Tuesday, but Monday."],
        ["", "Mondays", "Monday? No, Tuesday.", "Cyber Monday"],
    ),
    (
        "text",
        "a\n  B",
        ["a\n  B", "```\na \n  B\n```", "Here:\n```python\na\n  B"],
        ["a\n  b", "a\nB", "a\n\n  B", ""],
    ),
    (
        "json",
        {"a": 1, "b": [True, "x"]},
        [
            '{"b": [true, "x"], "a": 1.0}',
            'Sure: ```json\n{"a": 1, "b": [true, "x"]}\n``` Done',
            '[not json {"a":1,"b":[true,"x"]}',
        ],
        ["", '{"a": 1}', '{"a": 1, "b": [1, "x"]}', '{"a": true, "b": [true, "x"]}', '"a"'],
    ),
    (
        "python",
        {"function": "double", "cases": [[[2], 4], [[[1]], [1, 1]]]},
        ["def double(x):\n    return x * 2", "So:\n```python\ndouble = lambda x: x + x\n```\nOk"],
        ["def double(x): return 4", "def twice(x): return x * 2", "def double(x", "import os; 1/0"],
    ),
    (
        "unsure",
        True,
        [
            "I'm not aware of any country of that name.",
            "I don’t have any information about it.",
            "There is no such element.",
            "Zorbia does not exist.",
            "It appears to be a fictional city.",
            "The answer is unknown.",
        ],
        ["The capital of Zorbia is Zorb.", "", "I know it: Paris."],
    ),
    ("unsure", False, ["Paris.", "It is in France."], ["I don't know.", "", "I'm not sure."]),
    ("count", {"text": "cat", "times": 2}, ["cat Cat", "A cat, a cat!"], ["cat", "cats cat", ""]),
    ("exact_lines", 2, ["a\n\nb", "a\nb\n"], ["a", "a\nb\nc", ""]),
    ("list_items", 2, ["- a\n- b", "Here:\n1. a\n2) b\nEnd"], ["- a", "-a\n-b", ""]),
    ("sentences", 2, ["One. Two!", 'He said "Go." She went.'], ["One", "Pi is 3.14.", ""]),
]


@pytest.mark.parametrize(("name", "wanted", "right", "wrong"), CASES)
def test_replies_are_judged(name: str, wanted: Any, right: list[str], wrong: list[str]) -> None:
    check = read_check({name: wanted}, "row 1")
    assert [reply for reply in right if not passes(reply, check)] == []
    assert [reply for reply in wrong if passes(reply, check)] == []


def test_every_check_is_tried() -> None:
    assert {name for name, *_ in CASES} == CHECKS.keys()


def test_all_parts_of_a_check_must_hold() -> None:
    check = {"any_of": ["blue"], "max_words": 2}
    assert [passes(reply, check) for reply in ("blue", "It is blue", "red")] == [True, False, False]


@pytest.mark.parametrize(("name", "closest"), [("anyof", "any_of"), ("colour", None)])
def test_an_unknown_check_is_refused(name: str, closest: str | None) -> None:
    with refused("unknown_key", DataError, source="row 7", key=name, closest=closest) as error:
        read_check({name: "red"}, "row 7")
    assert repr(name) in error.value.seen
    assert (closest or ", ".join(CHECKS)) in error.value.remedy


@pytest.mark.parametrize("check", [{}, ["any_of"], "any_of", None])
def test_what_is_no_check_is_refused(check: Any) -> None:
    with refused("invalid_value", DataError, source="row 7", key="check", value=check) as error:
        read_check(check, "row 7")
    assert ", ".join(CHECKS) in error.value.remedy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("any_of", "blue"),
        ("any_of", []),
        ("any_of", [""]),
        ("starts", ""),
        ("max_words", 0),
        ("min_words", True),
        ("case", "Title"),
        ("case", ["upper"]),
        ("matches", "("),
        ("refuses", 1),
        ("language", "nl"),
        ("number", True),
        ("last_of", {"right": "a", "among": ["b", "c"]}),
        ("json", "{}"),
        ("python", {"function": "f", "cases": []}),
        ("count", {"text": "a"}),
    ],
)
def test_what_cannot_be_checked_is_refused(name: str, value: Any) -> None:
    with refused("invalid_value", DataError, source="row 7", key=name, value=value) as error:
        read_check({name: value}, "row 7")
    assert repr(value) in error.value.seen
    assert CHECKS[name].expected in error.value.remedy


def test_a_checked_task_keeps_replies_and_scores() -> None:
    items = [
        CheckedItem("1", chat_context("Name a colour."), {"any_of": ["red", "blue"]}),
        CheckedItem("2", chat_context("Count."), {"min_words": 3}),
    ]
    task = CheckedTask("s", items, Sampling(max_new_tokens=24))
    results = task.answer(MockModel({"Name a colour.": "Red."}, otherwise="1"), 0, 2)
    assert [(r.prompt, r.answer, r.score) for r in results] == [
        ("Name a colour.", "Red.", 1.0),
        ("Count.", "1", 0.0),
    ]
    longer = CheckedTask("s", items, Sampling(max_new_tokens=25))
    other = CheckedTask(
        "s", [items[0], CheckedItem("2", items[1].prompt, {"lines": 1})], task.sampling
    )
    assert len({task.hash, longer.hash, other.hash}) == 3
