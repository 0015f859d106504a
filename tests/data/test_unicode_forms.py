"""Normal forms: Unicode's own for real text, and in time that grows with the text for any other."""

import time
import unicodedata

import pytest

from burnish.data.checks.dataset import normalised_text
from burnish.data.checks.label_spelling import fold_label
from burnish.data.unicode_forms import MOST_MARKS, has_long_row, normal_form
from burnish.evaluation.scorers import SCORERS

# The last begins with a mark only once it is taken apart.
ROWS = ["\u0301\u0323", "\u0316\u0301", "\u0344\u0323", "\u0f73\u0f71"]


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
@pytest.mark.parametrize("text", ["", "plain", "e\u0301", "ﬁ 包裹", "q\u0307\u0323" * 9, "한국"])
def test_real_text_has_its_normal_form(form: str, text: str) -> None:
    assert normal_form(form, text) == unicodedata.normalize(form, text)  # type: ignore[arg-type]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_marks_takes_no_long_time(row: str) -> None:
    text, other = "a" + row * 100_000, "a" + row[::-1] * 100_000
    started = time.monotonic()
    assert normal_form("NFC", text) == normal_form("NFC", text)
    fold_label(text)
    normalised_text(text)
    for name in ("accuracy", "rouge1", "rougeL"):
        SCORERS[name].grade(text, other)
    assert time.monotonic() - started < 8
    assert has_long_row(text)


def test_as_many_marks_as_are_ordered_together_are_no_long_row() -> None:
    text = "a" + "\u0301\u0323" * (MOST_MARKS // 2)
    assert not has_long_row(text)
    assert normal_form("NFC", text) == unicodedata.normalize("NFC", text)
    assert has_long_row(text + "\u0301")
