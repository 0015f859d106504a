"""The tokens that end an answer: those in a model's files, and those that a recipe adds."""

from typing import Any

from transformers import AutoConfig, GenerationConfig

from burnish.data.chat_templates import extra_stop_tokens, has_template
from burnish.data.render import template_stop_token
from burnish.errors import ModelError
from burnish.models.registry import Source


def stop_tokens(module: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer, from the tokenizer, the recipe and the generation config."""
    return _ends(module.generation_config, tokenizer)


def add_stop_tokens(generation: Any, tokenizer: Any) -> bool:
    """Adds the missing stop tokens to a generation config; returns whether any were missing."""
    listed = _listed(generation)
    more = sorted(_ends(generation, tokenizer) - {*listed})
    if more:
        whole = [*listed, *more]
        generation.eos_token_id = whole if len(whole) > 1 else whole[0]
    return bool(more)


def generation_settings(source: Source) -> Any:
    """The generation config of a model, without loading its weights."""
    try:
        return GenerationConfig.from_pretrained(str(source.path))
    except OSError:  # the model has no generation_config.json
        return GenerationConfig.from_model_config(
            AutoConfig.from_pretrained(str(source.path)).get_text_config()
        )


def stop_token_setting(token: int, tokenizer: Any) -> str:
    """A token as a value of `model_settings.stop_tokens`: its text if unique, else its id."""
    text = tokenizer.convert_ids_to_tokens(token)
    named = isinstance(text, str) and tokenizer.get_vocab().get(text) == token
    return repr(text) if named and text.isprintable() else str(token)


def missing_stop_token(source: Source, tokenizer: Any) -> int | None:
    """The token that the chat template writes after an answer, if the model does not stop at it;
    None if it does, or if the template writes no such token."""
    end = template_stop_token(tokenizer)
    return (
        end
        if end is not None and end not in _ends(generation_settings(source), tokenizer)
        else None
    )


def check_stop_token(source: Source, tokenizer: Any) -> None:
    """Checks that answers can end: by a token of the model's files, its template or the recipe.

    Raises:
        ModelError: nothing names a token that ends an answer, or nothing writes it after one.
    """
    ends = _ends(generation_settings(source), tokenizer) if has_template(tokenizer) else ()
    if not ends and template_stop_token(tokenizer) is None:
        raise ModelError(
            f"{source.name} has no token that ends an answer: its tokenizer has no eos_token, and "
            "it has no chat template that writes another one",
            "set model_settings.stop_tokens in the recipe to a token of the model",
            code="no_stop_token",
            model=source.name,
        )


def _ends(generation: Any, tokenizer: Any) -> frozenset[int]:
    named = {tokenizer.eos_token_id, *_listed(generation), *extra_stop_tokens(tokenizer)}
    return frozenset(named - {None})


def _listed(generation: Any) -> list[int]:
    named = getattr(generation, "eos_token_id", None)
    return [] if named is None else [named] if isinstance(named, int) else list(named)
