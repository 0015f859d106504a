"""A limit draws rows by seed; labels keep their share, groups stay whole."""

import tracemalloc
from collections import Counter
from collections.abc import Iterable

import pytest

from burnish.conversation import Example, Message
from burnish.data.sample import Sample
from burnish.errors import DataError
from tests.refused import refused


def example(number: int, label: str | None = None, group: str | None = None) -> Example:
    turns = (Message("user", f"question {number}"), Message("assistant", label or "answer"))
    return Example(str(number), turns, label=label, group=group)


def drawn(examples: Iterable[Example], limit: int | None, seed: int = 0) -> list[Example]:
    sample = Sample(limit, seed)
    for one in examples:
        sample.add(one)
    return sample.draw("train")[0]


def test_every_label_of_a_sorted_file_stays() -> None:
    rows = [example(n, f"intent {n // 100:03}") for n in range(15_000)]
    counts = Counter(row.label for row in drawn(rows, 7500))
    assert len(counts) == 150
    assert set(counts.values()) == {50}


def test_rare_labels_keep_one_row_and_common_ones_their_share() -> None:
    labels = ["many"] * 900 + ["some"] * 90 + [f"rare {n}" for n in range(10)]
    counts = Counter(row.label for row in drawn(map(example, range(1000), labels), 100))
    assert sum(counts.values()) == 100
    assert all(counts[f"rare {n}"] == 1 for n in range(10))
    assert counts["many"] == 81  # one each, and 88 more by 899 to 89
    assert counts["some"] == 9


def test_more_labels_than_rows() -> None:
    sample = Sample(100, 0)
    for n in range(1000):
        sample.add(example(n, f"label {n % 150}"))
    rows, (found,) = sample.draw("train")
    assert len(rows) == 100
    assert found.severity == "warning"
    assert found.message.endswith("; 50 of 150 labels have no rows left; raise data.limit")


@pytest.mark.parametrize("labelled", [False, True])
def test_the_seed_alone_decides(labelled: bool) -> None:
    rows = [example(n, "ab"[n % 2] if labelled else None) for n in range(1000)]
    first = drawn(rows, 100)
    assert [row.id for row in first] == sorted((row.id for row in first), key=int)
    assert {row.id for row in drawn(rows[::-1], 100)} == {row.id for row in first}
    assert drawn(rows, 100, seed=1) != first
    assert max(int(row.id) for row in first) > 900
    assert drawn(rows, 1000) == drawn(rows, None) == rows


def test_groups_stay_whole() -> None:
    rows = [example(n, group=f"customer {n % 40}") for n in range(400)]
    found = drawn(rows, 105)
    assert set(Counter(row.group for row in found).values()) == {10}
    assert len(found) == 100  # another would be too many


def test_groups_of_one_label_each() -> None:
    rows = [example(n, f"label {n // 40}", f"customer {n // 4}") for n in range(400)]
    found = drawn(rows, 200)
    assert Counter(row.label for row in found) == {f"label {n}": 20 for n in range(10)}
    assert set(Counter(row.group for row in found).values()) == {4}


def test_what_was_left_out_is_reported() -> None:
    sample = Sample(7, 0)
    for n in range(20):
        sample.add(example(n, "ab"[n % 2], f"{n}"))
    rows, (finding,) = sample.draw("test")
    assert (finding.kind, finding.severity, finding.count) == ("limit", "info", len(rows))
    assert finding.message == (
        "data.limit keeps 7 of the 20 rows of test, drawn at random, stratified by label, "
        "with groups kept whole"
    )


def test_rows_without_label_take_the_memory_of_the_limit() -> None:
    text = "x" * 2000
    tracemalloc.start()
    rows = drawn(
        (Example(str(n), (Message("document", f"{n} {text}"),)) for n in range(20_000)), 500
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 500
    assert peak < 5_000_000


def test_a_limit_below_every_group_says_so() -> None:
    with refused("limit_below_group", DataError, limit=9, least=10, part="train"):
        drawn([example(n, group=f"customer {n % 40}") for n in range(400)], 9)


@pytest.mark.parametrize("label", [None, "a"])
def test_repeated_rows_take_no_room(label: str | None) -> None:
    rows = [example(n % 50, label) for n in range(1000)]
    assert len({row.content for row in drawn(rows, 40)}) == 40
    assert len({row.content for row in drawn(rows, 100)}) == 50
    assert drawn(rows, 1000) == rows
