"""Which chat template a conversation uses, and what ends a turn in it."""

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
# Whoever speaks next stands at the start of a line, the answer's first one too.
_SPEAKER = re.compile(rf"(?:\A|\n)(?:{'|'.join(ROLES)}):")
_STOPS = "burnish_stop_tokens"  # attribute of a tokenizer


def template_for(tokenizer: Any, tools: Any = None) -> str:
    """The template of a conversation with these `tools`; the plain one where the model has none.

    A tokenizer may have several templates with names: `tool_use` shows tools, `default` is for all
    else, and for tools where there is no `tool_use`. One alone is for everything, whatever its
    name.

    Raises:
        DataError: none of the names fits, or they are not templates.
    """
    named = _templates(tokenizer)
    if not named:
        return _plain(tokenizer)
    if tools and _TOOLS in named:
        return named[_TOOLS]
    if _DEFAULT in named:
        return named[_DEFAULT]
    raise DataError(
        f"the model has several chat templates ({', '.join(sorted(named))}) and none is called "
        f"{_DEFAULT!r}",
        f"rename the one to use to {_DEFAULT!r} in the model's tokenizer_config.json or "
        "additional_chat_templates folder",
        code="no_default_template",
        names=sorted(named),
    )


def check_templates(tokenizer: Any) -> None:
    """
    Raises:
        DataError: what the model's files have as its chat template is none.
    """
    _templates(tokenizer)


def has_template(tokenizer: Any) -> bool:
    """Whether the model brings a chat template of its own."""
    return bool(_templates(tokenizer))


def templates_to_export(tokenizer: Any) -> str | list[dict[str, str]]:
    """What an exported model needs to read conversations as they were learnt: one template, or
    several with their names."""
    named = _templates(tokenizer)
    if set(named) <= {_DEFAULT}:
        return named.get(_DEFAULT) or _plain(tokenizer)
    return [{"name": name, "template": template} for name, template in named.items()]


def speaker_prefixes(tokenizer: Any) -> tuple[str, ...]:
    """Texts at which an answer ends, because another turn begins there; of a model that has no
    chat template of its own, which knows no token for that."""
    named = _templates(tokenizer)
    if not named or named.get(_DEFAULT, "").startswith(_PLAIN_START):
        return tuple(f"\n{role}:" for role in ROLES)
    return ()


def next_speaker_index(text: str) -> int | None:
    """Where in the text of an answer the next speaker's line begins, the break before it included;
    None where none does."""
    found = _SPEAKER.search(text)
    return found.start() if found else None


def set_stop_tokens(tokenizer: Any, stops: Sequence[str | int]) -> None:
    """Makes these tokens, texts or ids, end the answers of whatever uses this tokenizer.

    Raises:
        RecipeError: one of them is not a single token of the tokenizer.
    """
    setattr(tokenizer, _STOPS, tuple(dict.fromkeys(_token(tokenizer, stop) for stop in stops)))


def extra_stop_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that `set_stop_tokens` named, in that order."""
    found: tuple[int, ...] = getattr(tokenizer, _STOPS, ())
    return found


def stop_texts(tokenizer: Any) -> frozenset[str]:
    """The declared tokens as a template writes them."""
    return frozenset(tokenizer.decode([token]) for token in extra_stop_tokens(tokenizer))


def stop_tokens_hash(tokenizer: Any) -> str:
    """Changes when answers end elsewhere than a model's own files say; empty where they do not."""
    ends = [*extra_stop_tokens(tokenizer), *speaker_prefixes(tokenizer)]
    return hashlib.sha256(json.dumps(ends).encode()).hexdigest()[:8] if ends else ""


def _templates(tokenizer: Any) -> dict[str, str]:
    """By name; a single one is the default.

    Raises:
        DataError: the tokenizer's files have something else there.
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
        "list of templates with names",
        "copy tokenizer_config.json from the model again",
        code="broken_template",
        value=str(listed)[:80],
    )


def _plain(tokenizer: Any) -> str:
    """The plain template; a declared token ends its answers in place of the tokenizer's own."""
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
            f"model_settings.stop_tokens names the token {stop}, and the model's tokens are "
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
        f"model_settings.stop_tokens names {stop!r}, which is not a token of the model (it is "
        f"written as {len(tokens)} tokens)",
        f"did you mean {near[0]!r}? Otherwise name another token by its text or its number"
        if near
        else f"name one of {', '.join(map(repr, added[:8]))}, or another token by its text or "
        "number",
        code="unknown_token",
        key="model_settings.stop_tokens",
        value=stop,
        tokens=len(tokens),
        closest=near[0] if near else None,
    )
