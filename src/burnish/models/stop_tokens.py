"""The tokens that end an answer: those that a model's files name, and those that a recipe adds."""

from typing import Any

from transformers import AutoConfig, GenerationConfig

from burnish.data.chat_templates import extra_stop_tokens
from burnish.data.render import template_stop_token
from burnish.models.registry import Source


def stop_tokens(module: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's, the recipe's, and those of the generation
    settings."""
    return _ends(module.generation_config, tokenizer)


def add_stop_tokens(generation: Any, tokenizer: Any) -> bool:
    """Adds to generation settings the tokens at which answers end here; whether there were any."""
    listed = _listed(generation)
    more = sorted(_ends(generation, tokenizer) - {*listed})
    if more:
        whole = [*listed, *more]
        generation.eos_token_id = whole if len(whole) > 1 else whole[0]
    return bool(more)


def generation_settings(source: Source) -> Any:
    """What a model's files say of how it writes, without its weights."""
    try:
        return GenerationConfig.from_pretrained(str(source.path))
    except OSError:  # it has no file for it
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(str(source.path)))


def stop_token_setting(token: int, tokenizer: Any) -> str:
    """How `model_settings.stop_tokens` names one token: by its text where that names no other."""
    text = tokenizer.convert_ids_to_tokens(token)
    named = isinstance(text, str) and tokenizer.get_vocab().get(text) == token
    return repr(text) if named and text.isprintable() else str(token)


def missing_stop_token(source: Source, tokenizer: Any) -> int | None:
    """The token that the chat template writes behind an answer, where the model does not stop at
    it; None where it does, or where the template writes none that is known."""
    end = template_stop_token(tokenizer)
    return (
        end
        if end is not None and end not in _ends(generation_settings(source), tokenizer)
        else None
    )


def _ends(generation: Any, tokenizer: Any) -> frozenset[int]:
    named = {tokenizer.eos_token_id, *_listed(generation), *extra_stop_tokens(tokenizer)}
    return frozenset(named - {None})


def _listed(generation: Any) -> list[int]:
    named = getattr(generation, "eos_token_id", None)
    return [] if named is None else [named] if isinstance(named, int) else list(named)
