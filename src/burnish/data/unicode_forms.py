"""Unicode normalisation in linear time, even for long runs of combining marks.

Sorting a run of combining marks takes quadratic time: a million of them would take hours. Real
text has fewer than 30 in a run (Unicode Standard Annex 15, section 13).
"""

import re
import unicodedata
from functools import lru_cache
from typing import Literal

# Longest run of marks that is sorted as one.
MOST_MARKS = 256
# The combining grapheme joiner: it is invisible, and marks are not moved across it.
_JOINER = "\u034f"


def normal_form(form: Literal["NFC", "NFKC"], text: str) -> str:
    """The text in a normal form; joiners split runs of more than `MOST_MARKS` marks."""
    if text.isascii():
        return text
    if marks := _marks(text):
        text = re.sub(f"{marks}{{{MOST_MARKS}}}(?={marks})", rf"\g<0>{_JOINER}", text)
    return unicodedata.normalize(form, text)


def has_long_row(text: str) -> bool:
    """Whether the text has a run of more than `MOST_MARKS` combining marks."""
    marks = _marks(text)
    return bool(marks) and re.search(f"{marks}{{{MOST_MARKS + 1}}}", text) is not None


def _marks(text: str) -> str:
    """The marks in the text, as a character class of a regular expression; empty if none."""
    marks = "" if text.isascii() else "".join(sorted(filter(_is_mark, set(text))))
    return f"[{re.escape(marks)}]" if marks else ""


@lru_cache(maxsize=65_536)
def _is_mark(character: str) -> bool:
    """Whether the character decomposes to a leading mark; a few vowel signs are two marks."""
    return unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) != 0
