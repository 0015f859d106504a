"""Chooses the chat template of a conversation, and the tokens or lines that end an answer."""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from burnish.errors import DataError, RecipeError

ROLES = ("system", "user", "assistant", "tool")
_DEFAULT, _TOOLS = "default", "tool_use"
# For models without a chat template. A role stands on its own line, so that the first token of an
# answer is the same after the prompt alone and in the whole conversation. The break is an
# expression because a bare one after a block tag is trimmed.
_PLAIN_START = (
    "{{ bos_token or '' }}{% for message in messages %}{{ message['role'] }}:\n"
    "{{ message['content'] }}{% if message['role'] == 'assistant' %}"
)
_PLAIN_END = (
    "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}assistant:\n{% endif %}"
)
PLAIN_TEMPLATE = _PLAIN_START + "{{ eos_token or '' }}" + _PLAIN_END
# The next speaker's name is at the start of a line, which may be the answer's first line.
_SPEAKER = re.compile(rf"(?:\A|\n)(?:{'|'.join(ROLES)}):")
# Attributes of a tokenizer.
_STOPS = "burnish_stop_tokens"
_MODEL_STOPS = "burnish_model_stop_tokens"
_THINKING = "burnish_thinking"


def template_for(tokenizer: Any, tools: Any = None) -> str:
    """The chat template for a conversation with these `tools`; the plain one if the model has none.

    A tokenizer may have several named templates: `tool_use` is for conversations with tools,
    `default` for all others, and for tools too if there is no `tool_use`. A single template is
    used for everything, whatever its name.

    Raises:
        DataError: no template is called `default`, or the values are not templates.
    """
    named = _templates(tokenizer)
    if not named:
        return _plain(tokenizer)
    if tools and _TOOLS in named:
        return named[_TOOLS]
    if _DEFAULT in named:
        return named[_DEFAULT]
    raise DataError(
        f"the model has several chat templates ({', '.join(sorted(named))}), but none is called "
        f"{_DEFAULT!r}",
        f"rename the one to use to {_DEFAULT!r} in the model's tokenizer_config.json or "
        "additional_chat_templates folder",
        code="no_default_template",
        names=sorted(named),
    )


def check_templates(tokenizer: Any) -> None:
    """Checks that the model's chat template is a template, or a list of named templates.

    Raises:
        DataError: the model's files have another value there.
    """
    _templates(tokenizer)


def has_template(tokenizer: Any) -> bool:
    """Whether the model has its own chat template."""
    return bool(_templates(tokenizer))


def templates_to_export(tokenizer: Any) -> str | list[dict[str, str]]:
    """The template, or the named templates, that an exported model needs to read conversations as
    in training."""
    named = _templates(tokenizer)
    if set(named) <= {_DEFAULT}:
        return named.get(_DEFAULT) or _plain(tokenizer)
    return [{"name": name, "template": template} for name, template in named.items()]


def speaker_prefixes(tokenizer: Any) -> tuple[str, ...]:
    """Line beginnings, such as "\\nuser:", that end an answer of a model without a chat template.

    Such a model has no token that ends a turn. Empty for a model with its own template."""
    named = _templates(tokenizer)
    if not named or named.get(_DEFAULT, "").startswith(_PLAIN_START):
        return tuple(f"\n{role}:" for role in ROLES)
    return ()


def next_speaker_index(text: str) -> int | None:
    """Index in an answer where the next speaker's line begins, including the line break before
    it; None if there is no such line."""
    match = _SPEAKER.search(text)
    return match.start() if match else None


def set_stop_tokens(tokenizer: Any, stops: Sequence[str | int]) -> None:
    """Adds tokens, named by text or id, that end the answers of a model with this tokenizer.

    Raises:
        RecipeError: a text is not a single token, or an id is out of range.
    """
    setattr(tokenizer, _STOPS, tuple(dict.fromkeys(_token(tokenizer, stop) for stop in stops)))


def extra_stop_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that `set_stop_tokens` added, in that order."""
    tokens: tuple[int, ...] = getattr(tokenizer, _STOPS, ())
    return tokens


def stop_texts(tokenizer: Any) -> frozenset[str]:
    """The texts of the added stop tokens, as a template writes them."""
    return frozenset(tokenizer.decode([token]) for token in extra_stop_tokens(tokenizer))


def set_model_stops(tokenizer: Any, stops: Sequence[int]) -> None:
    """Records the tokens that the model's generation configuration names as ends of answers."""
    setattr(tokenizer, _MODEL_STOPS, tuple(stops))


def known_stop_texts(tokenizer: Any) -> frozenset[str]:
    """The texts of all tokens at which the model stops: its own, and the added ones."""
    model: tuple[int, ...] = getattr(tokenizer, _MODEL_STOPS, ())
    ends = {tokenizer.eos_token_id, *model, *extra_stop_tokens(tokenizer)} - {None}
    return frozenset(tokenizer.decode([token]) for token in ends if token < len(tokenizer))


def set_thinking(tokenizer: Any, thinking: bool | None) -> None:
    """Sets whether prompts ask for an answer with a thought; None leaves it to the template."""
    setattr(tokenizer, _THINKING, thinking)


def thinking_of(tokenizer: Any) -> bool | None:
    """Whether prompts ask for an answer with a thought; None where the template decides."""
    thinking: bool | None = getattr(tokenizer, _THINKING, None)
    return thinking


def stop_tokens_hash(tokenizer: Any) -> str:
    """A hash of the stop tokens and lines beyond those of the model's own files, and of whether
    prompts ask for a thought; empty if all is as in the files."""
    ends: list[Any] = [*extra_stop_tokens(tokenizer), *speaker_prefixes(tokenizer)]
    if (thinking := thinking_of(tokenizer)) is not None:
        ends.append({"thinking": thinking})
    return hashlib.sha256(json.dumps(ends).encode()).hexdigest()[:8] if ends else ""


def _templates(tokenizer: Any) -> dict[str, str]:
    """The model's templates by name; a single template is called `default`.

    Raises:
        DataError: the tokenizer's files have another value there.
    """
    listed = tokenizer.chat_template or {}
    try:
        if isinstance(listed, str):
            listed = {_DEFAULT: listed}
        elif not isinstance(listed, Mapping):
            listed = {one["name"]: one["template"] for one in listed}
    except (TypeError, KeyError) as error:
        raise _unreadable(listed) from error
    named = {str(name): template for name, template in listed.items() if template}
    if not all(isinstance(template, str) for template in named.values()):
        raise _unreadable(listed)
    return dict(zip([_DEFAULT], named.values(), strict=True)) if len(named) == 1 else named


def _unreadable(listed: Any) -> DataError:
    return DataError(
        f"the model's chat_template is {str(listed)[:80]!r}, which is neither a template nor a "
        "list of named templates",
        "copy the model's tokenizer_config.json again",
        code="broken_template",
        value=str(listed)[:80],
    )


def _plain(tokenizer: Any) -> str:
    """The plain template; an added stop token replaces the tokenizer's end token in it."""
    declared = extra_stop_tokens(tokenizer)
    if not declared:
        return PLAIN_TEMPLATE
    # Jinja reads a text in JSON's quotes, but for its escapes of what is not ASCII.
    end = json.dumps(tokenizer.decode([declared[0]]), ensure_ascii=False)
    return f"{_PLAIN_START}{{{{ {end} }}}}{_PLAIN_END}"


def _token(tokenizer: Any, stop: str | int) -> int:
    size = len(tokenizer)
    if isinstance(stop, int):
        if 0 <= stop < size:
            return stop
        raise RecipeError(
            f"model_settings.stop_tokens contains the token {stop}, but the model's tokens are "
            f"numbered 0 to {size - 1}",
            "use one of these numbers, or the token's text",
            code="unknown_token",
            key="model_settings.stop_tokens",
            value=stop,
        )
    vocabulary = tokenizer.get_vocab()
    if stop in vocabulary:
        return int(vocabulary[stop])
    tokens = tokenizer(stop, add_special_tokens=False)["input_ids"]
    if len(tokens) == 1 and tokenizer.decode(tokens) == stop:
        return int(tokens[0])
    added = [one.content for one in tokenizer.added_tokens_decoder.values()]
    near = difflib.get_close_matches(stop, added, n=1, cutoff=0.5)
    raise RecipeError(
        f"model_settings.stop_tokens contains {stop!r}, which is not a single token of the model "
        f"(it is encoded as {len(tokens)} tokens)",
        f"did you mean {near[0]!r}? Otherwise use another token's text or number"
        if near
        else f"use one of {', '.join(map(repr, added[:8]))}, or another token's text or number",
        code="unknown_token",
        key="model_settings.stop_tokens",
        value=stop,
        tokens=len(tokens),
        closest=near[0] if near else None,
    )
