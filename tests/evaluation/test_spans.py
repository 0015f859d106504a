"""Span scores are seqeval's, on any tags."""

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.evaluation.scorers import SCORERS, scorer
from burnish.evaluation.spans import spans

span_precision, span_recall, span_f1 = (
    SCORERS[f"span_{figure}"].corpus for figure in ("precision", "recall", "f1")
)
TAG = st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"])
PAIRS = st.lists(
    st.integers(1, 6).flatmap(
        lambda n: st.tuples(
            st.lists(TAG, min_size=n, max_size=n), st.lists(TAG, min_size=n, max_size=n)
        )
    ),
    min_size=1,
    max_size=5,
)


def test_spans_by_hand() -> None:
    tags = ["B-a", "I-a", "O", "B-b", "B-b", "I-a", "O", "I-b"]
    assert spans(tags) == {("a", 0, 2), ("b", 3, 4), ("b", 4, 5), ("a", 5, 6), ("b", 7, 8)}
    assert spans([]) == set()


def test_scores_by_hand() -> None:
    answers = ["B-a I-a O", "B-b O", "O"]
    expected = ["B-a I-a O", "B-a O", "B-a"]
    assert span_precision(answers, expected) == 1 / 2
    assert span_recall(answers, expected) == 1 / 3
    assert span_f1(answers, expected) == pytest.approx(2 / 5)
    assert span_f1(["O O"], ["O O"]) == 0.0
    with pytest.raises(ValueError, match=r"^1 .* 2 "):
        span_f1(["O"], ["O", "O"])


def test_an_item_that_is_wholly_right_has_one() -> None:
    grade = scorer("span_f1").grade
    assert grade("O O", "O O") == 1.0
    assert grade("B-a O", "O O") == 0.0
    assert grade("B-a B-a", "B-a O") == pytest.approx(2 / 3)


@settings(deadline=None)  # the first example imports seqeval
@given(PAIRS)
def test_scores_are_those_of_seqeval(pairs: list[tuple[list[str], list[str]]]) -> None:
    from seqeval.metrics import f1_score, precision_score, recall_score

    answers, expected = [a for a, _ in pairs], [e for _, e in pairs]
    ours = [" ".join(a) for a in answers], [" ".join(e) for e in expected]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns where nothing stands below the line
        assert span_f1(*ours) == pytest.approx(f1_score(expected, answers))
        assert span_precision(*ours) == pytest.approx(precision_score(expected, answers))
        assert span_recall(*ours) == pytest.approx(recall_score(expected, answers))
