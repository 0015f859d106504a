"""Scorers of a model's answers against the expected ones, and the registry that names them.

An item scorer rates one answer, and its figure is the mean over items. A corpus scorer rates all
answers together because its figure is not such a mean. To add a scorer, write it and list it in
`SCORERS`. Third-party metrics are imported on first use, so that checking a recipe is fast.
"""

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from burnish.data.unicode_forms import normal_form
from burnish.errors import DataError, UserError
from burnish.evaluation.rouge import rouge
from burnish.evaluation.spans import span_counts

ItemScorer = Callable[[str, str], float]
CorpusScorer = Callable[[Sequence[str], Sequence[str]], float]
# A corpus figure of the items at the given indices, which may repeat.
Resampled = Callable[[NDArray[np.intp]], float]
Figure = Literal["precision", "recall", "f1"]

_SENTENCE_ENDINGS = ".,;:!?…。，、；：！？।۔؟"  # not all of Unicode's punctuation: "C#" is not "C"
_UNREADABLE = (ValueError, RecursionError)  # what json raises for invalid text


@dataclass(frozen=True)
class Scorer:
    """A named scorer; exactly one of `item` and `corpus` is set.

    `binary` says that every item scores 0 or 1, so that tests of paired proportions apply;
    `counted` prepares the corpus figure once for all of the many resamples of an interval.
    """

    name: str
    item: ItemScorer | None
    corpus: CorpusScorer | None
    binary: bool
    description: str
    counted: Callable[[Sequence[str], Sequence[str]], Resampled] | None = None

    @property
    def best(self) -> float:
        """The score of a perfect answer: BLEU and chrF count to 100, everything else to 1."""
        return 100.0 if self.name.removeprefix("corpus_") in ("bleu", "chrf") else 1.0

    def grade(self, answer: str, expected: str) -> float:
        """One item in [0, 1]; under a corpus scorer an item that is wholly right has 1."""
        if self.item is not None:
            return self.item(answer, expected) / self.best
        assert self.corpus is not None
        return 1.0 if answer == expected else self.corpus([answer], [expected]) / self.best

    def resampled(self, answers: Sequence[str], expected: Sequence[str]) -> Resampled:
        """Return a function that computes the corpus figure of the items at given indices."""
        if self.counted is not None:
            return self.counted(answers, expected)
        corpus = self.corpus
        assert corpus is not None

        def measure(places_N: NDArray[np.intp]) -> float:
            places = places_N.tolist()
            return corpus([answers[p] for p in places], [expected[p] for p in places])

        return measure


def scorer(name: str) -> Scorer:
    """Return the scorer with this name.

    Raises:
        UserError: no scorer has that name; the remedy suggests the closest one.
    """
    if name in SCORERS:
        return SCORERS[name]
    close = difflib.get_close_matches(name.lower(), SCORERS, n=1)
    remedy = f"use {close[0]!r}" if close else f"use one of {', '.join(SCORERS)}"
    raise UserError(
        f"unknown scorer {name!r}",
        remedy,
        code="unknown_scorer",
        scorer=name,
        closest=close[0] if close else None,
    )


def exact_match(answer: str, expected: str) -> float:
    """1 if the texts are equal except for surrounding whitespace, else 0."""
    return float(answer.strip() == expected.strip())


def accuracy(answer: str, expected: str) -> float:
    """1 if the texts are equal except for case, spacing and final punctuation, else 0."""
    return float(_normalised(answer) == _normalised(expected))


def bleu(answer: str, expected: str) -> float:
    """Sentence BLEU, 0 to 100: sacrebleu, 13a tokens, exponential smoothing, effective order.

    13a splits words at spaces; prefer chrF for text written without them.
    """
    from sacrebleu import sentence_bleu

    return sentence_bleu(answer, [expected], use_effective_order=True).score


def chrf(answer: str, expected: str) -> float:
    """Sentence chrF2, 0 to 100: Popović 2015 as in sacrebleu, character n-grams up to 6."""
    from sacrebleu import sentence_chrf

    return sentence_chrf(answer, [expected]).score


def rouge1(answer: str, expected: str) -> float:
    """ROUGE-1 F-measure, 0 to 1: shared words (Lin 2004)."""
    return rouge("rouge1")(answer, expected)


def rouge2(answer: str, expected: str) -> float:
    """ROUGE-2 F-measure, 0 to 1: shared pairs of adjacent words (Lin 2004)."""
    return rouge("rouge2")(answer, expected)


def rouge_l(answer: str, expected: str) -> float:
    """ROUGE-L F-measure, 0 to 1: longest common subsequence of words (Lin 2004)."""
    return rouge("rougeL")(answer, expected)


def json_valid(answer: str, expected: str) -> float:
    """1 if the whole answer is one JSON text (RFC 8259), else 0; `expected` is not read.

    A code fence around it counts as invalid, as it does for a program that reads the answer.
    """
    try:
        _parse_json(answer)
    except _UNREADABLE:
        return 0.0
    return 1.0


def json_fields(answer: str, expected: str) -> float:
    """Share of the expected JSON fields that the answer holds with an equal value, 0 to 1.

    Nested objects count by their innermost fields; a list is one value. Fields that were not
    expected cost nothing, and an answer that is not JSON scores 0.

    Raises:
        DataError: `expected` is not JSON.
    """
    try:
        wanted = _fields(_parse_json(expected))
    except _UNREADABLE:
        raise DataError(
            f"the expected answer {expected[:80]!r} is not JSON",
            "correct that row or choose a scorer that compares text",
            code="not_json",
            value=expected,
        ) from None
    try:
        found = _fields(_parse_json(answer))
    except _UNREADABLE:
        return 0.0
    right = sum(path in found and _same_json(found[path], wanted[path]) for path in wanted)
    return right / len(wanted)


def corpus_bleu(answers: Sequence[str], expected: Sequence[str]) -> float:
    """BLEU of all answers, 0 to 100: Papineni et al. 2002 as in sacrebleu, 13a tokens."""
    import sacrebleu

    _check_corpus(answers, expected)
    return sacrebleu.corpus_bleu(answers, [expected]).score


def corpus_chrf(answers: Sequence[str], expected: Sequence[str]) -> float:
    """chrF2 of all answers, 0 to 100: Popović 2015 as in sacrebleu."""
    import sacrebleu

    _check_corpus(answers, expected)
    return sacrebleu.corpus_chrf(answers, [expected]).score


def _normalised(text: str) -> str:
    words = " ".join(normal_form("NFC", text).casefold().split())
    # An answer of punctuation alone is kept: "?" and "!" are different answers.
    return words.rstrip(_SENTENCE_ENDINGS + " ") or words


def _macro_counted(figure: Figure, answers: Sequence[str], expected: Sequence[str]) -> Resampled:
    """The mean over the expected labels of a figure, from how often each label was true, given,
    and both; 0 where a label was never answered. Labels are normalised as by `accuracy`.

    An answer that is no expected label is a miss for the true one, and no class of the mean.
    """
    _check_corpus(answers, expected)
    texts = [_normalised(text) for text in (*expected, *answers)]
    _, numbers = np.unique(texts, return_inverse=True)
    true_N, given_N = numbers[: len(expected)], numbers[len(expected) :]
    labels = int(numbers.max()) + 1

    def measure(places_N: NDArray[np.intp]) -> float:
        true, given = true_N[places_N], given_N[places_N]
        true_L, given_L = (np.bincount(side, minlength=labels) for side in (true, given))
        right_L = np.bincount(true[true == given], minlength=labels)
        below_L = {"precision": given_L, "recall": true_L, "f1": (true_L + given_L) / 2}[figure]
        values_L = right_L / np.maximum(below_L, 0.5)  # nothing below: nothing is right either
        return float(values_L[true_L > 0].mean())

    return measure


def _micro_counted(answers: Sequence[str], expected: Sequence[str]) -> Resampled:
    """With one label per item every figure over all labels pooled is the share of right ones."""
    _check_corpus(answers, expected)
    pairs = zip(answers, expected, strict=True)
    right_N = np.array([accuracy(answer, true) for answer, true in pairs])
    return lambda places_N: float(right_N[places_N].mean())


def _spans_counted(figure: Figure, answers: Sequence[str], expected: Sequence[str]) -> Resampled:
    """The pooled figure from each text's numbers of right, found and expected spans."""
    _check_corpus(answers, expected)
    counts_N_3 = np.array(list(map(span_counts, answers, expected)))

    def measure(places_N: NDArray[np.intp]) -> float:
        right, found, wanted = counts_N_3[places_N].sum(0)
        below = {"precision": found, "recall": wanted, "f1": (found + wanted) / 2}[figure]
        return float(right / below) if below else 0.0

    return measure


def _check_corpus(answers: Sequence[str], expected: Sequence[str]) -> None:
    if not answers or len(answers) != len(expected):
        raise ValueError(
            f"{len(answers)} answers cannot be scored against {len(expected)} expected ones"
        )


def _parse_json(text: str) -> object:
    value: object = json.loads(text, parse_constant=_refuse_constant)
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON, although Python accepts it")


def _fields(value: object, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """Innermost fields by path; a value that is not an object, or is empty, is its own field.

    Paths are tuples because a key may itself contain a full stop.
    """
    if not isinstance(value, dict) or not value:
        return {path: value}
    fields: dict[tuple[str, ...], object] = {}
    for key, inner in value.items():
        fields |= _fields(inner, (*path, key))
    return fields


def _same_json(left: object, right: object) -> bool:
    """Equality of JSON values: 1 equals 1.0 but, unlike in Python, not true."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same_json, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same_json(left[k], right[k]) for k in left)
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _by_item(name: str, item: ItemScorer, description: str, *, binary: bool = False) -> Scorer:
    return Scorer(name, item, None, binary, description)


def _by_corpus(
    name: str,
    corpus: CorpusScorer,
    description: str,
    counted: Callable[[Sequence[str], Sequence[str]], Resampled] | None = None,
) -> Scorer:
    return Scorer(name, None, corpus, False, description, counted)


def _by_counts(
    name: str, description: str, counted: Callable[[Sequence[str], Sequence[str]], Resampled]
) -> Scorer:
    """A corpus scorer whose figure is that of all items, each once."""

    def corpus(answers: Sequence[str], expected: Sequence[str]) -> float:
        return counted(answers, expected)(np.arange(len(answers)))

    return _by_corpus(name, corpus, description, counted)


_FIGURES: dict[Figure, str] = {"precision": "precision", "recall": "recall", "f1": "F1"}
_REGISTERED = (
    _by_item("exact_match", exact_match, "equal text, 0 or 1", binary=True),
    _by_item(
        "accuracy",
        accuracy,
        "equal except for case, spacing and final punctuation, 0 or 1",
        binary=True,
    ),
    _by_item("bleu", bleu, "sentence BLEU, 0 to 100"),
    _by_item("chrf", chrf, "sentence chrF2, 0 to 100"),
    _by_item("rouge1", rouge1, "shared words (ROUGE-1 F), 0 to 1"),
    _by_item("rouge2", rouge2, "shared word pairs (ROUGE-2 F), 0 to 1"),
    _by_item("rougeL", rouge_l, "longest common word sequence (ROUGE-L F), 0 to 1"),
    _by_item("json_valid", json_valid, "the answer is JSON, 0 or 1", binary=True),
    _by_item("json_fields", json_fields, "share of expected JSON fields that are right, 0 to 1"),
    *(
        _by_counts(f"macro_{f}", f"mean {words} of the labels, 0 to 1", partial(_macro_counted, f))
        for f, words in _FIGURES.items()
    ),
    *(
        _by_counts(f"micro_{f}", f"pooled {words}, 0 to 1", _micro_counted)
        for f, words in _FIGURES.items()
    ),
    *(
        _by_counts(f"span_{f}", f"{words} of the tagged spans, 0 to 1", partial(_spans_counted, f))
        for f, words in _FIGURES.items()
    ),
    _by_corpus("corpus_bleu", corpus_bleu, "BLEU of all answers, 0 to 100"),
    _by_corpus("corpus_chrf", corpus_chrf, "chrF2 of all answers, 0 to 100"),
)
SCORERS: dict[str, Scorer] = {entry.name: entry for entry in _REGISTERED}
