"""The parity certificate: one model in all its forms, and what is reported if they differ."""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from starlette.responses import JSONResponse

import burnish
from burnish.cli import main
from burnish.errors import DataError, ModelError, RunError
from burnish.export.export import export
from burnish.export.gguf import write_gguf
from burnish.models.load import load_model
from burnish.parity.compare import OtherForms, alias_blocker, check_parity, ensure_parity
from burnish.parity.record import Comparison, Form, Parity, read_parity, write_parity
from burnish.runs.directory import RunDirectory
from burnish.serving.app.app import make_app
from burnish.serving.catalog.server import open_server
from burnish.serving.state import models
from burnish.serving.state.installation import Settings
from burnish.serving.state.tables import ModelRow
from tests.refused import refused
from tests.rows import write_rows
from tests.serving.conftest import running
from tests.tool_calling import FIND, TEMPLATE, calling, row

needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed"
)
TUNED = "ft:tiny:local:cat:x"


def form_of(parity: Parity, name: Form) -> Comparison:
    (found,) = (one for one in parity.comparisons if one.form == name)
    return found


def break_weights(run: RunDirectory) -> None:
    """One number of one matrix, on disk."""
    path = run.adapter / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("lora_B.weight"))
    weights[name][0, 0] += 5.0
    save_file(weights, path)


@contextmanager
def served(run: RunDirectory, base: Path, *, tells: bool = True) -> Iterator[str]:
    """The run's adapter on a base behind a live server; one that `tells` no ids refuses to."""
    folder = run.path / "served"
    server = open_server(Settings(folder, models={"tiny": str(base)}), device="cpu")
    with server.database.writing() as session:
        row = ModelRow(name=TUNED, base="tiny", job_id=None, folder=str(run.adapter), created_at=1)
        models.add_once(session, row)
    app = make_app(server)
    if not tells:
        app.add_middleware(_Closed)
    with running(app) as url:
        yield url
    server.drain()


class _Closed:
    """A server that knows no further fields than the API's own."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        came = [await receive()]
        while came[-1].get("more_body"):
            came.append(await receive())
        if b"return_token_ids" in b"".join(message.get("body", b"") for message in came):
            refused = JSONResponse({"error": {"message": "Unknown parameter."}}, 400)
            await refused(scope, receive, send)
            return

        async def again() -> Any:
            return came.pop(0) if came else await receive()

        await self.app(scope, again, send)


def test_a_run_carries_its_certificate(judged: RunDirectory) -> None:
    parity = read_parity(judged.path)
    assert parity is not None
    assert parity.reference.form == "memory"
    assert parity.difference is None
    assert [one.form for one in parity.comparisons] == ["reloaded", "merged"]
    for one in parity.comparisons:
        assert one.prompts_equal == one.answers_equal == len(one.differences) == 9
        assert one.largest is not None
        assert one.largest < 1e-4
    assert len({said.id for said in parity.reference.answers}) == 9
    for page in ("card.md", "report.html"):
        text = (judged.path / page).read_text(encoding="utf-8")
        assert "give the same 9 answers" in text
    assert alias_blocker(judged.path) is None
    before = (judged.path / "parity.json").stat().st_mtime_ns
    assert ensure_parity(judged) == parity
    assert (judged.path / "parity.json").stat().st_mtime_ns == before


def test_a_changed_weight_on_disk_is_found(run: RunDirectory) -> None:
    break_weights(run)
    assert "on disk have changed" in str(alias_blocker(run.path))
    parity = check_parity(run)
    for name in ("reloaded", "merged"):
        found = form_of(parity, name)  # type: ignore[arg-type]
        assert found.reason
        assert found.largest is not None
        assert found.largest > found.tolerance
        assert found.prompts_equal == 9
    assert "The reloaded weights and the model in memory differ" in str(alias_blocker(run.path))


def test_a_weight_that_is_no_number_is_found(run: RunDirectory) -> None:
    path = run.adapter / "adapter_model.safetensors"
    weights = load_file(path)
    weights[next(iter(weights))][:] = float("nan")
    save_file(weights, path)
    parity = check_parity(run)
    assert "differs from token 1 on" in str(form_of(parity, "reloaded").reason)
    assert alias_blocker(run.path)


def test_a_run_that_kept_nothing_is_compared_with_itself(run: RunDirectory) -> None:
    (run.path / "parity.json").unlink()
    assert alias_blocker(run.path) is None
    parity = check_parity(run)
    assert parity.reference.form == "reloaded"
    assert "only at the end of a run" in str(form_of(parity, "memory").missing)
    assert form_of(parity, "merged").reason is None
    assert parity.difference is None


@needs_llama_cpp
def test_a_gguf_file_is_asked(run: RunDirectory, tiny_folder: Path, tmp_path: Path) -> None:
    right = check_parity(run, OtherForms(gguf=export(run, "gguf")))
    found = form_of(right, "gguf")
    assert found.prompts_equal == 9
    assert found.reason is None
    assert found.largest is not None
    assert found.largest < 1e-3
    base = load_model(str(tiny_folder), "cpu")
    write_gguf(base.module, base.tokenizer, tmp_path / "base.gguf", name="base")
    wrong = check_parity(run, OtherForms(gguf=tmp_path / "base.gguf"))
    assert form_of(check_parity(run), "gguf") == form_of(wrong, "gguf")  # until another is asked
    assert "base.gguf and the model in memory differ" in str(wrong.difference)
    with refused("file_missing", ModelError, path=str(tmp_path / "no.gguf")):
        check_parity(run, OtherForms(gguf=tmp_path / "no.gguf"))


def test_a_live_endpoint_is_asked(run: RunDirectory, tiny_folder: Path) -> None:
    with served(run, tiny_folder) as url:
        right = form_of(check_parity(run, OtherForms(url, TUNED)), "endpoint")
        wrong = form_of(check_parity(run, OtherForms(url, "tiny")), "endpoint")
        with refused("unknown_model", ModelError, model="nobody", url=url):
            check_parity(run, OtherForms(url, "nobody"))
    assert right.reason is None
    assert right.prompts_equal == right.answers_equal == 9
    assert right.largest is not None
    assert right.largest < 1e-3
    count = [len(said.answer) for said in _said(run)]
    assert [one.compared for one in right.differences] == count
    assert wrong.prompts_equal == 9
    assert "log-probability" in str(wrong.reason)  # that of the base


def test_a_wrong_template_at_the_endpoint_is_found(
    run: RunDirectory, tiny_folder: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    template = (other / "chat_template.jinja").read_text()
    changed = template.replace("'assistant\\n' }}{% endif", "'assistant:\\n' }}{% endif")
    changed = changed.replace("assistant\n' }}", "assistant \n' }}")
    assert changed != template
    (other / "chat_template.jinja").write_text(changed)
    with served(run, other) as url:
        told = form_of(check_parity(run, OtherForms(url, TUNED)), "endpoint")
    with served(run, other, tells=False) as url:
        counted = form_of(check_parity(run, OtherForms(url, TUNED)), "endpoint")
    assert "different tokens, starting at token" in str(told.reason)
    first = told.differences[0]
    assert first.prompt_differs_at is not None
    assert first.prompt_differs_at >= len(_said(run)[0].prompt) - 3
    assert counted.reason == f"the rendered prompt {first.id} has different tokens"
    assert "differ: the rendered prompt" in str(alias_blocker(run.path))


def test_an_endpoint_that_tells_little_is_compared_in_what_it_tells(
    run: RunDirectory, tiny_folder: Path
) -> None:
    with served(run, tiny_folder, tells=False) as url:
        found = form_of(check_parity(run, OtherForms(url, TUNED)), "endpoint")
    assert found.prompts_equal is None
    assert found.reason is None
    assert found.largest is not None


def test_other_prompts_are_asked_and_not_kept(run: RunDirectory, tmp_path: Path) -> None:
    before = (run.path / "parity.json").read_text()
    (tmp_path / "asked.txt").write_text("where is my tent\n\nein Zelt\n")
    (tmp_path / "asked.jsonl").write_text(json.dumps({"prompt": "tent", "completion": "x"}) + "\n")
    lines = check_parity(run, prompts=tmp_path / "asked.txt")
    rows = check_parity(run, prompts=tmp_path / "asked.jsonl")
    assert [one.conversation[-1].content for one in lines.reference.answers] == [
        "where is my tent",
        "ein Zelt",
    ]
    assert rows.reference.answers[0].conversation[-1].content == "tent"
    assert (run.path / "parity.json").read_text() == before
    (tmp_path / "long.txt").write_text("where is my tent " * 200)
    with refused("too_many_tokens", DataError, prompt="line-1"):
        check_parity(run, prompts=tmp_path / "long.txt")
    (tmp_path / "none.txt").write_text("\n")
    for name, code in (("none.txt", "no_prompts"), ("gone.txt", "file_missing")):
        with refused(code, DataError, path=str(tmp_path / name)):
            check_parity(run, prompts=tmp_path / name)


def test_the_verb_prints_a_table_and_what_is_next(
    run: RunDirectory, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(run, tiny_folder) as url, pytest.raises(SystemExit) as ended:
        main(["parity", str(run.path), "--url", url, "--model", TUNED])
    assert ended.value.code == 0
    assert f"the endpoint {TUNED} at" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit) as ended:
        main(["parity", str(run.path)])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert "9 of 9 equal" in said
    assert f"next   burnish parity {run.path} --url" in said
    break_weights(run)
    with pytest.raises(SystemExit) as ended:
        main(["parity", str(run.path), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1
    assert told["difference"].startswith("The reloaded weights and the model in memory differ")
    assert told["comparisons"][0]["form"] == "reloaded"
    with pytest.raises(SystemExit) as ended:
        main(["parity", str(run.path), "--url", "http://127.0.0.1:9/v1"])
    said = capsys.readouterr().err
    assert "[model_not_named]" in said
    assert "http://127.0.0.1:9/v1" in said


def test_without_a_suite_the_model_that_was_trained_is_the_reference(
    judged: RunDirectory, tmp_path: Path
) -> None:
    recipe = judged.path.parent / "recipe.yaml"
    run = burnish.run(
        recipe, quiet=True, name="plain", output=str(tmp_path), evaluate={"general": None}
    )
    parity = read_parity(run.path)
    assert parity is not None
    assert parity.reference.form == "memory"
    assert [one.form for one in parity.comparisons] == ["reloaded", "merged"]
    assert parity.difference is None


def test_tools_are_offered_to_every_form(tiny_folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    (base / "chat_template.jinja").write_text(TEMPLATE)
    # Templates show a tool as it was written, whatever the order of its fields.
    tool = {"function": {"description": "Finds it.", **FIND["function"]}, "type": "function"}
    rows = [row(f"find {n}", None, calling(id=n)) | {"tools": [tool]} for n in range(12)]
    write_rows(tmp_path / "rows.jsonl", rows)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {base}\ndata: {{train: rows.jsonl}}\nname: tools\noutput: {tmp_path}\n"
        "evaluate: {general: null, max_new_tokens: 4}\n"
        "training: {epochs: 1, preflight: false}\n"
    )
    run = burnish.run(recipe, quiet=True)
    assert [bool(said.tools) for said in _said(run)].count(True) > 0
    with served(run, base) as url:
        parity = check_parity(run, OtherForms(url, TUNED))
    assert [one.form for one in parity.comparisons] == ["reloaded", "merged", "endpoint"]
    assert parity.difference is None
    kept = json.loads((run.path / "parity.json").read_text())
    for said in kept["reference"]["answers"]:
        del said["tools"]  # as an earlier version wrote it
    (run.path / "parity.json").write_text(json.dumps(kept))
    assert {said.tools for said in _said(run)} == {""}


def test_what_writes_no_text_has_none(judged: RunDirectory, tmp_path: Path) -> None:
    model = judged.manifest().recipe["model"]
    recipe = tmp_path / "label.yaml"
    recipe.write_text(
        f"model: {model}\ndata: {{train: {judged.path.parent / 'rows.jsonl'}}}\nname: label\n"
        f"objective: classify\ntraining: {{epochs: 1, preflight: false}}\noutput: {tmp_path}\n"
    )
    run = burnish.train(recipe, quiet=True)
    assert ensure_parity(run) is None
    with refused("writes_no_text", RunError, path=str(run.path)):
        check_parity(run)


def test_a_file_that_is_no_certificate_is_told(run: RunDirectory) -> None:
    parity = read_parity(run.path)
    assert parity is not None
    write_parity(run.path, replace(parity, comparisons=parity.comparisons[:1]))
    assert read_parity(run.path) == replace(parity, comparisons=parity.comparisons[:1])
    (run.path / "parity.json").write_text("{}")
    with refused("not_a_certificate", RunError, path=str(run.path / "parity.json")):
        alias_blocker(run.path)


def _said(run: RunDirectory) -> Any:
    parity = read_parity(run.path)
    assert parity is not None
    return parity.reference.answers
