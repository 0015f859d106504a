"""A model that does not stop where its template ends a turn, and one with several templates: from
the preflight to exports and the server."""

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from transformers import AutoTokenizer, GenerationConfig

import burnish
from burnish.cli.options import settings_of
from burnish.data.chat_templates import extra_stop_tokens
from burnish.errors import PreflightError, RecipeError
from burnish.export.export import export
from burnish.inference.types import SamplingSettings
from burnish.models.stop_tokens import stop_tokens
from burnish.pipeline import verbs
from burnish.runs.directory import RunDirectory
from burnish.serving.catalog.registry import open_in_process
from burnish.serving.catalog.served_model import prompt_tokens
from burnish.serving.catalog.server import models_without_stop_token, open_server
from burnish.serving.routes import chat
from burnish.serving.routes.chat import ChatRequest
from burnish.serving.schemas.tools import Tool
from burnish.serving.state.installation import Settings
from tests.conftest import CHATML
from tests.refused import refused
from tests.rows import labelled, write_rows
from tests.tool_calling import FIND, TEMPLATE

END = "<|im_end|>"


@pytest.fixture(scope="module")
def endless(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its files name another token as the end than its template writes; it has two templates."""
    folder = tmp_path_factory.mktemp("endless") / "model"
    shutil.copytree(tiny_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.chat_template = {"default": CHATML, "tool_use": TEMPLATE}
    tokenizer.save_pretrained(folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 0}))
    return folder


@pytest.fixture(scope="module")
def recipe(endless: Path) -> Path:
    folder = endless.parent
    write_rows(folder / "rows.jsonl", labelled(12))
    path = folder / "recipe.yaml"
    path.write_text(
        f"model: {endless}\ndata: {{train: rows.jsonl}}\nevaluate: {{general: null}}\n"
        f"training: {{epochs: 1, learning_rate: 0.02}}\noutput: {folder / 'runs'}\n"
    )
    return path


@pytest.fixture(scope="module")
def run(recipe: Path) -> RunDirectory:
    return burnish.train(recipe, quiet=True, name="told", **{"model_settings.stop_tokens": [END]})


def test_the_preflight_names_the_setting_that_it_takes(recipe: Path, run: RunDirectory) -> None:
    with refused("answer_not_ended", PreflightError, stop_token=repr(END)) as error:
        burnish.train(recipe, quiet=True, name="endless")
    line = f"model_settings: {{stop_tokens: ['{END}']}}"
    assert line in error.value.remedy
    assert f"\"model_settings.stop_tokens=['{END}']\"" in error.value.remedy
    recipe.with_name("with.yaml").write_text(f"{recipe.read_text()}{line}\n")
    checks = verbs.preflight(recipe.with_name("with.yaml"), quiet=True)
    assert all(check.passed is not False for check in checks)
    assert run.manifest().recipe["model_settings"]["stop_tokens"] == [END]
    with refused("unknown_token", RecipeError, value="<|im_ends|>", closest="<|im_end|>"):
        burnish.train(
            recipe, quiet=True, name="typo", **{"model_settings.stop_tokens": ["<|im_ends|>"]}
        )


def test_a_tuned_model_stops_there_wherever_it_is_opened(run: RunDirectory, endless: Path) -> None:
    model = burnish.open_tuned(run)
    end = model.tokenizer.convert_tokens_to_ids(END)
    assert end in stop_tokens(model.module, model.tokenizer)
    with model.base():
        assert model.fingerprint != "-".join(model.fingerprint.split("-")[:2])


@pytest.mark.parametrize("form", ["merged", "peft"])
def test_exports_name_it_and_keep_all_templates(
    run: RunDirectory, tmp_path: Path, form: Any
) -> None:
    folder = export(run, form, tmp_path / form)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == {"default": CHATML, "tool_use": TEMPLATE}
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    assert ends == [0, tokenizer.convert_tokens_to_ids(END)]


def test_a_gguf_file_names_it_and_keeps_all_templates(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("burnish.export.gguf.check_vocabulary", lambda _: "gpt-2")
    reader = GGUFReader(export(run, "gguf", tmp_path / "told.gguf"))

    def said(name: str) -> Any:
        field = reader.get_field(f"tokenizer.{name}")
        return field and field.contents()

    assert said("chat_template") == CHATML
    assert said("chat_template.tool_use") == TEMPLATE
    assert said("ggml.eos_token_id") == 0
    assert said("ggml.eot_token_id") == AutoTokenizer.from_pretrained(
        run.manifest().recipe["model"]
    ).convert_tokens_to_ids(END)


def served(folder: Path, **settings: Any) -> Iterator[Any]:
    server = open_server(Settings(folder, **settings), device="cpu")
    yield server.engines
    server.close()


def test_the_server_stops_there(run: RunDirectory, endless: Path, tmp_path: Path) -> None:
    """A base by the server's setting, a tuned model by its own run's."""
    models = {"told": str(endless)}
    for stops in ((), (END,)):
        for engines in served(tmp_path, models=models, stops=stops):
            base = engines.target("told")
            end = base.tokenizer.convert_tokens_to_ids(END)
            ask = base.ask((5, 6), SamplingSettings(4), None, 0)
            assert (end in ask.sampling.ends) is bool(stops)
            tuned = engines._tokenizer(base, run.adapter)
            assert extra_stop_tokens(tuned) == (end,)
            assert engines._tokenizer(base, run.adapter) is tuned
            assert extra_stop_tokens(base.tokenizer) == ((end,) if stops else ())
            engines.close()


def test_the_server_warns_of_a_base_that_does_not_stop(endless: Path, tmp_path: Path) -> None:
    given = [f"model_settings.stop_tokens=['{END}']"]
    (warning,) = models_without_stop_token(settings_of(tmp_path, [f"told={endless}"]))
    assert f"told does not stop at '{END}'" in warning
    assert f'--set "{given[0]}"' in warning
    settings = settings_of(tmp_path, [f"told={endless}"], given)
    assert settings.stops == (END,)
    assert models_without_stop_token(settings) == []
    with refused("unknown_token", RecipeError, value="<|im|>") as error:
        models_without_stop_token(
            settings_of(tmp_path, [f"told={endless}"], ["model_settings.stop_tokens=[<|im|>]"])
        )
    assert "the model told" in error.value.seen


def test_a_chat_without_a_template_ends_where_another_speaks(tiny_folder: Path) -> None:
    """Whole, streamed and with stops of the client's own; a completion has no speakers."""
    target = open_in_process("cpu")(str(tiny_folder))
    speakers = ("\nsystem:", "\nuser:", "\nassistant:", "\ntool:")
    for template, expected in ((CHATML, ()), (None, speakers)):
        target.tokenizer.chat_template = template
        messages = [{"role": "user", "content": "where is it"}]
        body = ChatRequest(model="tiny", messages=messages, stop=["."], max_tokens=4)  # type: ignore[arg-type]
        (ask,) = chat._asks(body, target, (5, 6))
        assert (ask.sampling.speakers, ask.sampling.stop) == (expected, (".",))
    target.engine.close()


def test_the_server_shows_tools_with_their_template(endless: Path, tiny_tokenizer: Any) -> None:
    target = open_in_process("cpu")(str(endless))
    single = copy.deepcopy(tiny_tokenizer)
    single.chat_template = TEMPLATE
    turns = [{"role": "user", "content": "where is it"}]
    tools = [Tool.model_validate(FIND).shown]
    assert prompt_tokens(turns, tools, target.tokenizer) == prompt_tokens(turns, tools, single)
    target.engine.close()
