"""ROUGE-L against the library that writes a table of all words by all words."""

import random
import time
import tracemalloc

import pytest
from rouge_score.rouge_scorer import RougeScorer

from burnish.evaluation.rouge import _UnicodeTokenizer, rouge

WORDS = [
    "the",
    "The",
    "cat",
    "cats",
    "sat",
    "Straße",
    "naïve",
    "日本語",
    "ภาษา",
    "2",
    "C#",
    "-",
    "a",
]


def test_the_longest_common_subsequence_is_rouge_scores() -> None:
    draw, oracle = random.Random(5), RougeScorer(["rougeL"], tokenizer=_UnicodeTokenizer())
    for _ in range(500):
        answer, expected = (
            " ".join(draw.choices(WORDS, k=draw.randrange(0, 40))) for _ in range(2)
        )
        found = rouge("rougeL")(answer, expected)
        assert found == oracle.score(expected, answer)["rougeL"].fmeasure


@pytest.mark.parametrize(("answer", "expected"), [("", "a"), ("a", ""), ("", ""), ("?", "!")])
def test_nothing_in_common_with_nothing(answer: str, expected: str) -> None:
    assert rouge("rougeL")(answer, expected) == 0.0


def test_long_texts_take_neither_time_nor_memory() -> None:
    draw = random.Random(5)
    answer, expected = (" ".join(draw.choices(WORDS, k=20_000)) for _ in range(2))
    tracemalloc.start()
    started = time.monotonic()
    assert 0.5 < rouge("rougeL")(answer, expected) < 1
    assert time.monotonic() - started < 5
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
