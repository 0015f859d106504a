"""The chat templates that trl carries, each with a tiny tokenizer that knows its special tokens."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from burnish.data.chat_templates import set_model_stops

# Marks that a model's tokenizer has as single tokens.
_MARKS = re.compile(
    r"<\|[^|>{}'\s]+\|>|<｜[^｜]+｜>|<\|[a-z_]+>|<[a-z_]+\|>|<(?:start|end)_of_[a-z]+>|<\|\"\|>"
    r"|\[gMASK\]|<sop>|</?think>|</s>|<bos>|<eos>"
)
# The end token of each family, and what its generation configuration names beside it.
_STOPS = {
    "cohere": ("<|END_OF_TURN_TOKEN|>",),
    "deepseek": ("<｜end▁of▁sentence｜>",),
    "diffusion_gemma": ("<eos>", "<turn|>", "<|tool_response>"),
    "gemma4": ("<eos>", "<turn|>", "<|tool_response>"),
    "gemma": ("<eos>", "<end_of_turn>"),
    "glm4moe": ("<|endoftext|>", "<|user|>", "<|observation|>"),
    "gptoss": ("<|return|>", "<|call|>"),
    "idefics3": ("<end_of_utterance>",),
    "lfm2": ("<|im_end|>",),
    "llama3": ("<|eot_id|>",),
    "llava_next": ("</s>",),
    "muse_glimmer": ("<|eot|>",),
    "nemotron": ("<|im_end|>",),
    "phi3": ("<|endoftext|>", "<|end|>"),
    "qwen": ("<|im_end|>", "<|endoftext|>"),
    "smolvlm": ("<end_of_utterance>",),
}


def template_folder() -> Path:
    """Where trl has its templates."""
    import trl

    return Path(trl.__file__).parent / "chat_templates"


def template_names() -> list[str]:
    """All templates but those that trl changed for training."""
    names = sorted(path.stem for path in template_folder().glob("*.jinja"))
    return [name for name in names if not name.endswith("_training")]


def stops_of(name: str) -> tuple[str, ...]:
    """The stop tokens of a template's family."""
    return next(stops for family, stops in _STOPS.items() if name.startswith(family))


def family_tokenizer(name: str, tiny: Any, template: str | None = None) -> Any:
    """The tiny tokenizer with a template of trl, its marks as tokens and its family's stops.

    Another `template` of the family may be given.
    """
    if template is None:
        template = (template_folder() / f"{name}.jinja").read_text(encoding="utf-8")
    stops = stops_of(name)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny.backend_tokenizer,
        bos_token="<bos>",
        eos_token=stops[0],
        chat_template=template,
    )
    tokenizer.add_tokens(list(map(_token, _ordered(template, stops))), special_tokens=False)
    set_model_stops(tokenizer, tokenizer.convert_tokens_to_ids(list(stops)))
    return tokenizer


def _ordered(template: str, stops: tuple[str, ...]) -> Iterator[str]:
    yield from dict.fromkeys([*stops, *sorted(set(_MARKS.findall(template)))])


def _token(text: str) -> AddedToken:
    # Qwen and others have the marks of thoughts as ordinary tokens.
    return AddedToken(text, special=text not in ("<think>", "</think>"), normalized=False)
