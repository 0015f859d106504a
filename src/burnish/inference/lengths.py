"""Tokens of a text that has to fit, and a refusal of one that cannot before all of it is read."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

# Characters that are read at once: 16,384 take some 20 ms and 2 MiB, 15 MiB took 40 s and 2.4 GiB.
_PIECE = 1 << 14
# A cut inside of a word or of a special token's name makes more tokens of it, but never so many.
_CUT = 64
# A single character may be written as so many (U+1F82), and become one again before it is read.
_COMPOSED = 4
_KEEP_ALL = {"NFC", "NFD", "NFKC", "NFKD", "Prepend", "ByteLevel"}


class TooLongError(Exception):
    """A text has more than `least` tokens."""

    def __init__(self, least: int) -> None:
        super().__init__(f"more than {least} tokens")
        self.least = least


def tokens_within(tokenizer: Any, text: str, most: int, *, marks: bool = True) -> list[int]:
    """The tokens of a text; there may be a few more than `most`.

    Args:
        tokenizer: of the model.
        text: what it is to read.
        most: tokens that have room; of a text that has many more only the beginning is read.
        marks: whether the tokenizer adds its own tokens around the text.

    Raises:
        TooLongError: there are more than `most` tokens, but nobody counted how many.
    """
    if len(text) > _PIECE and _is_longer(tokenizer, text, most):
        raise TooLongError(most)
    return list(tokenizer(text, add_special_tokens=marks, verbose=False)["input_ids"])


def _is_longer(tokenizer: Any, text: str, most: int) -> bool:
    bound = longest_token(tokenizer)
    if bound is not None and bound.read(text) > most * bound.longest:
        return True
    count = 0
    for piece in _pieces(text):
        result = tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
        count += max(0, len(result) - _CUT)
        if count > most:
            return True
    return False


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))


@dataclass(frozen=True, slots=True)
class TokenLengthBound:
    """A token stands for `longest` characters of a text at most, but for those `dropped`, which
    become no token at all."""

    longest: int
    dropped: str = ""

    def read(self, text: str) -> int:
        """Characters that become tokens."""
        return len(text) - sum(map(text.count, self.dropped))


@lru_cache(maxsize=64)
def longest_token(tokenizer: Any) -> TokenLengthBound | None:
    """How many characters one token can stand for.

    None where there may be any number of them: where spaces or accents are dropped, or a word that
    is not known is one token however long it is.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(backend.model).__name__ != "BPE":
        return None
    vocabulary = tokenizer.get_vocab()
    normalizers = list(_steps(backend.normalizer, "normalizers"))
    splitters = list(_steps(backend.pre_tokenizer, "pretokenizers"))
    added = backend.get_added_tokens_decoder().values()
    if not all(map(_keeps_all, normalizers)) or not all(map(_splits_only, splitters)):
        return None
    if any(token.lstrip or token.rstrip for token in added):
        return None
    if any(step["type"] == "ByteLevel" for step in [*normalizers, *splitters]):
        unknown = {byte for byte, sign in bytes_to_unicode().items() if sign not in vocabulary}
    else:
        unknown = {byte for byte in range(256) if f"<0x{byte:02X}>" not in vocabulary}
        if unknown or not backend.model.byte_fallback:
            return None
    if any(0x80 <= byte < 0xC0 for byte in unknown):  # every character but those of ASCII has one
        return None
    composes = any(step["type"] in ("NFC", "NFKC") for step in normalizers)
    longest = max(map(len, vocabulary)) * (_COMPOSED if composes else 1)
    return TokenLengthBound(longest, "".join(chr(byte) for byte in sorted(unknown) if byte < 0x80))


def _steps(component: Any, inside: str) -> Iterator[Mapping[str, Any]]:
    """What a part of a tokenizer does, one step after the other; a sequence may hold sequences."""
    if component is not None:
        yield from _flat(json.loads(component.__getstate__()), inside)


def _flat(written: Mapping[str, Any], inside: str) -> Iterator[Mapping[str, Any]]:
    if written["type"] != "Sequence":
        yield written
    else:
        for part in written[inside]:
            yield from _flat(part, inside)


def _keeps_all(normalizer: Mapping[str, Any]) -> bool:
    if normalizer["type"] == "Replace":
        pattern = normalizer["pattern"].get("String")
        return pattern is not None and len(normalizer["content"]) >= len(pattern)
    return normalizer["type"] in _KEEP_ALL


def _splits_only(splitter: Mapping[str, Any]) -> bool:
    kinds = ("ByteLevel", "Split", "Digits", "Punctuation", "Metaspace")
    return splitter["type"] in kinds and splitter.get("behavior") != "Removed"
