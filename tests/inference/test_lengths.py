"""A text that cannot fit is refused before it is read; one that can is read as ever."""

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from burnish.inference.lengths import TokenLengthBound, TooLongError, longest_token, tokens_within


class Counting:
    """The tokenizer, and how many characters it was given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self.read = tokenizer, 0

    def __call__(self, text: str, **given: Any) -> Any:
        self.read += len(text)
        return self._tokenizer(text, **given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def altered(tokenizer: Any, **parts: Any) -> PreTrainedTokenizerFast:
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    for name, part in parts.items():
        setattr(own, name, part)
    return PreTrainedTokenizerFast(tokenizer_object=own)


def test_a_text_that_cannot_fit_is_not_read(tiny_tokenizer: Any) -> None:
    """Not at all beyond so many characters, and no further than where it is too long already."""
    counting = Counting(tiny_tokenizer)
    with pytest.raises(TooLongError) as caught:
        tokens_within(counting, "where is my parcel " * 1_000_000, 512)
    assert (caught.value.least, counting.read) == (512, 0)
    with pytest.raises(TooLongError):
        tokens_within(counting, "é?" * 100_000, 100_000)
    assert 0 < counting.read < 150_000


def test_what_fits_is_read_as_ever(tiny_tokenizer: Any, word_tokenizer: Any) -> None:
    for tokenizer, text in [
        (tiny_tokenizer, "where is my parcel<|im_end|> " * 5000),
        (tiny_tokenizer, "é" * 20_000),
        (word_tokenizer, "tent " * 5000),
    ]:
        for marks in (True, False):
            plain = tokenizer(text, add_special_tokens=marks)["input_ids"]
            assert tokens_within(tokenizer, text, len(plain), marks=marks) == plain
    # A word that is not known is one token here, and spaces are none.
    for text in ("a" * 500_000, " " * 500_000 + "tent", "tent" + "\u0301" * 100_000):
        assert len(tokens_within(word_tokenizer, text, 64)) < 64


@pytest.mark.parametrize(
    "unit", ["where", "é", "語", "\U0001f600", "e\u0301", "\u1100\u1161", "\x07"]
)
def test_no_token_stands_for_more_than_the_bound(tiny_tokenizer: Any, unit: str) -> None:
    nfc = altered(tiny_tokenizer, normalizer=normalizers.NFC())
    for tokenizer in (tiny_tokenizer, nfc):
        bound = longest_token(tokenizer)
        assert bound is not None
        text = unit * 50
        assert bound.read(text) <= bound.longest * len(tokenizer(text)["input_ids"])


def test_where_there_is_no_bound(tiny_tokenizer: Any, word_tokenizer: Any) -> None:
    assert longest_token(tiny_tokenizer) is not None
    assert longest_token(word_tokenizer) is None
    strips = altered(tiny_tokenizer, normalizer=normalizers.Strip())
    drops = altered(tiny_tokenizer, pre_tokenizer=pre_tokenizers.WhitespaceSplit())
    swallows = altered(tiny_tokenizer)
    swallows.add_tokens([AddedToken("<mask>", lstrip=True)])
    assert [longest_token(one) for one in (strips, drops, swallows, object())] == [None] * 4


def test_characters_that_a_vocabulary_lacks_do_not_count() -> None:
    assert TokenLengthBound(10, "\x04\x06").read("a\x04b\x06\x06") == 2
