"""What a test uses is seen through the functions of the tests, fixtures and decorators."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import burnish
from burnish.cli import main
from tests import costs


def begun() -> Any:
    return subprocess.Popen([sys.executable])


def trained() -> None:
    burnish.train("recipe.yaml")


def through_others() -> list[Any]:
    return [each() for each in (lambda: begun(), trained)]


@given(st.integers())
def by_property(number: int) -> None:
    trained()


def on_the_command_line() -> None:
    main(["train", "recipe.yaml"])


def checked() -> None:
    main(["check", "rows.jsonl"])
    burnish.check("rows.jsonl", "tiny")


@pytest.mark.parametrize(
    ("function", "marks"),
    [
        (begun, {"process"}),
        (trained, {"trains"}),
        (through_others, {"process", "trains"}),
        (by_property, {"trains"}),
        (on_the_command_line, {"trains"}),
        (checked, set()),
    ],
)
def test_marks_are_those_of_what_is_used(function: Callable[..., Any], marks: set[str]) -> None:
    assert costs.marks_of(function) == marks
