"""Contamination: whether items of evaluation sets occur in the training data.

Two texts overlap in one of three ways; the strongest counts:

- exact: equal, letter by letter;
- normalised: equal except for case, width, spaces and punctuation (`normalised_text`, which also
  separates train and test);
- 13-gram: they share 13 consecutive words, normalised (Brown et al. 2020, arXiv 2005.14165,
  appendix C). A text of fewer than 13 words has no 13-gram and is found only if it is equal: a
  short question inside a longer text is not found.

Han and kana have no spaces, so each character counts as a word: 13 of them are about 8 words, the
minimum of Brown et al. In Thai, Lao, Burmese and Khmer four characters count as one word.

Text that many items of a set share (1% and at least 10 of them, or else half) is its template
("Which sentence is correct?") and not an item. It is ignored, and so are 13-grams that mostly
consist of shared phrases of 4 words. Brown et al. similarly ignore 13-grams in more than 10
documents, but in training documents, where a text that is repeated on purpose would be missed.

The evaluation sets are indexed, and the training rows are streamed past the index: memory does not
grow with the number of training rows. N-grams are compared by 64-bit hashes.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from burnish.conversation import Example
from burnish.data.checks.dataset import normalised_text
from burnish.errors import quantity
from burnish.evaluation.rouge import UNSPACED
from burnish.evaluation.tasks import BiasTask, ChoiceItem, TextLossTask
from burnish.runs.directory import Finding
from burnish.runs.overlaps import ComparedSet, Leakage, Overlap, OverlapKind

_WORDS = 13
_PHRASE = 4
_SHOWN = 5
LEAKAGE = "leakage"  # the kind of its findings
_KINDS: tuple[OverlapKind, ...] = ("exact", "normalised", "13-gram")  # the strongest first
# Scripts without spaces in which several characters form a word: Thai and Lao, Burmese, Khmer.
_LETTERS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
_LETTERS_A_WORD = 4

Form = tuple[str, ...]  # the pieces of a text in order, such as its turns


@dataclass(frozen=True, slots=True)
class Text:
    """The texts of an item or a row.

    Attributes:
        id: its name in the examples of an overlap.
        own: the forms that identify it, such as the question, and the question with its answer; the
            last one is complete and gives the n-grams, unless `parts` does.
        also: forms that may match another text's own forms but do not identify it: the turns of a
            row without the system message, and single turns.
        parts: n-grams do not cross these: the system message, which all rows may share, and the
            other turns; empty if there is only one part.
    """

    id: str
    own: tuple[Form, ...]
    also: tuple[Form, ...] = ()
    parts: tuple[Form, ...] = ()

    def words(self) -> list[tuple[str, ...]]:
        """The normalised words of each part."""
        return [_words(form) for form in self.parts or self.own[-1:]]


def text_of(example: Example) -> Text:
    """The texts of a training or test row."""
    turns = example.prompt
    answers = (example.expected, *([example.rejected] if example.rejected else ()))
    own = _forms(tuple(turn.content for turn in turns), answers)
    if len(turns) < 2:
        return Text(example.id, own)
    bare = tuple(turn.content for turn in turns if turn.role != "system")
    users = ((turn.content,) for turn in turns if turn.role == "user")
    system = tuple(turn.content for turn in turns if turn.role == "system")
    also = tuple(dict.fromkeys((*_forms(bare, answers), *users)))
    return Text(example.id, own, also, (system, (*bare, *answers)) if system else ())


def texts_of(task: Any) -> list[Text]:
    """The texts of a task's items: each question, alone and with its right answer."""
    if isinstance(task, TextLossTask):
        return [Text(name, ((text,),)) for name, text in task.items]
    if isinstance(task, BiasTask):
        return [Text(item.id, tuple((said,) for said in item.choices)) for item in task.items]
    return [_item(item) for item in task.items]


def find_leakage(
    learnt: Mapping[str, Iterable[Text]], judging: Mapping[str, Sequence[Text]]
) -> Leakage:
    """Compare training with evaluation sets in all three ways, and evaluation sets by equality.

    Except for the digests, the order of rows and sets does not matter. An evaluation set is
    compared with the sets after it, including its `also` forms, so a set with such forms (the test
    rows) has to come first.

    A million rows of 20 words against the suite `core` and 10,000 test rows took 42 s on one core
    and 90 MB of additional memory, as 10,000 rows did (`bench/leakage.py`).

    Args:
        learnt: training rows by the name of their set; each is streamed once.
        judging: evaluation items by the name of their set.
    """
    index = _Index(judging)
    search = _Search(index)
    seen = [search.stream(name, rows) for name, rows in learnt.items()]
    held = {name: len(search.items_held(name)) for name in judging}
    asked = [replace(search.among(name, rows), leaked=held[name]) for name, rows in judging.items()]
    return Leakage(tuple(seen), tuple(asked), tuple(search.overlaps()))


def leaks(leakage: Leakage) -> list[Finding]:
    """A warning for each evaluation set with items in the training data, with examples."""
    findings = []
    for name, count in leakage.leaked.items():
        learnt = {found.name for found in leakage.learnt}
        held = [o for o in leakage.overlaps if o.judging == name and o.seen in learnt]
        rows = next(found.rows for found in leakage.judging if found.name == name)
        ways = ", ".join(f"{o.items} {o.kind} in {o.seen}" for o in held if o.items)
        of = f"of {quantity(rows, 'item')} of {name}"
        message = f"{quantity(count, f'{of} is', f'{of} are')} in the training data ({ways})"
        where = tuple(f"{item} in {o.seen} {row}" for o in held for item, row in o.examples)
        findings.append(Finding(LEAKAGE, "warning", message, count, where[:_SHOWN]))
    return findings


class _Index:
    """An index of the forms and n-grams of the evaluation sets; an item is (set, index)."""

    def __init__(self, judging: Mapping[str, Sequence[Text]]) -> None:
        self.ids = {name: [text.id for text in texts] for name, texts in judging.items()}
        self.order = {name: place for place, name in enumerate(judging)}
        self.exact: dict[str, list[_Item]] = defaultdict(list)
        self.normalised: dict[str, list[_Item]] = defaultdict(list)
        self.grams: dict[int, list[_Item]] = defaultdict(list)
        for name, texts in judging.items():
            self._add(self.exact, name, [{_raw(f) for f in text.own} for text in texts])
            self._add(self.normalised, name, [{_key(f) for f in text.own} for text in texts])
            self._add(self.grams, name, _own_grams([text.words() for text in texts]))

    def _add(self, table: dict[Any, list["_Item"]], name: str, keys: Iterable[set[Any]]) -> None:
        """Add one set without its template; empty texts are ignored."""
        places: dict[Any, list[int]] = defaultdict(list)
        for place, found in enumerate(keys):
            for key in found:
                if key != "":
                    places[key].append(place)
        for key, items in places.items():
            if len(items) <= _most(len(self.ids[name])):
                table[key] += [(name, place) for place in items]


_Item = tuple[str, int]


@dataclass
class _Tally:
    """Counts for a pair of sets: rows by kind, and the first row of each item by kind."""

    rows: list[int] = field(default_factory=lambda: [0] * len(_KINDS))
    items: list[dict[int, str]] = field(default_factory=lambda: [{} for _ in _KINDS])

    def add(self, kinds: Mapping[int, int], row: str) -> None:
        """Add a row, with the kind of its overlap for each of the set's items in it."""
        self.rows[min(kinds.values())] += 1
        for place, kind in kinds.items():
            held = self.items[kind]
            held[place] = min(row, held.get(place, row))

    def strongest(self) -> list[dict[int, str]]:
        """Items by kind, each under its strongest kind only."""
        kept: list[dict[int, str]] = []
        for held in self.items:
            kept.append({p: row for p, row in held.items() if not any(p in k for k in kept)})
        return kept


class _Search:
    """Streams rows past the index and counts their overlaps."""

    def __init__(self, index: _Index) -> None:
        self.index = index
        self.tallies: dict[tuple[str, str], _Tally] = defaultdict(_Tally)
        self.learnt: set[str] = set()

    def stream(self, name: str, rows: Iterable[Text]) -> ComparedSet:
        """Compare a training set with every evaluation set."""
        self.learnt.add(name)
        digest, count = hashlib.sha256(), 0
        for text in rows:
            count += 1
            digest.update(_line(text))
            self._add(name, text.id, self._held(text, grams=True))
        return ComparedSet(name, count, digest.hexdigest())

    def among(self, name: str, texts: Sequence[Text]) -> ComparedSet:
        """Compare an evaluation set with the evaluation sets after it."""
        digest = hashlib.sha256()
        later = {
            other for other, place in self.index.order.items() if place > self.index.order[name]
        }
        for text in texts:
            digest.update(_line(text))
            held = self._held(text, grams=False)
            self._add(name, text.id, {i: kind for i, kind in held.items() if i[0] in later})
        return ComparedSet(name, len(texts), digest.hexdigest())

    def items_held(self, judging: str) -> set[int]:
        """Indices of the items that occur in the training data."""
        tallies = [
            t for (seen, of), t in self.tallies.items() if of == judging and seen in self.learnt
        ]
        return {place for tally in tallies for held in tally.items for place in held}

    def overlaps(self) -> Iterator[Overlap]:
        for (seen, judging), tally in sorted(self.tallies.items()):
            ids = self.index.ids[judging]
            for kind, rows, held in zip(_KINDS, tally.rows, tally.strongest(), strict=True):
                pairs = sorted((ids[place], row) for place, row in held.items())
                if rows or pairs:
                    shown = tuple(pairs[:_SHOWN])
                    yield Overlap(seen, judging, kind, len(pairs), rows, shown)

    def _held(self, text: Text, *, grams: bool) -> dict[_Item, int]:
        """The items that a text contains, with the index of the kind in `_KINDS`."""
        index, held = self.index, dict[_Item, int]()
        if grams:
            for words in text.words():
                for gram in _hashes(words):
                    for item in index.grams.get(gram, ()):
                        held[item] = 2
        for form in (*text.own, *text.also):
            for item in index.normalised.get(_key(form), ()):
                held[item] = 1
        for form in (*text.own, *text.also):
            for item in index.exact.get(_raw(form), ()):
                held[item] = 0
        return held

    def _add(self, seen: str, row: str, held: Mapping[_Item, int]) -> None:
        by_set: dict[str, dict[int, int]] = defaultdict(dict)
        for (judging, place), kind in held.items():
            by_set[judging][place] = kind
        for judging, kinds in by_set.items():
            self.tallies[seen, judging].add(kinds, row)


def _forms(asked: Form, answers: Form) -> tuple[Form, ...]:
    whole = tuple(piece for piece in (*asked, *answers) if piece)
    return (asked, whole) if asked and whole != asked else (whole,)


def _item(item: Any) -> Text:
    if not isinstance(item, ChoiceItem):  # answered in free text
        return Text(item.id, ((item.prompt[-1].content,),))
    question, choice = item.question, item.choices[item.answer]
    return Text(item.id, ((question,), (question, choice), (question + choice,)))


def _line(text: Text) -> bytes:
    return json.dumps([text.id, text.own, text.also], ensure_ascii=False).encode() + b"\n"


def _raw(form: Form) -> str:
    return "\n".join(form) if any(form) else ""


def _key(form: Form) -> str:
    return " ".join(filter(None, map(_plain, form)))


@lru_cache(maxsize=1024)  # a system prompt or a label occurs in many rows
def _plain(piece: str) -> str:
    """Normalised, with spaces around each character of a script without word spaces."""
    bare = normalised_text(piece)
    if bare.isascii() or not UNSPACED.search(bare):
        return bare
    return " ".join(UNSPACED.sub(r" \g<0> ", bare).split())


def _most(items: int) -> int:
    """The number of items that may share a text before it counts as a template."""
    return max(1, min(items // 2, max(10, items // 100)))


def _own_grams(said: Sequence[list[tuple[str, ...]]]) -> Iterator[set[int]]:
    """The 13-grams of each item that are not part of the template of its set."""
    counts = Counter(
        phrase
        for parts in said
        for phrase in {
            hash(words[i : i + _PHRASE]) for words in parts for i in range(len(words) - _PHRASE + 1)
        }
    )
    most = _most(len(said))
    for parts in said:
        yield {gram for words in parts for gram in _grams_of(words, counts, most)}


def _grams_of(words: tuple[str, ...], counts: Counter[int], most: int) -> Iterator[int]:
    common = [False] * len(words)
    for i in range(len(words) - _PHRASE + 1):
        if counts[hash(words[i : i + _PHRASE])] > most:
            common[i : i + _PHRASE] = [True] * _PHRASE
    for start, end in _windows(words):
        if 2 * sum(common[start:end]) <= end - start:
            yield hash(words[start:end])


def _hashes(words: tuple[str, ...]) -> Iterator[int]:
    return (hash(words[start:end]) for start, end in _windows(words))


def _words(form: Form) -> tuple[str, ...]:
    return tuple(_key(form).split())


def _windows(words: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """The start and end of each 13-gram."""
    if not any(map(_LETTERS.match, words)):
        yield from ((start, start + _WORDS) for start in range(len(words) - _WORDS + 1))
        return
    sizes = [1 if _LETTERS.match(word) else _LETTERS_A_WORD for word in words]
    end, size = 0, 0
    for start in range(len(words)):
        while end < len(words) and size < _WORDS * _LETTERS_A_WORD:
            size += sizes[end]
            end += 1
        if size < _WORDS * _LETTERS_A_WORD:
            return
        yield start, end
        size -= sizes[start]
