"""A tokenizer as a GGUF file holds it: tokens, merges, and the name of how texts are split."""

import json
from typing import TYPE_CHECKING, Any

from burnish.data.chat_templates import templates_to_export
from burnish.errors import ModelError

if TYPE_CHECKING:
    from gguf import GGUFWriter

# What Qwen2 and Qwen3 split texts by before any merge.
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False}
_DIGITS = {"type": "Digits", "individual_digits": True}
_QWEN_SPLIT = {
    "type": "Split", "pattern": {"Regex": _QWEN}, "behavior": "Isolated", "invert": False
}  # fmt: skip
# llama.cpp's name (llama-vocab.cpp) of each way to split, as the tokenizer's file writes it.
_SPLITTING: list[tuple[str, list[dict[str, Any]]]] = [
    ("gpt-2", [_BYTES | {"use_regex": True}]),
    ("smollm", [_DIGITS, _BYTES | {"use_regex": True}]),
    ("qwen2", [_QWEN_SPLIT, _BYTES | {"use_regex": False}]),
]
# Qwen normalises to NFC, which llama.cpp leaves out: texts that are NFC already are the same.
_NORMALIZERS: dict[str, list[str | None]] = {"qwen2": [None, "NFC"]}


def check_vocabulary(tokenizer: Any) -> str:
    """llama.cpp's name of how the tokenizer splits texts.

    Raises:
        ModelError: it is no byte-level BPE, or splits in a way that is not known here.
    """
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    steps = _steps(written["pre_tokenizer"] or {})
    normalizer = (written["normalizer"] or {}).get("type")
    for name, wanted in _SPLITTING:
        fits = steps == wanted and normalizer in _NORMALIZERS.get(name, [None])
        if fits and written["model"]["type"] == "BPE":
            return name
    kinds = "+".join(str(step.get("type")) for step in steps) or "nothing"
    raise ModelError(
        f"the tokenizer ({written['model']['type']} after {kinds}) is none that is written to GGUF "
        "here",
        "export it with --as merged, and convert that folder with llama.cpp's "
        "convert_hf_to_gguf.py",
        code="tokenizer_not_exportable",
        model=written["model"]["type"],
        splitting=kinds,
    )


def add_vocabulary(writer: "GGUFWriter", tokenizer: Any, size: int) -> None:
    """Tokens, merges, special tokens and chat template; `size` is that of the embedding."""
    from gguf import TokenType

    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [TokenType.UNUSED] * size
    for token, number in tokenizer.get_vocab().items():
        tokens[number], types[number] = token, TokenType.NORMAL
    for number, added in tokenizer.added_tokens_decoder.items():
        tokens[number] = added.content
        types[number] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(check_vocabulary(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(_merges(tokenizer))
    for kind in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{kind}_token_id")
        if number is not None:
            getattr(writer, f"add_{kind}_token_id")(number)
    opens = tokenizer("")["input_ids"][:1]  # some have a start token that they never write
    writer.add_add_bos_token(bool(opens) and opens == [tokenizer.bos_token_id])
    writer.add_chat_template(templates_to_export(tokenizer))


def _merges(tokenizer: Any) -> list[str]:
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def _steps(written: dict[str, Any]) -> list[dict[str, Any]]:
    """The splitting in its steps, without what only concerns offsets."""
    steps = written["pretokenizers"] if written.get("type") == "Sequence" else [written]
    return [{k: v for k, v in step.items() if k != "trim_offsets"} for step in steps if step]
