"""Suites are read or refused, split the same way in every run, and know what chance is."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import DataError
from burnish.evaluation.reply_checks import CHECKS
from burnish.evaluation.suite import Suite, chance, load_suite, near_chance, split_suite
from burnish.evaluation.tasks import (
    BiasTask,
    CheckedItem,
    CheckedTask,
    ChoiceItem,
    ChooseTask,
    TextLossTask,
    chat_context,
)
from burnish.models.interface import Sampling, Scores
from burnish.runs.directory import ItemResult
from tests.refused import refused

CHOICE = {"question": "The sky is", "choices": [" blue", " flat"], "answer": 0}
CHECKED = {"question": "Name a colour.", "check": {"any_of": ["red"]}}


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def ids(task: Any) -> list[str]:
    if isinstance(task, TextLossTask):
        return [name for name, _ in task.items]
    return [item.id for item in task.items]


def test_core_is_large_and_no_item_comes_twice() -> None:
    core = load_suite("core")
    assert sum(len(task) for task in core.tasks) >= 3000
    assert len(core.sections) >= 12
    names = [name for task in core.tasks for name in ids(task)]
    assert len(names) == len(set(names))
    asked = [
        " ".join((item.question, *item.choices)).casefold()
        if isinstance(item, ChoiceItem)
        else " ".join(turn.content for turn in item.prompt).casefold()
        for task in (*core.sections, *core.bias, *core.openings)
        for item in task.items
    ]
    asked += [text.casefold() for task in core.texts for _, text in task.items]
    assert len(asked) == len(set(asked))


def test_right_answers_of_core_stand_in_every_place() -> None:
    for section in load_suite("core").sections:
        if isinstance(section, CheckedTask):
            continue
        expected, found = [0.0] * 4, [0] * 4
        for item in section.items:
            found[item.answer] += 1
            for place in range(len(item.choices)):
                expected[place] += 1 / len(item.choices)
        # A model that likes one place gains at most a few points by it.
        gaps = [abs(a - b) / len(section) for a, b in zip(expected, found, strict=True)]
        assert max(gaps) < 0.1, section.name


def test_one_label_for_everything_passes_no_check_of_core() -> None:
    for section in load_suite("core").sections:
        if isinstance(section, CheckedTask):
            for item in section.items:
                held = [CHECKS[name].holds("track_order", v) for name, v in item.check.items()]
                assert not all(held), item.id


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_split_is_complete_disjoint_and_of_fixed_shares(shuffled: bool) -> None:
    core = load_suite("core")
    given = mixed(core) if shuffled else core
    probe, cert = split_suite(given)
    assert (probe.name, cert.name) == ("core-probe", "core-cert")
    for whole, first, second in zip(core.tasks, probe.tasks, cert.tasks, strict=True):
        section = whole.name.split(".")[1]
        assert (first.name, second.name) == (f"core-probe.{section}", f"core-cert.{section}")
        assert set(ids(first)).isdisjoint(ids(second))
        assert {*ids(first), *ids(second)} == set(ids(whole))
        assert abs(len(first) - 0.3 * len(whole)) <= 1
        # The same items whatever the order of the rows.
        assert set(ids(first)) == set(ids(split_suite(core)[0].tasks[core.tasks.index(whole)]))
        assert len({whole.hash, first.hash, second.hash}) == 3


def mixed(suite: Suite) -> Suite:
    """The same suite with the rows of each task in another order."""
    chosen = random.Random(0)

    def turned(task: Any) -> Any:
        return replace(task, items=chosen.sample(list(task.items), len(task)))

    fields = ("sections", "texts", "bias", "openings")
    return replace(suite, **{name: [turned(t) for t in getattr(suite, name)] for name in fields})


def test_a_split_keeps_the_order_of_the_rows() -> None:
    section = load_suite("core").sections[0]
    first, second = (ids(part.sections[0]) for part in split_suite(load_suite("core")))
    assert [name for name in ids(section) if name in set(first)] == first
    assert [name for name in ids(section) if name in set(second)] == second


def test_a_split_is_the_same_on_every_machine(tmp_path: Path) -> None:
    rows = [CHOICE | {"id": str(n), "question": f"Sky {n} is"} for n in range(10)]
    probe, cert = split_suite(load_suite(written(tmp_path / "own.jsonl", rows)))
    # The three smallest of sha256("0") to sha256("9").
    assert sorted(ids(probe.sections[0])) == ["4", "8", "9"]
    assert len(cert.sections[0]) == 7


def test_a_file_of_choices_and_checks_has_two_sections(tmp_path: Path) -> None:
    rows = [(CHOICE if n % 2 else CHECKED) | {"question": f"Say {n}:"} for n in range(20)]
    suite = load_suite(written(tmp_path / "own.jsonl", rows))
    assert [section.name for section in suite.sections] == ["own.choices", "own.replies"]
    probe, cert = split_suite(suite)
    assert [len(section) for section in probe.sections] == [3, 3]
    assert [len(section) for section in cert.sections] == [7, 7]
    assert [s.name for s in cert.sections] == ["own-cert.choices", "own-cert.replies"]


def test_rows_without_an_id_are_drawn_by_what_they_say_and_count_once(tmp_path: Path) -> None:
    rows = [CHECKED | {"question": f"Say {n}."} for n in range(20)] + [CHECKED, CHECKED]
    given = load_suite(written(tmp_path / "own.jsonl", rows))
    turned = load_suite(written(tmp_path / "own.jsonl", rows[::-1]))
    first, second = (split_suite(suite)[0].sections[0] for suite in (given, turned))
    assert set(ids(first)) == set(ids(second))
    assert len(set(ids(given.sections[0]))) == 21


def test_what_is_asked_again_under_another_id_counts_once(tmp_path: Path) -> None:
    asked = [row | {"question": f"Say {n}"} for n in range(9) for row in (CHOICE, CHECKED)]
    rows = [
        row | {"id": f"{n}-{copy}", "note": copy}
        for copy in range(10)
        for n, row in enumerate(asked)
    ]
    suite = load_suite(written(tmp_path / "own.jsonl", rows))
    first = [[f"{n}-0" for n in range(start, 18, 2)] for start in (0, 1)]
    assert [ids(section) for section in suite.sections] == first


def test_a_row_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"question": ' + "[" * 100_000)
    with refused("broken_json", DataError, source=f"{tmp_path}/own.jsonl:1"):
        load_suite(str(tmp_path / "own.jsonl"))


def test_a_byte_order_mark_and_line_separators_within_texts_are_read(tmp_path: Path) -> None:
    row = CHOICE | {"question": "one\u2028two"}
    (tmp_path / "own.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8-sig")
    (section,) = load_suite(str(tmp_path / "own.jsonl")).sections
    assert section.items[0].context == "one\u2028two"


def test_a_system_message_is_the_first_turn(tmp_path: Path) -> None:
    rows = [CHECKED | {"system": "You are Ada."}]
    section = load_suite(written(tmp_path / "own.jsonl", rows)).sections[0]
    assert isinstance(section, CheckedTask)
    assert [turn.role for turn in section.items[0].prompt] == ["system", "user"]


@pytest.mark.parametrize(
    ("row", "code", "values"),
    [
        (CHOICE | {"answer": 2}, "answer_not_a_choice", {"value": 2, "count": 2}),
        (CHOICE | {"answer": -1}, "answer_not_a_choice", {"value": -1}),
        (CHOICE | {"answer": 0.9}, "answer_not_a_choice", {"value": 0.9}),
        ({"choices": ["b", "c"], "answer": 1}, "missing_key", {"key": "question"}),
        ({"question": "a", "answer": 1}, "missing_key", {"key": "choices"}),
        (CHOICE | {"question": 3}, "invalid_value", {"key": "question", "value": 3}),
        (CHOICE | {"choices": [3, 4]}, "invalid_value", {"key": "choices", "value": [3, 4]}),
        (CHOICE | {"choices": "xy"}, "invalid_value", {"key": "choices", "value": "xy"}),
        (CHOICE | {"choices": ["x"]}, "invalid_value", {"key": "choices", "value": ["x"]}),
        (CHOICE | {"choices": ["x", ""]}, "invalid_value", {"key": "choices", "value": ["x", ""]}),
        ({"check": {"lines": 1}}, "missing_key", {"key": "question"}),
        (CHECKED | {"check": {"any": ["x"]}}, "unknown_key", {"key": "any"}),
        (CHOICE | {"choices": ["x", "y", "x"]}, "duplicate_choice", {"value": "x"}),
        (CHOICE | {"question": "\ud800"}, "half_character", {}),
        (CHOICE | {"id": 1}, "duplicate_id", {"id": "1"}),
        ([], "not_object", {"type": "list"}),
    ],
)
def test_rows_that_do_not_fit_are_named(
    tmp_path: Path, row: Any, code: str, values: dict[str, Any]
) -> None:
    path = written(tmp_path / "own.jsonl", [CHOICE | {"id": 1}, row])
    with refused(code, DataError, source=f"{path}:2", **values) as error:
        load_suite(path)
    assert f"{path}:2 " in error.value.seen


def test_what_is_no_suite_is_refused(tmp_path: Path) -> None:
    with refused("unknown_suite", DataError, suite="cor"):
        load_suite("cor")
    with refused("file_missing", DataError, path=str(tmp_path / "own.jsonl")):
        load_suite(str(tmp_path / "own.jsonl"))
    with refused("no_rows", DataError, path=str(tmp_path / "own.jsonl")):
        load_suite(written(tmp_path / "own.jsonl", []))
    (tmp_path / "own.jsonl").write_text("{\n")
    with refused("broken_json", DataError, source=f"{tmp_path}/own.jsonl:1"):
        load_suite(str(tmp_path / "own.jsonl"))
    (tmp_path / "own.jsonl").write_bytes(b'{"question": "\xe9"}\n')
    with refused("not_utf8", DataError, source=f"{tmp_path}/own.jsonl:1"):
        load_suite(str(tmp_path / "own.jsonl"))
    with refused("too_few_items", DataError, suite="own"):
        split_suite(load_suite(written(tmp_path / "own.jsonl", [CHOICE])))


def section(counts: list[int]) -> ChooseTask:
    return ChooseTask("s", [ChoiceItem(str(n), "q", tuple("abcd"[:n]), 0) for n in counts])


def results(right: int, n: int) -> list[ItemResult]:
    return [ItemResult(str(i), "q", "a", "a", float(i < right)) for i in range(n)]


def test_chance_is_the_mean_share_of_the_choices() -> None:
    assert chance(section([2, 2, 4, 4])) == pytest.approx((0.5 + 0.5 + 0.25 + 0.25) / 4)
    assert chance(CheckedTask("s", [], Sampling())) == 0.0


def test_a_section_near_chance_is_named_with_its_scores() -> None:
    pairs = section([2] * 100)
    # Two standard errors of 59 and 60 of 100: 9.84 and 9.80 points.
    assert near_chance(pairs, results(60, 100)) is None
    why = "% on 100 items, not two standard errors above chance (50.0%)"
    assert near_chance(pairs, results(59, 100)) == f"the base model scores 59.0{why}"
    assert near_chance(pairs, results(30, 100)) == f"the base model scores 30.0{why}"


def test_a_checked_section_is_left_out_when_hardly_a_reply_passes() -> None:
    items = [CheckedItem(str(n), chat_context("q"), {"lines": 1}) for n in range(100)]
    replies = CheckedTask("s", items, Sampling())
    # k of n is within two standard errors of 0 where k^2 <= 4 k (1 - k / n): up to 3 of 100.
    assert near_chance(replies, results(0, 100)) == (
        "the base model scores 0.0% on 100 items, not clearly above 0"
    )
    assert near_chance(replies, results(3, 100)) == (
        "the base model scores 3.0% on 100 items, not clearly above 0"
    )
    assert near_chance(replies, results(4, 100)) is None


def scoring(*sums: tuple[float, float]) -> Any:
    class Scoring:
        def score(self, _: Any) -> list[Scores]:
            return [Scores(pair, (1, 1)) for pair in sums]

    return Scoring()


def test_a_pair_is_fair_unless_the_stereotype_is_likelier() -> None:
    items = [ChoiceItem(str(n), "", ("He cooks.", "She cooks."), 0) for n in range(2)]
    items.append(ChoiceItem("2", "", ("She cooks.", "He cooks."), 1))
    found = BiasTask("b", items).answer(scoring((-2.0, -3.0), (-4.0, -3.0), (-3.0, -3.0)), 0, 3)
    assert [(item.score, item.answer) for item in found] == [
        (1.0, "He cooks."),
        (0.0, "She cooks."),
        (1.0, "He cooks."),  # a draw is no preference
    ]
    assert {item.expected for item in found} == {"He cooks."}


@pytest.mark.parametrize("wrap", [list, tuple])
def test_the_empty_side_of_a_part_is_no_task(wrap: Callable[[Any], Any]) -> None:
    texts = wrap([TextLossTask("own.prose", [("1", "one text")])])
    probe, cert = split_suite(Suite("own", [section([2, 2])], texts))
    assert (len(probe.texts), len(cert.texts)) == (0, 1)
