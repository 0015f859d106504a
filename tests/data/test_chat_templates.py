"""One of several chat templates is chosen alike everywhere, and what ends an answer is known."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from burnish.conversation import Example, Message
from burnish.data.chat_templates import (
    PLAIN_TEMPLATE,
    extra_stop_tokens,
    next_speaker_index,
    set_stop_tokens,
    speaker_prefixes,
    template_for,
    templates_to_export,
)
from burnish.data.render import render, render_prompt, template_stop_token
from burnish.errors import DataError, RecipeError
from burnish.models.load import load_tokenizer
from burnish.models.registry import resolve
from burnish.serving.catalog.served_model import prompt_tokens
from burnish.serving.errors import ApiError
from tests.conftest import CHATML
from tests.refused import refused
from tests.serving.api_refused import api_refused
from tests.tool_calling import FIND, TEMPLATE

NAMED = {"default": CHATML, "tool_use": TEMPLATE, "rag": "{{ documents }}"}
ASKED = [{"role": "user", "content": "where is my parcel"}]
TURNS = (Message("user", "where is my parcel"), Message("assistant", "at home"))


def with_template(tokenizer: Any, template: Any) -> Any:
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    return own


@pytest.fixture(params=["configuration", "files", "memory"])
def named(request: pytest.FixtureRequest, tiny_tokenizer: Any, tmp_path: Path) -> Any:
    """A tokenizer with several templates, as models of both ages bring them."""
    tokenizer = with_template(tiny_tokenizer, NAMED)
    if request.param == "memory":
        return tokenizer
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "additional_chat_templates" / "tool_use.jinja").exists()
    if request.param == "configuration":
        for path in [*tmp_path.rglob("*.jinja")]:
            path.unlink()
        path = tmp_path / "tokenizer_config.json"
        listed = [{"name": name, "template": text} for name, text in NAMED.items()]
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": listed}))
    return AutoTokenizer.from_pretrained(tmp_path)


def test_rows_and_requests_use_the_template_for_tools(named: Any, tiny_tokenizer: Any) -> None:
    plain, tools = with_template(tiny_tokenizer, CHATML), with_template(tiny_tokenizer, TEMPLATE)
    offering = (Message("user", TURNS[0].content, tools=json.dumps([FIND])), TURNS[1])
    for turns, single in ((TURNS, plain), (offering, tools)):
        example = Example("1", turns)
        assert render(example, named) == render(example, single)
        assert render_prompt(turns[:1], named) == render_prompt(turns[:1], single)
    assert prompt_tokens(ASKED, [FIND], named) == prompt_tokens(ASKED, [FIND], tools)
    assert prompt_tokens(ASKED, [], named) == prompt_tokens(ASKED, [], plain)
    assert {one["name"]: one["template"] for one in templates_to_export(named)} == NAMED  # type: ignore[index]
    assert speaker_prefixes(named) == ()


def test_names_that_do_not_fit_are_named(tiny_tokenizer: Any) -> None:
    rag = with_template(tiny_tokenizer, {"rag": CHATML, "tool_use": TEMPLATE})
    with refused("no_default_template", DataError, names=["rag", "tool_use"]):
        render(Example("1", TURNS), rag)
    assert prompt_tokens(ASKED, [FIND], rag)
    with api_refused("no_default_template", "rag", "tool_use", param="model"):
        prompt_tokens(ASKED, [], rag)
    default = with_template(tiny_tokenizer, {"default": TEMPLATE})
    assert template_for(default, [FIND]) == TEMPLATE == templates_to_export(default)
    shows_none = with_template(tiny_tokenizer, {"default": CHATML})
    with pytest.raises(ApiError) as error:
        prompt_tokens(ASKED, [FIND], shows_none)
    assert (error.value.param, error.value.code) == ("tools", "unsupported_parameter")
    assert template_for(with_template(tiny_tokenizer, {})) == PLAIN_TEMPLATE


@pytest.mark.parametrize("name", ["tool_use", "chat", "default"])
def test_one_template_is_for_everything_whatever_its_name(tiny_tokenizer: Any, name: str) -> None:
    one = with_template(tiny_tokenizer, {name: TEMPLATE})
    assert template_for(one) == template_for(one, [FIND]) == TEMPLATE == templates_to_export(one)
    with_none = with_template(tiny_tokenizer, {name: TEMPLATE, "empty": None})
    assert template_for(with_none) == TEMPLATE
    assert template_for(with_template(tiny_tokenizer, {"default": None})) == PLAIN_TEMPLATE


@pytest.mark.parametrize(
    ("chat_template", "code"),
    [
        (5, "broken_template"),
        ([{"name": "default"}], "tokenizer_unreadable"),
        ([CHATML], "tokenizer_unreadable"),
        ([{"name": "default", "template": 5}], "broken_template"),
    ],
)
def test_what_is_no_template_is_named(
    tiny_folder: Path, tmp_path: Path, chat_template: Any, code: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": chat_template}))
    with refused(code):
        load_tokenizer(resolve(str(folder)))


def test_the_next_speaker_of_the_plain_template(tiny_tokenizer: Any) -> None:
    bare = with_template(tiny_tokenizer, None)
    assert set(speaker_prefixes(bare)) == {"\nuser:", "\nassistant:", "\nsystem:", "\ntool:"}
    assert speaker_prefixes(with_template(tiny_tokenizer, PLAIN_TEMPLATE)) == speaker_prefixes(bare)
    for text, start in (
        ("at home\nuser:\nthanks", 7),
        ("assistant: hello", 0),
        ("the user: x", None),
        ("user", None),
        ("a\nusers: many", None),
        ("a\n\nsystem:", 2),
    ):
        assert next_speaker_index(text) == start


def test_declared_tokens_end_turns(tiny_tokenizer: Any) -> None:
    own = with_template(tiny_tokenizer, "{% for m in messages %}{{ m.content }}~{% endfor %}")
    # A mark at which the model does not stop is text, and the model's own stop token follows.
    assert own.decode(render(Example("1", TURNS), own).tokens).endswith("~<|im_end|>")
    assert template_stop_token(own) == own.eos_token_id
    (tilde,) = own("~")["input_ids"]
    set_stop_tokens(own, ["~", tilde, 0])
    assert extra_stop_tokens(own) == (tilde, 0)
    assert template_stop_token(own) == tilde
    rendered = render(Example("1", TURNS), own)
    assert rendered.tokens[-1] == tilde
    assert rendered.weights[-1] == 1
    plain = with_template(tiny_tokenizer, None)
    assert template_stop_token(plain) == plain.eos_token_id
    set_stop_tokens(plain, ["<|endoftext|>"])
    assert template_stop_token(plain) == plain.convert_tokens_to_ids("<|endoftext|>")
    exported = with_template(tiny_tokenizer, templates_to_export(plain))
    assert render_prompt(TURNS * 2, exported) == render_prompt(TURNS * 2, plain)
    assert speaker_prefixes(exported) == speaker_prefixes(plain)


@pytest.mark.parametrize(
    ("stop", "fields"),
    [
        ("<|im_ennd|>", {"closest": "<|im_end|>"}),
        ("red green", {"closest": None}),
        ("", {"closest": None, "tokens": 0}),
        (4000, {}),
        (-1, {}),
    ],
)
def test_what_is_not_a_token_is_refused(
    tiny_tokenizer: Any, stop: Any, fields: dict[str, Any]
) -> None:
    with refused(
        "unknown_token", RecipeError, key="model_settings.stop_tokens", value=stop, **fields
    ):
        set_stop_tokens(copy.deepcopy(tiny_tokenizer), [stop])
