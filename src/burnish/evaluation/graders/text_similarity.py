"""A grader that measures the similarity of two texts, 0 to 1."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Literal, get_args

from burnish.data.unicode_forms import MOST_MARKS, has_long_row
from burnish.errors import GraderError
from burnish.evaluation.graders.base import Grader, GraderModels
from burnish.evaluation.graders.template import GradingError, Sample, Template
from burnish.evaluation.rouge import rouge
from burnish.evaluation.scorers import bleu

Metric = Literal[
    "cosine", "fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3",
    "rouge_4", "rouge_5", "rouge_l"
]  # fmt: skip


# Characters of a text: usually more than an answer of 16,384 tokens.
LONGEST = 1 << 16
# If one text is 1.5 times as long as the other, rapidfuzz compares the shorter one with every part
# of the longer one of the same length. This many steps (of 64 bits each) take 0.4 s.
_STEPS = 10**10
_UNEQUAL = 1.4  # below rapidfuzz's own 1.5, with a safety margin
_STEMMED = 64  # characters of the longest word that is stemmed


def fuzzy_match(text: str, reference: str) -> float:
    """rapidfuzz's weighted ratio of lower-case words, the API's `fuzzy_match`.

    Raises:
        GradingError: the texts are too long.
    """
    from rapidfuzz import fuzz, utils

    given, true = utils.default_process(text), utils.default_process(reference)
    shorter, longer = sorted((len(given), len(true)))
    if longer > _UNEQUAL * shorter and shorter**2 * longer > _STEPS:
        raise _too_long(
            f"fuzzy_match takes too long for texts of {shorter} and {longer} characters; shorten "
            "one of them"
        )
    return float(fuzz.WRatio(given, true)) / 100


def gleu(text: str, reference: str) -> float:
    """Google BLEU (Wu et al. 2016, arXiv 1609.08144, section 4.3), n-grams up to 4, 13a tokens."""
    from nltk.translate.gleu_score import sentence_gleu

    return float(sentence_gleu([_words(reference)], _words(text)))


def meteor(text: str, reference: str) -> float:
    """METEOR (Lavie and Agarwal 2007) by equal words and equal stems.

    Synonyms do not count: no package contains WordNet's files, and the score must not depend on
    what else is installed.
    """
    given, true = ([word.lower() for word in _words(side)] for side in (text, reference))
    equal, *rest = _aligned(enumerate(given), enumerate(true))
    stemmed, *_ = _aligned(*([(place, _stem(word)) for place, word in side] for side in rest))
    pairs = sorted([*equal, *stemmed])
    if not pairs:
        return 0.0
    precision, recall = len(pairs) / len(given), len(pairs) / len(true)
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    following = itertools.pairwise(pairs)
    chunks = 1 + sum((a + 1, b + 1) != after for (a, b), after in following)
    return float((1 - 0.5 * (chunks / len(pairs)) ** 3.0) * mean)


Placed = tuple[int, str]  # index of a word, and the word


def _aligned(
    given: Iterable[Placed], true: Iterable[Placed]
) -> tuple[list[tuple[int, int]], list[Placed], list[Placed]]:
    """Align equal words from the end; returns index pairs and the unmatched words of both.

    The same pairs as nltk's, which takes quadratic time.
    """
    places: dict[str, list[int]] = defaultdict(list)
    words = list(true)
    for place, word in words:
        places[word].append(place)
    pairs, left = [], []
    for place, word in reversed(list(given)):
        if places[word]:
            pairs.append((place, places[word].pop()))
        else:
            left.append((place, word))
    paired = {place for _, place in pairs}
    return pairs, left[::-1], [(place, word) for place, word in words if place not in paired]


def _stem(word: str) -> str:
    return str(_stemmer().stem(word)) if len(word) <= _STEMMED else word


@cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


def _words(text: str) -> list[str]:
    found = str(_tokenizer()(text)).split()
    _forget()
    return found


def _bleu(text: str, reference: str) -> float:
    found = bleu(text, reference) / 100
    _forget()
    return found


def _forget() -> None:
    """Clear sacrebleu's caches, which keep the last 65,536 texts of any length."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

    for kind in (Tokenizer13a, TokenizerRegexp):
        kind.__call__.cache_clear()


@cache
def _tokenizer() -> Callable[[str], str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    made: Callable[[str], str] = Tokenizer13a()  # type: ignore[no-untyped-call]
    return made


def _check_length(text: str) -> None:
    if len(text) > LONGEST:
        raise _too_long(
            f"a text has {len(text)} characters, more than the limit of {LONGEST} characters"
        )
    if has_long_row(text):
        raise _too_long(f"a text has more than {MOST_MARKS} combining marks in a row")


def _too_long(reason: str) -> GradingError:
    return GradingError("other_error", reason, "length")


def _cosine(left: Sequence[float], right: Sequence[float]) -> float:
    product = sum(a * b for a, b in zip(left, right, strict=True))
    length = math.hypot(*left) * math.hypot(*right)
    return product / length if length else 0.0


_METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": _bleu,
    "gleu": gleu,
    "meteor": meteor,
    "rouge_l": rouge("rougeL"),
    **{f"rouge_{n}": rouge(f"rouge{n}") for n in range(1, 6)},
}


class TextSimilarity(Grader):
    """A similarity metric of two texts; `cosine` needs an embedding model."""

    type: Literal["text_similarity"]
    input: Template
    reference: Template
    evaluation_metric: Metric

    @property
    def uses_model(self) -> bool:
        return self.evaluation_metric == "cosine"

    def check(self, models: GraderModels) -> None:
        if self.evaluation_metric == "cosine" and models.embed is None:
            available = [name for name in get_args(Metric) if name in _METRICS]
            raise GraderError(
                "evaluation_metric is cosine, but no embedding model is available",
                f"use one of {', '.join(available)}",
                code="no_embedder",
                key="evaluation_metric",
                value="cosine",
                expected=available,
            )

    def grade(self, sample: Sample, models: GraderModels) -> float:
        text, reference = sample.fill(self.input), sample.fill(self.reference)
        for compared in (text, reference):
            _check_length(compared)
        if self.evaluation_metric != "cosine":
            return _METRICS[self.evaluation_metric](text, reference)
        if models.embed is None:
            raise GradingError("other_error", "no embedding model is available")
        left, right = models.embed([text, reference])
        return _cosine(left, right)
