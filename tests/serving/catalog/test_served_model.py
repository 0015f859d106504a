"""Where the tokens of a completion stand in its text."""

from transformers import PreTrainedTokenizerFast

from burnish.inference.types import SampledToken
from burnish.serving.catalog.served_model import TokenText


def test_a_special_token_takes_room_in_the_prompt_alone(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    """The echoed prompt shows it, and an answer's text leaves it out."""
    drawn = [
        SampledToken(token, -1.0)
        for token in tiny_tokenizer.convert_tokens_to_ids(["a", "<|endoftext|>", "b"])
    ]
    found = TokenText(tiny_tokenizer).completion_logprobs(drawn, drawn, 0, 0)
    assert found.tokens == ["a", "<|endoftext|>", "b"] * 2
    assert found.text_offset == [0, 1, 14, 15, 16, 16]


def test_a_token_is_among_its_alternatives(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    a, b, c = tiny_tokenizer.convert_tokens_to_ids(["a", "b", "c"])
    likely = ((b, -0.5), (c, -1.5))
    drawn = [SampledToken(a, -2.0, likely), SampledToken(b, -0.5, likely)]
    found = TokenText(tiny_tokenizer).completion_logprobs((), drawn, 0, 2)
    assert found.top_logprobs == [{"b": -0.5, "c": -1.5, "a": -2.0}, {"b": -0.5, "c": -1.5}]
