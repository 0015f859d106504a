import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.conversation import Example, Message
from burnish.data.split import split
from burnish.errors import DataError
from tests.refused import refused


def row(number: int, label: str | None = None, group: str | None = None) -> Example:
    turns = Message("user", f"question {number}"), Message("assistant", label or "answer")
    return Example(f"r{number}", turns, label, group)


def parts(rows: list[Example], *shares: float, seed: int = 0) -> list[list[Example]]:
    train, held = split(rows, shares or (0.25, 0.1), seed)
    return [train, *held]


def test_shares_are_met_for_every_label() -> None:
    rows = [row(n, "abcd"[n % 4]) for n in range(400)]
    counts = [Counter(e.label for e in part) for part in parts(rows)]
    assert counts == [dict.fromkeys("abcd", size) for size in (65, 25, 10)]


def test_rare_labels_together_fill_the_shares() -> None:
    rows = [row(n, f"label {n // 4}") for n in range(400)]  # 4 rows each of 100 labels
    train, test, validation = parts(rows, 0.25, 0.1)
    assert (len(test), len(validation)) == (100, 40)
    assert {e.label for e in train} == {e.label for e in rows}


def test_every_row_is_in_one_part_in_the_order_given() -> None:
    rows = [row(n) for n in range(100)]
    found = parts(rows)
    assert sorted((e for part in found for e in part), key=rows.index) == rows
    assert all(part == sorted(part, key=rows.index) for part in found)


def test_the_seed_decides_and_the_order_does_not() -> None:
    rows = [row(n, "ab"[n % 2], f"g{n // 3}") for n in range(90)]
    shuffled = random.Random(1).sample(rows, len(rows))
    first, other = (parts(some, seed=1) for some in (rows, shuffled))
    assert [set(part) for part in first] == [set(part) for part in other]
    assert [set(part) for part in parts(rows, seed=2)] != [set(part) for part in first]


def test_one_question_in_two_spellings_stays_together() -> None:
    pairs = [
        Example(f"{n}{mark}", (Message("user", f"Question {n}{mark}"), Message("assistant", "a")))
        for n in range(50)
        for mark in ".!"
    ]
    for part in parts(pairs):
        assert all(count == 2 for count in Counter(e.id[:-1] for e in part).values())


labelled = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from([None, "g1", "g2", "g3", "g4"])),
    min_size=1,
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(labelled, st.integers(0, 5))
def test_groups_stay_whole_and_every_label_can_be_learnt(
    kinds: list[tuple[str, str | None]], seed: int
) -> None:
    rows = [row(n, label, group) for n, (label, group) in enumerate(kinds)]
    found = parts(rows, 0.3, 0.3, seed=seed)
    groups = [group for part in found for group in {e.group for e in part if e.group}]
    assert len(groups) == len(set(groups))
    assert {e.label for e in found[0]} == {e.label for e in rows}
    assert sum(map(len, found)) == len(rows)


def test_no_share_holds_nothing_out() -> None:
    rows = [row(n) for n in range(9)]
    assert parts(rows, 0.0, 0.0) == [rows, [], []]


def test_shares_must_leave_something() -> None:
    with refused("split_leaves_nothing", DataError, shares=[0.6, 0.4]):
        parts([row(1)], 0.6, 0.4)
