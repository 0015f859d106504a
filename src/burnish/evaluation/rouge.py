"""ROUGE (Lin 2004) for any script: n-grams with rouge-score, ROUGE-L computed here."""

import re
import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache

from burnish.data.unicode_forms import normal_form

# Scripts without spaces between words: Thai and Lao, Burmese, Khmer, kana, Han.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)


class _UnicodeTokenizer:
    """rouge-score's own tokens on ASCII text, and tokens where it would find none on other text.

    Its default tokenizer drops every character but a-z and 0-9. This one keeps letters, marks and
    numbers of any script, and makes each character of a script without word spaces a token.
    """

    def tokenize(self, text: str) -> list[str]:
        return "".join(map(_spaced, normal_form("NFC", text).lower())).split()


@lru_cache(maxsize=65_536)
def _spaced(character: str) -> str:
    if unicodedata.category(character)[0] not in "LMN":
        return " "
    return f" {character} " if UNSPACED.match(character) else character


@cache
def rouge(kind: str) -> Callable[[str, str], float]:
    """Return ROUGE's F-measure of a kind such as rouge3 or rougeL: (answer, expected) -> score."""
    if kind == "rougeL":
        return _longest
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], tokenizer=_UnicodeTokenizer())
    return lambda answer, expected: float(scorer.score(expected, answer)[kind].fmeasure)


def _longest(answer: str, expected: str) -> float:
    """ROUGE-L, equal to rouge-score, which needs quadratic memory (1.2 GB for two 44 KB texts)."""
    from rapidfuzz.distance import LCSseq

    numbers: dict[str, int] = {}
    tokenize = _UnicodeTokenizer().tokenize
    given, true = (
        [numbers.setdefault(word, len(numbers)) for word in tokenize(text)]
        for text in (answer, expected)
    )
    shared = LCSseq.similarity(given, true)
    if not shared:
        return 0.0
    precision, recall = shared / len(given), shared / len(true)
    return 2 * precision * recall / (precision + recall)
