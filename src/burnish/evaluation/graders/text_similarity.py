"""How alike two texts are, 0 to 1."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal, get_args

from burnish.errors import GraderError
from burnish.evaluation.graders.grader import Grader, Judges
from burnish.evaluation.graders.subject import GradingError, Subject, Template
from burnish.evaluation.scorers import bleu, rouge

Metric = Literal[
    "cosine",
    "fuzzy_match",
    "bleu",
    "gleu",
    "meteor",
    "rouge_1",
    "rouge_2",
    "rouge_3",
    "rouge_4",
    "rouge_5",
    "rouge_l",
]


def fuzzy_match(text: str, reference: str) -> float:
    """rapidfuzz's weighted ratio of the words in lower case, as the API's guide computes it."""
    from rapidfuzz import fuzz, utils

    return float(fuzz.WRatio(text, reference, processor=utils.default_process)) / 100


def gleu(text: str, reference: str) -> float:
    """Google BLEU (Wu et al. 2016, arXiv 1609.08144, section 4.3), n-grams up to 4, 13a tokens."""
    from nltk.translate.gleu_score import sentence_gleu

    return float(sentence_gleu([_words(reference)], _words(text)))


def meteor(text: str, reference: str) -> float:
    """METEOR (Lavie and Agarwal 2007) by equal words and equal stems.

    Synonyms do not count: WordNet's files come with no package, and a number that changes with
    what else is installed would be no measure.
    """
    from nltk.translate.meteor_score import single_meteor_score

    return float(single_meteor_score(_words(reference), _words(text), wordnet=_NoSynonyms()))


class _NoSynonyms:
    def synsets(self, word: str) -> list[object]:
        return []


def _words(text: str) -> list[str]:
    return str(_tokenizer()(text)).split()


@cache
def _tokenizer() -> Callable[[str], str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    made: Callable[[str], str] = Tokenizer13a()  # type: ignore[no-untyped-call]
    return made


def _cosine(left: Sequence[float], right: Sequence[float]) -> float:
    product = sum(a * b for a, b in zip(left, right, strict=True))
    length = math.hypot(*left) * math.hypot(*right)
    return product / length if length else 0.0


_METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": lambda text, reference: bleu(text, reference) / 100,
    "gleu": gleu,
    "meteor": meteor,
    "rouge_l": rouge("rougeL"),
    **{f"rouge_{n}": rouge(f"rouge{n}") for n in range(1, 6)},
}


class TextSimilarity(Grader):
    """A metric of two texts; `cosine` needs somebody who embeds."""

    type: Literal["text_similarity"]
    input: Template
    reference: Template
    evaluation_metric: Metric

    @property
    def asks(self) -> bool:
        return self.evaluation_metric == "cosine"

    def check(self, judges: Judges) -> None:
        if self.evaluation_metric == "cosine" and judges.embed is None:
            there = ", ".join(name for name in get_args(Metric) if name in _METRICS)
            raise GraderError(
                "evaluation_metric is cosine, and no model is there that embeds texts",
                f"use one of {there}",
            )

    def grade(self, subject: Subject, judges: Judges) -> float:
        text, reference = subject.filled(self.input), subject.filled(self.reference)
        if self.evaluation_metric != "cosine":
            return _METRICS[self.evaluation_metric](text, reference)
        if judges.embed is None:
            raise GradingError("other_error", "no model is there that embeds texts")
        left, right = judges.embed([text, reference])
        return _cosine(left, right)
