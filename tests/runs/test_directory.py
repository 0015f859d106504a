"""Whenever a process is killed, its run directory can be read and written on."""

from pathlib import Path

import pytest

from burnish.conversation import Example, Message
from burnish.errors import RunError
from burnish.runs.atomic import replace_directory
from burnish.runs.directory import ItemResult, Manifest, RunDirectory, append_results, read_results
from burnish.runs.overlaps import ComparedSet, Leakage, Overlap
from tests.refused import refused

MANIFEST = Manifest("one", "created", {}, {})


def test_a_run_is_there_with_its_manifest_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            RunDirectory.create(tmp_path / "one", MANIFEST)
    assert not (tmp_path / "one").exists()
    assert RunDirectory.create(tmp_path / "one", MANIFEST).manifest() == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize("torn", ['{"phase": "tr', '{"phase": "train", "step": 2}', "{"])
def test_a_line_that_a_kill_tore_spoils_no_later_one(torn: str, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "one", MANIFEST)
    run.log("train", step=1)
    with (run.path / "events.jsonl").open("a") as file:
        file.write(torn)
    run.log("evaluate", n=3)
    run.log("evaluate", n=4)
    assert [row["phase"] for row in run.events()] == ["train", "evaluate", "evaluate"]


def test_a_torn_first_line_leaves_an_empty_file(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "one", MANIFEST)
    (run.path / "events.jsonl").write_text('{"pha')
    run.log("train", step=1)
    assert [row["step"] for row in run.events()] == [1]


def test_leakage_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "one", MANIFEST)
    assert run.leakage() is None
    overlap = Overlap("train", "core.facts", "13-gram", 2, 3, (("f1", "a"), ("f2", "b")))
    judging = ComparedSet("core.facts", 170, "cd" * 32, leaked=2)
    leakage = Leakage((ComparedSet("train", 5, "ab" * 32),), (judging,), (overlap,))
    run.write_leakage(leakage)
    assert run.leakage() == leakage
    assert leakage.leaked == {"core.facts": 2}


@pytest.mark.parametrize(
    ("written", "code"),
    [
        (b"[]", "not_a_manifest"),
        (b"7", "not_a_manifest"),
        (b'{"name": "one"}', "not_a_manifest"),
        ('{"name": "字'.encode()[:-1], "half_written"),
    ],
)
def test_what_is_no_manifest_is_a_sentence(written: bytes, code: str, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "one", MANIFEST)
    (run.path / "manifest.json").write_bytes(written)
    with refused(code, RunError, path=str(run.path / "manifest.json")):
        RunDirectory.open(run.path)


def test_rows_of_a_split_are_read_one_at_a_time(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "one", MANIFEST)
    rows = [Example(str(n), (Message("document", f"text {n}"),)) for n in range(3)]
    run.write_split("train", rows)
    with (run.path / "data" / "train.jsonl").open("a") as file:
        file.write("no JSON\n")
    stream = run.stream("train")
    assert [next(stream).id for _ in range(3)] == ["0", "1", "2"]
    path = str(run.path / "data" / "train.jsonl")
    with refused("not_json", RunError, path=path, line=4):
        next(stream)


def test_a_folder_is_put_in_place_of_another(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "file").write_text(name)
    replace_directory(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "inner" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_result_that_a_kill_cut_within_a_letter_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_results(path, [ItemResult(str(i), "q", "字", "字", 1.0) for i in range(2)])
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex("字".encode()) + 1])
    assert [item.id for item in read_results(path)] == ["0"]
