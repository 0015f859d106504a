"""Writes a tokenizer to a GGUF file: tokens, merges, and llama.cpp's name of its splitting."""

import json
from typing import TYPE_CHECKING, Any

from burnish.data.exported_template import trained_template
from burnish.errors import ModelError

if TYPE_CHECKING:
    from gguf import GGUFWriter

# The pattern by which Qwen2 and Qwen3 split texts before merging.
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False}
_DIGITS = {"type": "Digits", "individual_digits": True}
_QWEN_SPLIT = {
    "type": "Split", "pattern": {"Regex": _QWEN}, "behavior": "Isolated", "invert": False
}  # fmt: skip
# llama.cpp's name (llama-vocab.cpp) for each splitting in the tokenizer's file.
_SPLITTING: list[tuple[str, list[dict[str, Any]]]] = [
    ("gpt-2", [_BYTES | {"use_regex": True}]),
    ("smollm", [_DIGITS, _BYTES | {"use_regex": True}]),
    ("qwen2", [_QWEN_SPLIT, _BYTES | {"use_regex": False}]),
]
# Qwen normalises to NFC, and llama.cpp does not: the result is the same for texts in NFC.
_NORMALIZERS: dict[str, list[str | None]] = {"qwen2": [None, "NFC"]}


def check_vocabulary(tokenizer: Any) -> str:
    """Return llama.cpp's name for the splitting of a tokenizer.

    Raises:
        ModelError: it is not a byte-level BPE, or its splitting is not supported.
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
        f"the tokenizer ({written['model']['type']} after {kinds}) cannot be exported to GGUF",
        "export it with --as merged, and convert that folder with llama.cpp's "
        "convert_hf_to_gguf.py",
        code="tokenizer_not_exportable",
        model=written["model"]["type"],
        splitting=kinds,
    )


def add_vocabulary(writer: "GGUFWriter", tokenizer: Any, size: int) -> None:
    """Write tokens, merges, special tokens and chat template; `size` is the embedding's rows."""
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
    opens = tokenizer("")["input_ids"][:1]  # some tokenizers have a start token that they never add
    writer.add_add_bos_token(bool(opens) and opens == [tokenizer.bos_token_id])
    writer.add_chat_template(trained_template(tokenizer))


def _merges(tokenizer: Any) -> list[str]:
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def _steps(written: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of the splitting, without settings that only concern offsets."""
    steps = written["pretokenizers"] if written.get("type") == "Sequence" else [written]
    return [{k: v for k, v in step.items() if k != "trim_offsets"} for step in steps if step]
