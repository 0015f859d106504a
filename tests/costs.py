"""What a test costs, read from what its code uses: whether it trains, and whether it starts others.

So a new test has its mark without a word, and `make quick` leaves out what takes its time.
"""

import functools
import inspect
import os
import subprocess
from collections.abc import Callable, Iterator
from types import CodeType, ModuleType
from typing import Any

import pytest

import burnish
from burnish import cli
from burnish.evaluation.graders import sandbox
from burnish.pipeline import verbs
from burnish.pipeline.stages import run_stages
from burnish.serving.app import listen
from burnish.serving.jobs.process import JobProcess
from burnish.serving.jobs.worker import Worker
from burnish.sweep.search import run_sweep
from burnish.training.loop import Loop
from tests import fork_server

VERBS = ("run", "train", "evaluate", "heal", "tune", "compare")
_MEASURED = {getattr(verbs, name) for name in VERBS if hasattr(verbs, name)}
TRAINS = {*_MEASURED, run_stages, run_sweep, Loop, Worker}
PROCESS = {
    subprocess.Popen, subprocess.run, subprocess.check_output, os.fork, os.kill,
    JobProcess, Worker, sandbox.run_grade, listen.embedded_worker,
}  # fmt: skip


def mark(items: list[pytest.Item]) -> None:
    """Gives each test the marks of what it uses, and puts first the files that take longest.

    With several processes by file, the short ones at the end fill up what is left.
    """
    weights: dict[Any, float] = {}
    for item in items:
        names = sorted(_marks(item))
        for name in names:
            item.add_marker(name)
        weights[item.path] = weights.get(item.path, 0) + {0: 0.02, 1: 1}.get(len(names), 3)
    items.sort(key=lambda item: -weights[item.path])


def _marks(item: pytest.Item) -> set[str]:
    definitions = item._fixtureinfo.name2fixturedefs.values()  # type: ignore[attr-defined]
    functions = [each[-1].func for each in definitions]
    return set().union(*(marks_of(function) for function in [item.function, *functions]))  # type: ignore[attr-defined]


@functools.cache
def marks_of(function: Callable[..., Any]) -> frozenset[str]:
    """The marks of a function and of all those in the tests that it calls."""
    seen: set[Any] = set()
    marks: set[str] = set()
    words: set[str] = set()
    commands: set[Any] = set()
    todo = [_plain(function)]
    while todo:
        one = todo.pop()
        if one in seen or one.__module__ == fork_server.__name__:
            continue
        seen.add(one)
        words |= set(_texts(one.__code__))
        for value in _values(one):
            marks |= {"trains"} if _among(value, TRAINS) else set()
            marks |= {"process"} if _among(value, PROCESS) else set()
            commands |= {value} if value is cli.main else set()
            if inspect.isfunction(value) and (value.__module__ or "").startswith("tests"):
                todo.append(_plain(value))
    return frozenset(marks | ({"trains"} if commands and words.intersection(VERBS) else set()))


def _plain(function: Callable[..., Any]) -> Any:
    """Without its decorators, among them that of hypothesis."""
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    found = inspect.unwrap(inner)
    return getattr(found, "__func__", found)


def _values(function: Any) -> Iterator[Any]:
    """What its names stand for: globals, and attributes of those that are modules or classes."""
    names = [name for code in _codes(function.__code__) for name in code.co_names]
    for name in names:
        value = function.__globals__.get(name)
        value = verbs if value is burnish else value  # whose names it takes when they are needed
        yield value
        if isinstance(value, (ModuleType, type)):
            yield from (vars(value).get(other) for other in names)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _texts(code: CodeType) -> Iterator[str]:
    for one in _codes(code):
        for constant in one.co_consts:
            yield from (constant,) if isinstance(constant, str) else ()
            if isinstance(constant, tuple):
                yield from (word for word in constant if isinstance(word, str))


def _among(value: Any, those: set[Any]) -> bool:
    return any(value is one for one in those)
