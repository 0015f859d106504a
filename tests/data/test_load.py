import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from burnish.conversation import Message
from burnish.data.checks.dataset import normalised
from burnish.data.load import Dataset, load
from burnish.errors import DataError
from burnish.recipe.data import Data
from burnish.runs.directory import Finding
from tests.refused import refused

Rows = list[dict[str, Any]]


def labelled(count: int, start: int = 0) -> Rows:
    return [
        {"text": f"message {n}", "label": ("red", "green", "blue")[n % 3]}
        for n in range(start, start + count)
    ]


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def dataset(folder: Path, rows: Rows, seed: int = 0, **options: Any) -> Dataset:
    path = write(folder / "rows.jsonl", rows)
    return load(Data(train=path, **options), seed)


def finding(found: Dataset, kind: str) -> Finding:
    (only,) = [one for one in found.findings if one.kind == kind]
    return only


def test_rows_are_split_and_files_hashed(tmp_path: Path) -> None:
    found = dataset(tmp_path, labelled(120))
    assert [len(part) for part in (found.train, found.validation, found.test)] == [78, 12, 30]
    path = tmp_path / "rows.jsonl"
    assert found.sha256 == {str(path): hashlib.sha256(path.read_bytes()).hexdigest()}
    assert [(one.kind, one.severity) for one in found.findings] == [("balance", "info")]


def test_named_files_are_taken_whole(tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", labelled(10, 900))
    validation = write(tmp_path / "validation.jsonl", labelled(7, 950))
    found = dataset(tmp_path, labelled(60), test=test, validation=validation)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [60, 7, 10]
    assert len(found.sha256) == 3


def test_same_seed_gives_the_same_rows(tmp_path: Path) -> None:
    assert dataset(tmp_path, labelled(60), seed=1) == dataset(tmp_path, labelled(60), seed=1)
    assert dataset(tmp_path, labelled(60), seed=1) != dataset(tmp_path, labelled(60), seed=2)


def test_limit_is_a_sample_and_reported(tmp_path: Path) -> None:
    rows = sorted(labelled(60), key=lambda row: str(row["label"]))
    found = dataset(tmp_path, rows, limit=21)
    kept = [*found.train, *found.validation, *found.test]
    assert Counter(example.label for example in kept) == {"red": 7, "green": 7, "blue": 7}
    told = finding(found, "limit")
    assert (told.severity, told.count) == ("info", 21)
    assert told.message == (
        "data.limit keeps 21 of the 60 rows of train, drawn at random, stratified by label"
    )
    assert not [one for one in dataset(tmp_path, rows, limit=60).findings if one.kind == "limit"]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_rows_with_nothing_to_learn_are_left_out(tmp_path: Path, split: str) -> None:
    def row(number: int, weight: int) -> dict[str, Any]:
        said: Rows = [{"role": "user", "content": f"q{number}"}, {"role": "assistant"}]
        said[1] |= {"content": "a", "weight": weight}
        return {"messages": said}

    files = {
        name: [row(n, 1) for n in range(at, at + 20)]
        for at, name in ((0, "train"), (50, "validation"), (80, "test"))
    }
    files[split] += [row(n, 0) for n in range(900, 903)]
    paths = {name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in files.items()}
    found = load(Data(**paths), 0)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [20, 20, 20]
    told = finding(found, "masked")
    assert (told.count, told.severity) == (3, "warning")
    assert f"3 rows of {split} were left out because all" in told.message
    write(paths[split], [row(n, 0) for n in range(5)])
    with refused("nothing_learnt", DataError, path=str(paths[split]), part=split):
        load(Data(**paths), 0)


def test_how_a_file_was_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(labelled(60)).encode("utf-16"))
    found = load(Data(train=path), 0)
    told = [one.message for one in found.findings if one.kind == "reading"]
    assert [message.removeprefix(f"{path} ")[:22] for message in told] == [
        "holds one JSON array i",
        "is in UTF-16 and was c",
    ]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["hello there,b", "hi,b", "bye,a"], "no_header"),
        (["17,b", "18,c", "19,d"], "no_header"),
        (["hello there,b", "hi,c"], "unknown_columns"),
    ],
)
def test_a_table_without_a_header(tmp_path: Path, lines: list[str], code: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines))
    columns = lines[0].split(",")
    with refused(code, DataError, path=str(path), columns=columns) as caught:
        load(Data(train=path), 0)
    assert repr(columns[0]) in caught.value.seen


def test_bad_rows_of_all_files_are_listed(tmp_path: Path) -> None:
    bad = [{"text": "x", "label": None}]
    test = write(tmp_path / "test.jsonl", labelled(3, 90) + bad)
    before = test.read_bytes()
    with refused("bad_rows", DataError, count=25, total=34) as caught:
        dataset(tmp_path, labelled(6) + bad * 24, test=test)
    rows = caught.value.fields["rows"]
    assert [(row["path"], row["line"], row["count"], row["more_lines"]) for row in rows] == [
        (f"{tmp_path}/rows.jsonl", "7", 24, ["8", "9", "10"]),
        (str(test), "4", 1, []),
    ]
    assert {row["code"] for row in rows} == {"wrong_type"}
    _, first, other, end = str(caught.value).splitlines()
    assert first.startswith(f"  {tmp_path}/rows.jsonl:7 {rows[0]['reason']} ({rows[0]['remedy']})")
    assert "23" in first.removeprefix("  ")
    assert first.endswith(" 8, 9, 10, …")
    assert other == f"  {test}:4 {rows[1]['reason']} ({rows[1]['remedy']})"
    assert "--drop-bad" in end
    assert test.read_bytes() == before


def test_what_is_wrong_with_all_rows_is_told_once(tmp_path: Path) -> None:
    with refused("bad_rows", DataError, count=9, total=9) as caught:
        dataset(tmp_path, labelled(9), columns={"text": "txet"})
    (row,) = caught.value.fields["rows"]
    assert (row["code"], row["fields"]) == ("column_misspelt", {"field": "txet", "closest": "text"})
    assert (row["count"], row["more_lines"]) == (9, ["2", "3", "4"])


def test_a_mistake_is_reported_once_whatever_value_shows_it(tmp_path: Path) -> None:
    values = ["a" * 9999, "it's", 'say "x"', [1, 2], {"a": "b"}, None, True, 12.5]
    rows = [{"prompt": value, "completion": "x"} for value in values * 3]
    path = write(tmp_path / "rows.jsonl", [*labelled(3), *rows])
    path.write_text(path.read_text() + '{"a": \n{"b"\n')
    with refused("bad_rows", DataError, count=26, total=29) as caught:
        load(Data(train=path), 0)
    kinds = [line.strip() for line in str(caught.value).splitlines() if line.startswith("  ")]
    codes = [(row["code"], row["fields"].get("type")) for row in caught.value.fields["rows"]]
    assert len(codes) == len(kinds) == len(set(codes))
    assert all(len(line) < 500 for line in kinds)


def test_bad_rows_are_dropped_where_asked(tmp_path: Path) -> None:
    rows = [{"text": 1, "label": "red"}, *labelled(30)]
    found = dataset(tmp_path, rows, drop_bad=True)
    assert finding(found, "bad").severity == "warning"
    assert finding(found, "bad").count == 1
    assert finding(found, "bad").message == (
        "1 of 31 rows cannot be used and was left out; the first is "
        f"{tmp_path}/rows.jsonl:1, which has a number (1) as text"
    )


@pytest.mark.parametrize("rows", [[], [{"text": 1, "label": "a"}]])
def test_file_without_rows(tmp_path: Path, rows: Rows) -> None:
    with refused("no_rows", DataError, path=f"{tmp_path}/rows.jsonl", part="train"):
        dataset(tmp_path, rows, drop_bad=True)


def test_missing_file(tmp_path: Path) -> None:
    with refused("file_missing", DataError, path=f"{tmp_path}/none.jsonl", closest=None):
        load(Data(train=tmp_path / "none.jsonl"), 0)


def test_empty_turns_are_counted(tmp_path: Path) -> None:
    found = dataset(tmp_path, [*labelled(30), {"text": " ", "label": "red"}])
    assert finding(found, "empty").count == 1
    assert finding(found, "empty").message == "1 row of train has an empty turn"
    assert finding(found, "empty").where == (f"{tmp_path}/rows.jsonl:31",)


SILENT = {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"messages": [{"role": "user", "content": "{n}"}, SILENT]}, "answer"),
        ({"prompt": "{n}", "completion": " "}, "answer"),
        ({"question": "{n}", "answer": "\n", "label": True}, "answer"),
        ({"text": " ", "id": "{n}"}, "document"),
    ],
)
def test_nothing_but_empty_answers_cannot_be_learnt(
    tmp_path: Path, row: dict[str, Any], what: str
) -> None:
    text = json.dumps(row)
    rows = [json.loads(text.replace("{n}", f"{n}")) for n in range(20)]
    with refused("empty_answers", DataError, count=20, total=20, what=what, part="train"):
        dataset(tmp_path, rows)


def test_a_few_empty_answers_may_be_meant(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}", "completion": "" if n < 20 else "a"} for n in range(40)]
    assert finding(dataset(tmp_path, rows), "empty").count == 20
    with refused("empty_answers", DataError, count=20, total=22, what="answer"):
        dataset(tmp_path, rows[:22])


def test_rows_that_hold_a_template_are_told(tmp_path: Path) -> None:
    written = [
        {"prompt": "<|im_start|>user\nwhere<|im_end|>\n<|im_start|>assistant\n", "completion": "a"},
        {"prompt": "<s>[INST] where [/INST]", "completion": "b"},
        {"prompt": "is a <|b|> or <c> in [1]", "completion": "c"},
        {"prompt": "how", "completion": "d<end_of_turn>"},
    ]
    plain = [{"prompt": f"{n}", "completion": "a"} for n in range(20)]
    found = dataset(tmp_path, [*written, *plain])
    told = finding(found, "template")
    assert (told.count, told.severity) == (3, "warning")
    assert "(the first is <|im_start|>)" in told.message
    assert [place.rpartition(":")[2] for place in told.where] == ["1", "2", "4"]


def test_duplicates_are_kept_once(tmp_path: Path) -> None:
    rows = labelled(30)
    found = dataset(tmp_path, rows + rows[:4])
    assert finding(found, "duplicate").count == 4
    assert len(found.train) + len(found.validation) + len(found.test) == 30


def test_ids_are_unique_in_every_part(tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", labelled(3, 90) * 2)
    rows = [row | {"id": "same"} for row in labelled(9)]
    found = dataset(tmp_path, rows, test=test, split={"validation": 0})
    assert finding(found, "id").count == 8
    assert len({e.id for e in found.train}) == 9
    assert len({e.id for e in found.test}) == len(found.test) == 3


def test_conflicting_labels_are_told(tmp_path: Path) -> None:
    rows = [*labelled(30), {"text": "Message  3!", "label": "blue"}]
    conflict = finding(dataset(tmp_path, rows), "conflict")
    assert (conflict.severity, conflict.count) == ("warning", 1)
    assert conflict.message == "1 input has more than one label; the first has blue and red"


@pytest.mark.parametrize(
    ("red", "green", "severity"),
    [(50, 5, "info"), (51, 5, "warning"), (5, 4, "warning"), (5, 5, "info")],
)
def test_balance_of_labels(tmp_path: Path, red: int, green: int, severity: str) -> None:
    rows = [{"text": f"m{n}", "label": "red" if n < red else "green"} for n in range(red + green)]
    test = write(tmp_path / "test.jsonl", [{"text": "t", "label": "red"}])
    balance = finding(dataset(tmp_path, rows, test=test, split={"validation": 0}), "balance")
    assert balance.severity == severity
    assert balance.message == f"2 labels, from {green} rows (green) to {red} (red)"


def test_one_label_only_cannot_be_learnt(tmp_path: Path) -> None:
    rows = [{"text": f"m{n}", "label": "red"} for n in range(9)]
    with refused("one_label", DataError, label="red"):
        dataset(tmp_path, rows)


def test_label_that_train_never_shows_cannot_be_learnt(tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", [{"text": "t", "label": "pink"}])
    with refused("unseen_labels", DataError, labels=["pink"], count=1) as caught:
        dataset(tmp_path, labelled(30), test=test)
    assert "'blue', 'green', 'red'" in str(caught.value)


def test_what_test_asks_is_taken_from_the_others(tmp_path: Path) -> None:
    rows = labelled(30)
    test = write(tmp_path / "test.jsonl", [rows[0], rows[1] | {"text": "ＭＥＳＳＡＧＥ\t1!"}])
    validation = write(tmp_path / "validation.jsonl", [rows[0], rows[2], *labelled(3, 90)])
    found = dataset(tmp_path, rows, test=test, validation=validation)
    messages = [one.message for one in found.findings if one.kind == "overlap"]
    assert messages == [
        f"{removed} removed because a row of {other} has the same input (1 of them exactly "
        "the same)"
        for removed, other in (
            ("2 rows of train were", "test"),
            ("1 row of validation was", "test"),
            ("1 row of train was", "validation"),
        )
    ]
    assert [len(part) for part in (found.train, found.validation, found.test)] == [27, 4, 2]


def test_train_all_of_which_is_asked_is_no_train(tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", labelled(12))
    with refused("nothing_left", DataError, path=f"{tmp_path}/rows.jsonl"):
        dataset(tmp_path, labelled(9), test=test)


@pytest.mark.parametrize("names", [("validation",), ("test",), ("validation", "test")])
@pytest.mark.parametrize("copied", [False, True])
def test_a_file_named_twice_is_split(tmp_path: Path, names: tuple[str, ...], copied: bool) -> None:
    path = tmp_path / "rows.jsonl"
    if copied:  # in another order
        path = write(tmp_path / "copy.jsonl", labelled(120)[::-1])
    shares = {"validation": 0.0, "test": 0.25}
    found = dataset(tmp_path, labelled(120), **dict.fromkeys(names, path), split=shares)
    told = [one for one in found.findings if one.kind == "same"]
    assert len(told) == len(names)
    assert all(
        one.severity == "warning" and "training rows is held out as" in one.message for one in told
    )
    sizes = {"train": len(found.train), "validation": len(found.validation)}
    held = 12 if "validation" in names else 0  # the usual share, since a file was named for it
    assert (sizes, len(found.test)) == ({"train": 90 - held, "validation": held}, 30)
    asked = [{e.question for e in part} for part in (found.train, found.validation, found.test)]
    assert len(set.union(*asked)) == 120


def test_validation_that_is_also_test_is_split_off(tmp_path: Path) -> None:
    held = write(tmp_path / "held.jsonl", labelled(30, 900))
    found = dataset(tmp_path, labelled(90), validation=held, test=held)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [81, 9, 30]
    assert "the same rows as the test file" in finding(found, "same").message


def test_one_row_many_times_is_one_row(tmp_path: Path) -> None:
    with refused("too_few_test_rows", DataError, count=1, labels=1, limit=None):
        dataset(tmp_path, labelled(1)[:1] * 100)


def test_one_group_cannot_be_split(tmp_path: Path) -> None:
    rows = [row | {"who": "me"} for row in labelled(9)]
    with refused("too_few_test_rows", DataError, share=0.25, limit=None):
        dataset(tmp_path, rows, group_by="who")


def test_group_by_must_be_a_column(tmp_path: Path) -> None:
    rows = [row | {"customer": n} for n, row in enumerate(labelled(9))]
    with refused("unknown_column", DataError, column="custmer", closest="customer"):
        dataset(tmp_path, rows, group_by="custmer")


def test_rows_without_labels_have_no_balance(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "completion": "a"} for n in range(12)]
    assert dataset(tmp_path, rows).findings == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Where is it?", "where   IS it", True),
        ("ﬁne, thanks", "Fine thanks!", True),
        ("What is 5-3?", "what is 5 - 3", True),
        ("What is 5-3?", "What is 5*3?", False),
        ("it cost 2.50", "it cost 250", False),
        ("learn C#", "learn C", False),
        ("learn C++", "learn C", False),
        ("great 😀", "great 😡", False),
        ("!!!", "???", False),
    ],
)
def test_spelling_that_makes_no_difference(one: str, other: str, same: bool) -> None:
    first, second = (normalised((Message("user", text),)) for text in (one, other))
    assert (first == second) is same


def test_system_turns_are_part_of_the_question() -> None:
    asks = Message("user", "sum it up")
    texts = [normalised((Message("system", text), asks)) for text in ("one", "two")]
    assert texts[0] != texts[1]


def test_messages_have_no_empty_places(tmp_path: Path) -> None:
    for one in dataset(tmp_path, labelled(30) + labelled(5)).findings:
        assert not re.search(r"\bNone\b|\{|\}", one.message)


def test_documents_of_a_text_file_say_how_they_are_parted(tmp_path: Path) -> None:
    path = tmp_path / "articles.txt"
    lines = [f"Article {n} says this. {'It goes on. ' * 20}" for n in range(30)]
    path.write_text("\n\n".join(lines))
    (info,) = load(Data(train=path), 0).findings
    assert (info.severity, info.count) == ("info", 30)
    assert info.message == "train has 30 documents, separated by empty lines"
    path.write_text("\n\n".join("\n".join(lines[start : start + 6]) for start in range(0, 30, 6)))
    _, warning = load(Data(train=path), 0).findings
    assert (warning.kind, warning.severity, warning.count) == ("documents", "warning", 5)
    assert "add an empty line after each line" in warning.message
    path.write_text("\n".join(lines))
    with refused("too_few_documents", DataError, path=str(path), count=1):
        load(Data(train=path), 0)


def test_labels_of_one_row_each_cannot_be_tested(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": f"l{n}"} for n in range(30)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with refused("too_few_test_rows", DataError, count=30, labels=30, limit=None):
        load(Data(train=path), 0)
    with refused("too_few_test_rows", DataError, count=9, limit=9):
        load(Data(train=path, limit=9), 0)
