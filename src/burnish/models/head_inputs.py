"""Inputs of classification heads: texts and words as tokens, and the logits of the labels.

Shapes: B texts, T tokens, N words, C labels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from burnish.models.devices import tensor_on

OUTSIDE = "O"
_ENCODED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class TaggedTokens:
    """The tokens of a sentence; the tag of word `words[i]` is read at `tokens[positions[i]]`.

    A word without tokens, such as a single zero-width space, has no position.
    """

    tokens: tuple[int, ...]
    words: tuple[int, ...]
    positions: tuple[int, ...]


def label_logits(module: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """Logits (B, C) in float32. A decoder is read at the last token, as in transformers."""
    tokens_B_T, mask_B_T = _padded(rows, module)
    if not hasattr(module, "score"):
        logits_B_C: Tensor = module(input_ids=tokens_B_T, attention_mask=mask_B_T).logits
        return logits_B_C.float()
    # Causal attention never looks at padding on the right, so no mask is needed.
    hidden_B_T_H = module.base_model(input_ids=tokens_B_T, use_cache=False).last_hidden_state
    last_B = tensor_on(hidden_B_T_H.device, [len(row) - 1 for row in rows])
    every_B = torch.arange(len(rows), device=hidden_B_T_H.device)
    logits_B_C = module.score(hidden_B_T_H[every_B, last_B])
    return logits_B_C.float()


def tag_logits(module: Any, rows: Sequence[TaggedTokens]) -> Tensor:
    """Logits (N, C) in float32 of all words that have a position, row after row."""
    tokens_B_T, mask_B_T = _padded([row.tokens for row in rows], module)
    options = {"use_cache": False} if hasattr(module, "score") else {}
    logits_B_T_C = module(input_ids=tokens_B_T, attention_mask=mask_B_T, **options).logits
    rows_N = [index for index, row in enumerate(rows) for _ in row.positions]
    positions_N = [at for row in rows for at in row.positions]
    device = logits_B_T_C.device
    chosen: Tensor = logits_B_T_C[
        tensor_on(device, rows_N, torch.long),
        tensor_on(device, positions_N, torch.long),
    ]
    return chosen.float()


def encode_texts(texts: Sequence[str], tokenizer: Any) -> Iterator[list[int]]:
    """Tokens of each text with the tokenizer's special tokens around it; nothing is cut."""
    for start in range(0, len(texts), _ENCODED_AT_ONCE):
        chunk = list(texts[start : start + _ENCODED_AT_ONCE])
        for tokens in tokenizer(chunk, truncation=False, verbose=False)["input_ids"]:
            yield tokens or [tokenizer.eos_token_id]  # a decoder adds no tokens to an empty text


def encode_words(sentences: Sequence[Sequence[str]], tokenizer: Any) -> list[TaggedTokens]:
    """Tokens of words joined by spaces, and the positions where their tags are read.

    An encoder is read at a word's first token (Devlin et al. 2019, arXiv 1810.04805, section 5.3),
    a decoder at its last one, since it has not seen the whole word before.
    """
    first = tokenizer.cls_token_id is not None
    rows = []
    for start in range(0, len(sentences), _ENCODED_AT_ONCE):
        chunk = sentences[start : start + _ENCODED_AT_ONCE]
        encoded = tokenizer(
            [" ".join(words) for words in chunk],
            truncation=False,
            verbose=False,
            return_offsets_mapping=True,
        )
        for words, tokens, spans in zip(
            chunk, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            rows.append(
                _placed(words, tuple(tokens or [tokenizer.eos_token_id]), spans, first=first)
            )
    return rows


def length_batches(lengths: Sequence[int], at_once: int) -> Iterator[list[int]]:
    """Places of texts of like length, together at most `at_once` tokens with their padding."""
    part: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if part and (len(part) + 1) * lengths[index] > at_once:
            yield part
            part = []
        part.append(index)
    if part:
        yield part


def iob2(tags: Sequence[str]) -> list[str]:
    """Corrects tags so that every span begins with B-: an I- that continues no span becomes B-."""
    valid: list[str] = []
    for tag in tags:
        before = valid[-1] if valid else OUTSIDE
        orphan = tag.startswith("I-") and before[2:] != tag[2:]
        valid.append(f"B-{tag[2:]}" if orphan else tag)
    return valid


def _placed(
    words: Sequence[str],
    tokens: tuple[int, ...],
    spans: Sequence[tuple[int, int]],
    *,
    first: bool,
) -> TaggedTokens:
    """Aligns tokens and words by their characters; special tokens have no characters."""
    positions: dict[int, int] = {}
    word, end = 0, len(words[0]) if words else 0
    for index, (start, stop) in enumerate(spans):
        if start == stop:
            continue
        # A token may contain the space before its word, so its last character decides.
        while stop > end and word + 1 < len(words):
            word += 1
            end += 1 + len(words[word])
        if not (first and word in positions):
            positions[word] = index
    return TaggedTokens(tokens, tuple(positions), tuple(positions.values()))


def _padded(rows: Sequence[Sequence[int]], module: Any) -> tuple[Tensor, Tensor | None]:
    """Tokens (B, T) padded on the right; the mask is None if all texts have the same length."""
    size, pad = max(map(len, rows)), module.config.pad_token_id or 0
    tokens = [[*row, *[pad] * (size - len(row))] for row in rows]
    tokens_B_T = tensor_on(module.device, tokens, torch.long)
    if min(map(len, rows)) == size:
        return tokens_B_T, None
    real = [[1] * len(row) + [0] * (size - len(row)) for row in rows]
    return tokens_B_T, tensor_on(module.device, real, torch.long)
