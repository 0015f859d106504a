"""Programs are run again by Python itself, and solutions of the tasks in the sandbox."""

import contextlib
import io
import re

import pytest

from burnish.evaluation.levels.code_reading import CODE_READING
from burnish.evaluation.levels.code_writing import CODE_WRITING, task_of
from burnish.evaluation.levels.section import LevelSection
from burnish.evaluation.reply_checks import passes
from burnish.evaluation.tasks import CheckedItem
from tests.evaluation.levels.drawing import chosen, drawn, right


@pytest.mark.parametrize("level", range(1, 8))
def test_the_right_choice_is_what_the_program_prints(level: int) -> None:
    for item in chosen(CODE_READING, level):
        (source,) = re.findall(r"```python\n(.*?)\n```", item.question, re.DOTALL)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(source, {})
        assert printed.getvalue().rstrip("\n") == right(item)


@pytest.mark.parametrize("level", range(1, 8))
def test_tasks_tell_functions_apart(level: int) -> None:
    results = []
    for item in drawn(CODE_WRITING, level):
        assert isinstance(item, CheckedItem)
        cases = item.check["python"]["cases"]
        results.append(str(cases))
        assert f"`{item.check['python']['function']}(" in item.prompt[0].content
        # Neither one constant nor the first argument unchanged solves a task.
        assert len({str(result) for _, result in cases}) > 1
        assert any(given[0] != result for given, result in cases)
    assert len(set(results)) == len(results)


@pytest.mark.parametrize("level", range(1, 8))
def test_solutions_pass_and_mistakes_do_not(level: int) -> None:
    made = []

    def record(number: int, rng: object) -> CheckedItem:
        made.append(task_of(number, rng))  # type: ignore[arg-type]
        return CheckedItem("", (), {})

    LevelSection("code_writing", "generated", CODE_WRITING.levels, record).item(level, 3)  # type: ignore[arg-type]
    item, (task,) = CODE_WRITING.item(level, 3), made
    assert isinstance(item, CheckedItem)
    assert passes(f"Here it is:\n```python\n{task.source}```\nDone.", item.check)
    wrong = task.source.replace("return ", "return not ")
    assert not passes(f"```python\n{wrong}```", item.check)


def longest_part(xs: list[int], most: int) -> list[int]:
    """Written a second time: the longest part whose largest minus smallest number is at most."""
    parts = [xs[i:j] for i in range(len(xs)) for j in range(i + 1, len(xs) + 1)]
    good = [part for part in parts if max(part) - min(part) <= most]
    return max(good, key=lambda part: (len(part), sum(part)), default=[])


def test_windows_by_a_second_program() -> None:
    tried = 0
    for item in drawn(CODE_WRITING, 6, 200):
        assert isinstance(item, CheckedItem)
        text = item.prompt[0].content
        spread = re.search(r"largest minus the smallest number is at most (\d+)", text)
        sums = re.search(r"whose numbers are all different and whose sum is not (\d+)", text)
        if spread and sums:
            for (xs,), result in item.check["python"]["cases"]:
                best = longest_part(xs, int(spread[1]))
                if len(set(best)) == len(best) and sum(best) != int(sums[1]):
                    tried += 1
                    assert result == best
    assert tried > 20
