"""From rows to a verdict on a tiny model: real files, real processes, real kills."""

import ctypes
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import burnish
from burnish.cli import VERBS
from burnish.errors import DataError, ModelError, RecipeError, RunError
from burnish.recipe.schema import load_recipe
from burnish.runs.directory import RunDirectory
from tests.refused import refused
from tests.rows import choices, labelled, write_rows

SUITE = choices(8)


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path) -> Path:
    write_rows(tmp_path / "rows.jsonl", labelled(20))
    write_rows(tmp_path / "suite.jsonl", SUITE)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: tiny\nmodel: {tiny_folder}\ndata: {{train: rows.jsonl, system: Say red or green}}\n"
        f"training: {{epochs: 4, learning_rate: 0.02}}\n"
        f"evaluate: {{general: {tmp_path / 'suite.jsonl'}}}\noutput: {tmp_path / 'runs'}\n"
    )
    return path


def command(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "burnish.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_run_gives_a_typed_verdict_and_files(recipe: Path) -> None:
    run = burnish.run(recipe, quiet=True, training={"epochs": 6})
    assert run.manifest().recipe["training"]["epochs"] == 6
    assert run.manifest().origins["training.epochs"] == "command line"
    target = run.ledger()[0]
    assert target.tuned > target.base
    assert run.verdict().decision == "inconclusive"  # the suite is too small to measure anything
    assert run.verdict().certified_general_drop is None
    assert {path.name for path in run.path.iterdir()} >= {
        "manifest.json", "data", "events.jsonl", "checkpoints", "adapter", "results",
        "ledger.json", "verdict.json", "report.html", "card.md",
    }  # fmt: skip


def test_before_training_the_suite_says_what_it_can_certify(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    burnish.train(recipe, training={"epochs": 1})
    said = " ".join(capsys.readouterr().err.split())
    assert "The smallest budget that the suite can certify is a fall of" in said
    with refused("no_items_for_budget", RecipeError):
        burnish.train(recipe, quiet=True, name="biased", budget={"bias": 3})
    assert not (recipe.parent / "runs" / "biased").exists()


def test_saved_adapter_gives_the_same_logits_in_plain_peft(recipe: Path, tiny_folder: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = burnish.train(recipe, quiet=True)
    tokens = torch.tensor([[5, 6, 7, 8]])
    ours = burnish.open_tuned(run).module.eval()(input_ids=tokens).logits
    with pytest.warns(FutureWarning):
        plain = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(tiny_folder), run.adapter
        )
    torch.testing.assert_close(plain.eval()(input_ids=tokens).logits, ours)


def test_full_tuning_and_base_share_one_model(recipe: Path) -> None:
    run = burnish.run(recipe, quiet=True, method="full", training={"learning_rate": 0.003})
    assert (run.path / "model" / "model.safetensors").exists()
    base, tuned = run.results("base", "target"), run.results("tuned", "target")
    assert [item.id for item in base] == [item.id for item in tuned]
    assert [item.logprob for item in base] != [item.logprob for item in tuned]


def test_killed_and_resumed_is_bit_identical(recipe: Path, tmp_path: Path) -> None:
    straight = burnish.train(recipe, quiet=True, name="straight")
    arguments = ["train", str(recipe), "--name", "killed"]
    process = subprocess.Popen(
        [sys.executable, "-m", "burnish.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    events = tmp_path / "runs" / "killed" / "events.jsonl"
    while process.poll() is None:
        if events.exists() and events.read_text().count("\n") > 5:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = command(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    killed = RunDirectory.open(tmp_path / "runs" / "killed")
    steps = [row["step"] for row in killed.events("train")]
    assert steps == list(range(1, steps[-1] + 1))
    name = "adapter_model.safetensors"
    expected, found = load_file(straight.adapter / name), load_file(killed.adapter / name)
    assert all((expected[key] == found[key]).all() for key in expected)


def test_a_second_process_does_not_work_on_the_same_run(recipe: Path) -> None:
    second: list[subprocess.CompletedProcess[str]] = []

    def again(phase: str, values: dict[str, Any]) -> None:
        if (phase, values["step"]) == ("train", 2):
            second.append(command("train", str(recipe), "--resume"))

    run = burnish.train(recipe, quiet=True, on_event=again)
    assert second[0].returncode == 2
    assert "[run_in_use]" in second[0].stderr
    steps = [line["step"] for line in run.events("train")]
    assert steps == list(range(1, len(steps) + 1))
    assert burnish.train(recipe, quiet=True, resume=True).path == run.path


def test_a_changed_recipe_is_not_continued(recipe: Path) -> None:
    burnish.train(recipe, quiet=True)
    with refused("recipe_changed", RunError, changes={"training.epochs": [4.0, 9.0]}):
        burnish.train(recipe, resume=True, quiet=True, training={"epochs": 9})


def test_a_run_that_goes_on_says_that_its_rows_are_kept(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    burnish.train(recipe, training={"epochs": 1})
    write_rows(recipe.parent / "rows.jsonl", labelled(12))
    capsys.readouterr()
    burnish.train(recipe, resume=True, training={"epochs": 1})
    said = "".join(capsys.readouterr().err.split())  # a long path is broken into lines
    assert "rows.jsonlhaschangedsince" in said
    assert "continueswiththerowsthatitsaved" in said
    assert "startarunwithanother--name" in said


def test_what_the_model_refuses_leaves_no_run(recipe: Path) -> None:
    with refused("too_many_layers", ModelError):
        burnish.train(recipe, quiet=True, **{"method": "last-n", "last_n.layers": 99})
    assert not (recipe.parent / "runs" / "tiny").exists()
    burnish.train(recipe, quiet=True, training={"epochs": 1})


def test_nothing_is_overwritten(recipe: Path, tmp_path: Path) -> None:
    burnish.train(recipe, quiet=True)
    before = (tmp_path / "runs" / "tiny" / "manifest.json").read_bytes()
    with refused("run_exists", RunError, path=str(tmp_path / "runs" / "tiny")):
        burnish.train(recipe, quiet=True)
    assert (tmp_path / "runs" / "tiny" / "manifest.json").read_bytes() == before


def test_interrupted_evaluation_goes_on(recipe: Path) -> None:
    run = burnish.run(recipe, quiet=True)
    results = run.results_path("tuned", "target")
    whole = results.read_text()
    first = whole.splitlines(keepends=True)[0]
    results.write_text(first + whole.splitlines()[1][:20])  # cut in half by a kill
    manifest = run.manifest()
    manifest.state = "trained"
    run.write_manifest(manifest)
    burnish.evaluate(run, quiet=True)
    assert [r.id for r in run.results("tuned", "target")] == [
        json.loads(line)["id"] for line in whole.splitlines()
    ]


def test_a_run_goes_on_and_is_judged_from_any_folder(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe.write_text(recipe.read_text().replace(str(tmp_path / "suite.jsonl"), "suite.jsonl"))
    run = burnish.train(recipe.name, quiet=True, training={"epochs": 1})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    burnish.train("../recipe.yaml", quiet=True, training={"epochs": 1}, resume=True)
    assert "suite-cert.suite" in {
        row.task for row in burnish.evaluate(run.path, quiet=True).ledger()
    }


@pytest.mark.real_program
def test_exit_code_and_json(recipe: Path) -> None:
    done = command("run", str(recipe), "--json")
    printed = json.loads(done.stdout)
    assert done.returncode == (0 if printed["verdict"]["decision"] == "release" else 1)
    assert printed["ledger"][0]["n"] > 0
    assert "Traceback" not in done.stderr


def test_chat_shows_both(recipe: Path, tmp_path: Path) -> None:
    burnish.train(recipe, quiet=True)
    run = str(tmp_path / "runs" / "tiny")
    done = command("chat", run, "--message", "tent please", "--max-tokens", "4", "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"question", "base", "tuned"}


@pytest.mark.real_program
def test_help_is_instant() -> None:
    code = "import sys, burnish.cli; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
    assert "Verbs:" in command("--help").stdout


def test_help_has_examples() -> None:
    for verb in VERBS:
        shown = command(verb, "--help")
        assert shown.returncode == 0
        assert "Example: burnish" in shown.stdout


def rows_file(path: Path, text: bytes) -> str:
    path.write_bytes(text)
    return str(path)


GOOD = b'{"text": "a tent", "label": "red"}\n{"text": "a parcel", "label": "green"}\n'
BAD_DATA = {
    "missing": (None, "file_missing"),
    "empty": (b"", "no_rows"),
    "one label": (GOOD.replace(b"green", b"red"), "one_label"),
    "10 MB row": (
        GOOD + b'{"text": "' + b"x" * 10_000_000 + b'", "label": "red"}\n',
        "bad_rows",
    ),
    "invalid UTF-8": (
        GOOD + b'{"text": "\xff\xfe", "label": "red"}\n',
        "bad_rows",
    ),
    "half a line": (GOOD + b'{"text": "a te', "bad_rows"),
    "a label by another name": (GOOD.replace(b"label", b"category"), "unused_columns"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_a_sentence(case: str, recipe: Path, tmp_path: Path) -> None:
    content, code = BAD_DATA[case]
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_bytes(content)
    with refused(code, DataError) as caught:
        burnish.train(recipe, quiet=True, **{"data.train": str(path)})
    assert code != "bad_rows" or "1 of 3" in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_columns_that_nothing_uses_are_told_by_check_and_run(recipe: Path, tmp_path: Path) -> None:
    rows = [row | {"shop": f"s{n}"} for n, row in enumerate(labelled(20))]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    model = str(load_recipe(recipe).model)
    checked = burnish.check(path, model)
    run = burnish.train(recipe, quiet=True, **{"training.epochs": 1})
    for findings in (checked.findings, run.findings()):
        (found,) = [one for one in findings if one.kind == "unused"]
        assert found.message.startswith("column shop is not used")
    write_rows(path, [{"text": row["text"], "kind": row["label"]} for row in rows])
    with refused("unused_columns", DataError) as caught:
        burnish.check(path, model)
    assert "kind" in str(caught.value)
    assert burnish.check(path, model, label="kind").dataset.train[0].label
    assert burnish.check(path, model, objective="lm").dataset.train[0].label is None


def test_labels_of_the_test_set_never_seen_in_train(recipe: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "test.jsonl", [{"text": "what is it", "label": "blue"}])
    with refused("unseen_labels", DataError) as caught:
        burnish.train(recipe, quiet=True, **{"data.test": str(tmp_path / "test.jsonl")})
    assert "'blue'" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "code", "fields", "shown"),
    [
        ({"training.epoch": 2}, "unknown_key", {"closest": "training.epochs"}, "training.epoch"),
        ({"training.epochs": "many"}, "wrong_type", {"key": "training.epochs"}, "'many'"),
        ({"training.epochs": float("inf")}, "out_of_range", {"key": "training.epochs"}, "inf"),
        ({"replay.rows": True}, "wrong_type", {"key": "replay.rows", "value": True}, "True"),
        ({"name": ".."}, "bad_name", {"key": "name", "value": ".."}, "'..'"),
        ({"evaluate.limit": 1}, "out_of_range", {"key": "evaluate.limit", "value": 1}, "1"),
        ({"evaluate.target": []}, "too_few_values", {"key": "evaluate.target"}, "[]"),
        ({"evaluate.general": []}, "too_few_values", {"key": "evaluate.general"}, "[]"),
        ({"training.workers": 4096}, "too_many_workers", {"workers": 4096}, "4096"),
        ({"evaluate.target": ["acuracy"]}, "unknown_scorer", {}, "acuracy"),
    ],
)
def test_bad_recipe_is_a_sentence(
    change: dict[str, Any], code: str, fields: dict[str, Any], shown: str, recipe: Path
) -> None:
    with refused(code, **fields) as caught:
        burnish.train(recipe, quiet=True, **change)
    assert shown in str(caught.value)


def test_all_problems_of_a_recipe_at_once(recipe: Path) -> None:
    with refused("recipe_problems", RecipeError) as error:
        load_recipe(recipe, {"training.epochs": -1, "modle": "x"})
    problems = error.value.fields["problems"]
    assert {one["code"]: one["key"] for one in problems} == {
        "out_of_range": "training.epochs",
        "unknown_key": "modle",
    }
    assert all(one["message"] in str(error.value) for one in problems)


def test_a_value_of_several_types_is_one_problem(recipe: Path) -> None:
    bad = {"training.learning_rate": -3, "replay.rows": "all"}
    with refused("recipe_problems", RecipeError) as error:
        load_recipe(recipe, bad)
    problems = {one["key"]: one for one in error.value.fields["problems"]}
    assert {key: one["value"] for key, one in problems.items()} == bad
    rate = problems["training.learning_rate"]["message"]
    assert re.search(r"-3.*\b0\b.*'auto'.*'rule'", rate)
    assert "'auto'" in problems["replay.rows"]["message"]
    assert all(one["message"] in str(error.value) for one in problems.values())


def test_rows_as_long_as_the_model_reads_are_tested_and_longer_ones_told(
    recipe: Path, tmp_path: Path
) -> None:
    """The longest leaves its answer less room than an answer may have."""
    rows = [{"question": f"{i} is " + "x" * i, "answer": "a tent"} for i in range(300, 500, 5)]
    write_rows(tmp_path / "rows.jsonl", rows)
    run = burnish.run(recipe, quiet=True, training={"epochs": 1, "max_length": 9999})
    told = next(found for found in run.findings() if found.kind == "too long")
    assert told.message.startswith("train: ")
    assert "more than 512 tokens" in told.seen
    assert told.count > 0
    assert "context" in told.remedy
    assert len(run.results("tuned", "target")) == len(run.split("test")) > 0
    longest = max(map(len, (one.question for one in run.split("test"))))
    assert longest > 400 - 64
    short = burnish.train(
        recipe, quiet=True, name="short", training={"epochs": 1, "max_length": 450}
    )
    told = next(found for found in short.findings() if found.kind == "too long")
    assert told.message.endswith("; shorten them, or raise training.max_length")


def test_a_model_that_is_away_for_a_while_loses_no_run(recipe: Path, tiny_folder: Path) -> None:
    def stop(phase: str, values: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        burnish.train(recipe, quiet=True, on_event=stop)
    away = tiny_folder.with_name("away")
    tiny_folder.rename(away)
    try:
        with pytest.raises(ModelError):
            burnish.train(recipe, quiet=True, resume=True)
    finally:
        away.rename(tiny_folder)
    assert burnish.train(recipe, quiet=True, resume=True).adapter.exists()


def test_nothing_to_measure_on_is_told_before_training(recipe: Path, tmp_path: Path) -> None:
    with refused("no_test_rows", RecipeError):
        burnish.run(recipe, quiet=True, **{"data.split.test": 0})
    one = write_rows(tmp_path / "one.jsonl", [{"text": "the last tent", "label": "red"}])
    with refused("too_few_test_rows", DataError, count=1):
        burnish.run(recipe, quiet=True, **{"data.test": str(one)})
    assert not (tmp_path / "runs" / "tiny").exists()


def test_other_weights_than_those_that_were_learnt_on_are_not_judged(
    recipe: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_folder, base)
    run = burnish.train(recipe, quiet=True, model=str(base))
    tensors = load_file(base / "model.safetensors")
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, base / "model.safetensors", {"format": "pt"})
    for verb in (burnish.evaluate, burnish.open_tuned):
        with refused("base_changed", RunError):
            verb(run)
    shutil.copy(tiny_folder / "model.safetensors", base / "model.safetensors")
    assert burnish.evaluate(run, quiet=True).verdict()


def test_a_lost_verdict_is_reached_again(recipe: Path) -> None:
    run = burnish.run(recipe, quiet=True)
    before = run.verdict(), run.ledger()
    for lost in ("verdict.json", "ledger.json"):
        (run.path / lost).unlink()
        again = burnish.run(recipe, resume=True, quiet=True)
        assert (again.verdict(), again.ledger()) == before


def test_a_loaded_recipe_takes_values_too(recipe: Path) -> None:
    run = burnish.train(load_recipe(recipe), quiet=True, name="other", training={"epochs": 1})
    manifest = run.manifest()
    assert (manifest.name, manifest.recipe["training"]["epochs"]) == ("other", 1)
    assert manifest.recipe["training"]["learning_rate"] == 0.02


def test_bad_model_is_a_sentence(recipe: Path, tmp_path: Path) -> None:
    with refused("unknown_model", ModelError) as caught:
        burnish.train(recipe, quiet=True, model="smollm2-135")
    assert "smollm2-135m" in str(caught.value)
    (tmp_path / "empty").mkdir()
    with refused("not_a_model", ModelError) as caught:
        burnish.train(recipe, quiet=True, model=str(tmp_path / "empty"))
    assert str(tmp_path / "empty") in str(caught.value)


def test_adapter_for_another_base_is_a_sentence(recipe: Path) -> None:
    run = burnish.train(recipe, quiet=True)
    config = run.adapter / "adapter_config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"r": settings["r"] * 2}))
    with refused("wrong_base", ModelError):
        burnish.open_tuned(run)


def test_half_written_run_is_a_sentence(recipe: Path, tmp_path: Path) -> None:
    run = burnish.train(recipe, quiet=True)
    (run.path / "manifest.json").write_text('{"name": "ti')
    with refused("half_written", RunError, path=str(run.path / "manifest.json")):
        burnish.evaluate(run.path, quiet=True)
    done = command("report", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@contextmanager
def without_powers() -> Iterator[None]:
    """Root may write everywhere, unless this thread puts its capabilities away for a while."""
    libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    before = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then their upper halves
    assert libc.capget(header, before) == 0
    assert libc.capset(header, (ctypes.c_uint32 * 6)(0, *before[1:3], 0, *before[4:])) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


def test_read_only_output_is_a_sentence(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with without_powers(), refused("folder_not_writable", RunError):
        burnish.train(recipe, quiet=True, output=str(tmp_path / "locked" / "runs"))


def test_output_below_a_file_is_a_sentence(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused("folder_not_writable", RunError):
        burnish.train(recipe, quiet=True, output=str(tmp_path / "file" / "runs"))


@pytest.mark.real_program
def test_user_error_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = command("run", str(tmp_path / "nothing.yaml"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("burnish: ")
    assert "nothing.yaml" in done.stderr
    assert done.stderr.endswith(" [file_missing]\n")
    assert done.stderr.count("\n") == 1
