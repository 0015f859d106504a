"""What a newcomer types wrongly is answered in one sentence."""

import errno
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer

from burnish.cli import VERBS, main
from burnish.cli.options import overrides, print_verdict
from burnish.errors import InterruptedRunError, is_disk_full
from burnish.recipe.schema import Recipe, known_keys, load_recipe
from burnish.runs.directory import LedgerRow, Manifest, RunDirectory, Verdict
from burnish.training.checkpoint import save_tensors
from tests.rows import write_rows


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["swep"], ["'swep'", "`burnish sweep`", "[unknown_command]"]),
        (["rnu"], ["'rnu'", "`burnish run`", "[unknown_command]"]),
        (["xyz"], ["'xyz'", "`burnish --help`", "[usage]"]),
        (["train"], ["'recipe'", "`burnish train --help`", "[usage]"]),
        (["run"], ["`burnish run --explain`", "[no_recipe]"]),
        (["run", "--explain", "--set", "seed=1"], ["`burnish run --explain`", "[no_recipe]"]),
    ],
)
def test_a_wrong_word_names_the_help_that_shows_it(
    arguments: list[str], shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("burnish: ")
    assert said.count("\n") == 1
    assert all(part in said for part in shown)


def test_no_word_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("Usage: burnish ")
    assert {f"  {verb:9}  {what}" for verb, what in VERBS.items()} <= set(said.splitlines())


@pytest.mark.parametrize(
    ("arguments", "least"),
    [
        (["chat", "runs/a", "--max-tokens", "0"], "1"),
        (["chat", "runs/a", "--temperature", "-1"], "0"),
        (["check", "rows.jsonl", "--show", "-3"], "0"),
    ],
)
def test_a_number_that_means_nothing_is_refused(
    arguments: list[str], least: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "[usage]" in said
    option = arguments[-2]
    assert option in said
    assert re.search(rf"\b{least}\b", said.partition(option)[2])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["plan", "recipe.yaml", "--device", "tpu"], "usage"),
        (["heal", "{run}", "--model", "x"], "setting_not_for_run"),
        (["compare", "{run}", "--against", "{run}", "--served-name", "x"], "not_a_server"),
        (["parity", "{run}", "--model", "x"], "server_not_named"),
        (["check", "rows.jsonl", "--json", "--show", "3"], "options_exclude_each_other"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    arguments: list[str], code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory.create(tmp_path / "run", Manifest("run", "certified", {}, {})).path
    with pytest.raises(SystemExit) as end:
        main([word.format(run=run) for word in arguments])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert f"[{code}]" in said
    assert arguments[-1] in said


def test_the_settings_of_a_run_are_explained_to_a_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text("data: {train: rows.jsonl}\n")
    main(["run", str(tmp_path / "recipe.yaml"), "--explain", "--json", "--set", "seed=3"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["seed"] == {"value": 3, "origin": "command line"}
    assert shown["budget.section"] == {"value": None, "origin": "default"}


def test_without_a_recipe_every_key_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "--explain"])
    lines = capsys.readouterr().out.splitlines()
    explained = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines}
    sections = {key.rpartition(".")[0] for key in known_keys()} | {"lm", "reward"}
    assert set(known_keys()) - sections <= set(explained)
    assert explained["data.train"] == [
        "(required)",
        "training file: JSON Lines, CSV or Parquet",
    ]
    assert explained["training.lr_scheduler"] == [
        "cosine",
        "how the learning rate falls after the warmup (constant, linear, cosine)",
    ]
    assert explained["tasks.NAME.weight"][0] == "1.0"
    assert all(len(words) == 2 for words in explained.values()), "a key without its meaning"
    main(["run", "--explain", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["budget.section"]["default"] is None
    assert shown["evaluate.general"]["default"] == ["core"]


def test_the_keys_that_an_error_names_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text("data: {train: rows.jsonl}\nwarmth: 1\n")
    with pytest.raises(SystemExit):
        main(["run", str(tmp_path / "recipe.yaml"), "--explain"])
    verb = capsys.readouterr().err.split("`")[1].split()
    main(verb[1:])
    assert "training.warmup_ratio" in capsys.readouterr().out


def test_a_folder_is_no_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", str(tmp_path)])
    said = capsys.readouterr().err
    assert "[is_folder]" in said
    assert f"{tmp_path}/recipe.yaml" in said


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv.gz", "rows.parquet", "a.json", "a.yaml"])
@pytest.mark.parametrize("verb", ["run", "train", "plan"])
def test_rows_are_no_recipe(
    verb: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_text('{"text": "a", "label": "b"}\n' * 2)
    with pytest.raises(SystemExit) as end:
        main([verb, str(path)])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "[rows_not_recipe]" in said
    assert f"`burnish check {path}`" in said
    assert f"data: {{train: {path}}}" in said


def test_a_recipe_may_be_one_line_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"data": {"train": "rows.jsonl"}, "training": {"epochs": 7}}) + "\n")
    main(["run", str(path), "--explain"])
    assert re.search(r"training.epochs\s+7", capsys.readouterr().out)


@pytest.mark.parametrize("words", [("audit", "verify"), ("alias",), ("keys", "list")])
def test_a_mistyped_folder_is_no_empty_server(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "burnish-dta"
    with pytest.raises(SystemExit) as end:
        main([*words, "--folder", str(folder)])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "[database_missing]" in said
    assert str(folder) in said
    assert not folder.exists()


def test_what_is_missing_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["keys"])
    said = capsys.readouterr().err
    assert all(word in said for word in ("[usage]", "make", "list", "revoke"))
    assert said.count("\n") == 1


def test_healing_that_was_stopped_goes_on_with_the_same_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise InterruptedRunError("stopped at step 74 of 147")

    monkeypatch.setattr("burnish.pipeline.verbs.heal", stop)
    with pytest.raises(SystemExit) as end:
        main(["heal", "runs/plain"])
    assert end.value.code == 130
    said = capsys.readouterr().err
    assert "step 74 of 147" in said
    assert "--resume" not in said


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (OSError(28, "No space left on device"), "disk_full", os.strerror(errno.ENOSPC)),
        (
            SafetensorError("I/O error: No space left on device (os error 28)"),
            *("disk_full", os.strerror(errno.ENOSPC)),
        ),
        (
            shutil.Error([("a", "b", "[Errno 122] Disk quota exceeded: 'a' -> 'b'")]),
            *("disk_full", os.strerror(errno.ENOSPC)),
        ),
        (
            OSError("32000 requested and 4096 written"),
            *("disk_full", os.strerror(errno.ENOSPC)),
        ),
        (
            OSError(30, "Read-only file system", "runs/plain/.report.html.7.tmp"),
            *("folder_not_writable", "runs/plain "),
        ),
    ],
)
def test_a_disk_that_cannot_be_written_is_no_mistake_of_ours(
    error: Exception,
    code: str,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def write(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("burnish.pipeline.verbs.evaluate", write)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "runs/plain"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert f"[{code}]" in said
    assert shown in said


def test_what_writes_through_others_sees_a_full_disk(tmp_path: Path, tiny_folder: Path) -> None:
    for folder in ("from", "to"):
        (tmp_path / folder).mkdir()
    (tmp_path / "from" / "rows").write_text("rows")
    full = tmp_path / "to" / "rows"
    full.symlink_to("/dev/full")
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder).backend_tokenizer
    database = sqlite3.connect(tmp_path / "small.db")
    database.execute("pragma max_page_count = 2")
    writes: list[Callable[[], Any]] = [
        lambda: save_tensors(torch.zeros(9), full),
        lambda: torch.zeros(9999).numpy().tofile(full),
        lambda: shutil.copytree(tmp_path / "from", tmp_path / "to", dirs_exist_ok=True),
        lambda: tokenizer.save(str(full)),
        lambda: database.executescript("create table a (b); create table c (d);"),
    ]
    for write in writes:
        with pytest.raises(Exception) as met:  # noqa: PT011 - each library raises its own
            write()
        assert is_disk_full(met.value), met.value
    assert not is_disk_full(OSError(13, "Permission denied"))


def test_a_mistake_of_ours_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("weights")

    monkeypatch.setattr("burnish.pipeline.verbs.evaluate", broken)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "runs/plain"])
    assert end.value.code == 3
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("KeyError: 'weights'\n")


@pytest.fixture
def half_finished(tmp_path: Path) -> RunDirectory:
    (tmp_path / "recipe.yaml").write_text(f"data: {{train: rows.jsonl}}\noutput: {tmp_path}\n")
    recipe = load_recipe(tmp_path / "recipe.yaml", {"name": "run"})
    manifest = Manifest("run", "training", recipe.model_dump(mode="json"), dict(recipe.origins))
    return RunDirectory.create(tmp_path / "run", manifest)


@pytest.mark.parametrize("verb", ["chat", "export", "parity", "evaluate", "heal"])
def test_a_run_that_is_not_trained_to_the_end_is_finished_by_resuming(
    verb: str, half_finished: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb, str(half_finished.path)])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "[run_unfinished]" in said
    assert str(half_finished.path) in said
    assert "`burnish run RECIPE --resume`" in said


@pytest.mark.parametrize("verb", ["chat", "export", "parity"])
def test_a_trained_run_without_its_weights_is_not_resumed(
    verb: str, half_finished: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = half_finished.manifest()
    manifest.state = "certified"
    half_finished.write_manifest(manifest)
    with pytest.raises(SystemExit):
        main([verb, str(half_finished.path)])
    said = capsys.readouterr().err
    assert "[no_tuned_weights]" in said
    assert "--resume" not in said


@pytest.mark.parametrize("verb", ["run", "train"])
@pytest.mark.parametrize(
    ("left", "sentence"),
    [
        (None, "stopped before the run was created; repeat the command to start it"),
        (
            "data",
            "stopped before the first training step; resume with the same command plus --resume",
        ),
        ("checkpoints/step-3", "stopped; resume with the same command plus --resume"),
    ],
)
def test_who_stops_a_run_is_told_what_is_next(
    left: str | None,
    sentence: str,
    verb: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(recipe: Recipe, **_: object) -> None:
        if left:
            (recipe.output / recipe.name / left).mkdir(parents=True)
        raise KeyboardInterrupt

    module = {"run": "verbs", "train": "train"}[verb]
    monkeypatch.setattr(f"burnish.pipeline.{module}.{verb}", stop)
    (tmp_path / "recipe.yaml").write_text(f"data: {{train: rows.jsonl}}\noutput: {tmp_path}/runs\n")
    with pytest.raises(SystemExit) as end:
        main([verb, str(tmp_path / "recipe.yaml")])
    assert end.value.code == 130
    assert capsys.readouterr().err == f"burnish: {sentence}\n"


@pytest.mark.parametrize("text", ["Sort: queue: x", "{", "a] b"])
def test_a_setting_that_is_no_yaml_is_text(text: str) -> None:
    given = overrides([f"data.system={text}", "seed=3"], None, None, drop_bad=False)
    assert given == {"data.system": text, "seed": 3}


def test_signs_of_rows_are_shown_as_they_stand(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets are no colours, and a character of several tokens is whole."""
    labels = ("[/INST]", ":cat:")
    rows = [{"text": f"包裹 🎒 {n}", "label": labels[n % 2]} for n in range(40)]
    both = [{"text": "both", "label": label} for label in labels]
    write_rows(tmp_path / "rows.jsonl", [*rows, *both])
    main(["check", str(tmp_path / "rows.jsonl"), "--model", str(tiny_folder), "--show", "1"])
    shown = capsys.readouterr().out
    assert "the first has :cat: and [/INST]" in " ".join(shown.split())
    assert "包裹 🎒" in shown

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {train: rows.jsonl}\ntraining: {epochs: 1, learning_rate: 0.01}\n")
    setting = [f"model={tiny_folder}", "evaluate.general=null"]
    sets = [word for one in setting for word in ("--set", one)]
    main(["train", str(recipe), *sets, "--output", str(tmp_path / "runs")])
    assert ":cat: and [/INST]" in " ".join(capsys.readouterr().err.split())


def test_no_number_of_the_ledger_is_cut_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    manifest = Manifest("wide", "certified", {"objective": "sft"}, {})
    run = RunDirectory.create(tmp_path / "wide", manifest)
    task = "a-suite-of-our-own-cert.a-section-with-a-name"
    wide = {"n": 12345, "base": 6.037, "tuned": 6.315, "delta": 0.278, "low": 0.243, "high": 0.311}
    run.write_ledger([LedgerRow(task, "kl", "KL nats/token", **wide)])
    run.write_verdict(Verdict("hold", ("It was not better.",), 2.0, 0.96, None, None))
    (run.path / "frontier.json").write_text("{}")
    print_verdict(run, as_json=False)
    said = capsys.readouterr().out
    assert f"fix    burnish heal {run.path}" in said
    for cell in (task, "12345", "6.037", "6.315", "+0.278", "+0.243 to +0.311"):
        assert f" {cell} " in said
