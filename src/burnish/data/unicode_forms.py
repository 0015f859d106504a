"""Unicode's normal forms in time that grows with the text, whatever it holds.

The order of combining marks in a row is found in the square of their number: a million of them
would take hours. Real text has fewer than 30 (Unicode Standard Annex 15, section 13).
"""

import re
import unicodedata
from functools import lru_cache
from typing import Literal

# Marks in a row that are put into order together.
MOST_MARKS = 256
# The combining grapheme joiner: it is not seen, and marks are not moved across it.
_JOINER = "\u034f"


def normal_form(form: Literal["NFC", "NFKC"], text: str) -> str:
    """The text in a normal form; a row of more than `MOST_MARKS` marks is parted by joiners."""
    if text.isascii():
        return text
    if marks := _marks(text):
        text = re.sub(f"{marks}{{{MOST_MARKS}}}(?={marks})", rf"\g<0>{_JOINER}", text)
    return unicodedata.normalize(form, text)


def has_long_row(text: str) -> bool:
    """Whether more than `MOST_MARKS` combining marks follow each other."""
    marks = _marks(text)
    return bool(marks) and re.search(f"{marks}{{{MOST_MARKS + 1}}}", text) is not None


def _marks(text: str) -> str:
    """The marks that the text has, as a class of a regular expression; empty where it has none."""
    found = "" if text.isascii() else "".join(sorted(filter(_is_mark, set(text))))
    return f"[{re.escape(found)}]" if found else ""


@lru_cache(maxsize=65_536)
def _is_mark(character: str) -> bool:
    """Whether it begins with a mark once it is taken apart: a few vowel signs are two of them."""
    return unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) != 0
