"""Reports columns that are not used, and suggests the recipe line that would use them."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from burnish.data.turns import parse_cell, parse_judgement
from burnish.runs.directory import Finding

_SHOWN = 5
_MOST_VALUES = 1000
_MOST_NUMBERS = 20  # of ratings or levels; a column with more is a measurement
_LONGEST_CLASS = 100
_CLASSES = frozenset((
    "label", "labels", "label_text", "label_name", "category", "categories", "class",
    "classes", "class_name", "intent", "intents", "sentiment", "topic", "emotion", "stars",
    "rating", "score", "target", "tags", "entities", "spans", "annotations"
))  # fmt: skip
_ANSWERS = frozenset((
    "answer", "answers", "response", "responses", "output", "outputs", "completion",
    "completions", "reply", "assistant", "bot", "gpt", "target", "summary", "translation",
    "result", "solution", "expected", "ground_truth", "reference", "chosen"
))  # fmt: skip
_JUDGEMENTS = frozenset((
    "label", "reward", "accepted", "approved", "correct", "is_correct", "good", "is_good",
    "helpful", "preferred", "upvoted", "feedback", "thumbs", "vote", "rating", "score",
    "quality"
))  # fmt: skip
# Names of metadata columns: even with few values they are not classes.
_ORIGINS = frozenset((
    "source", "sources", "origin", "dataset", "subset", "split", "lang", "language", "locale",
    "license", "url", "uri", "domain", "file", "filename", "path", "date", "time",
    "timestamp", "created_at", "created", "year", "author", "title", "name", "user",
    "version", "meta", "metadata", "index", "idx", "row_id", "uid", "uuid", "length", "len",
    "n_tokens", "tokens", "count"
))  # fmt: skip
_QUESTIONS = frozenset(("prompt", "instruction", "question", "query", "problem"))
# Names of columns that reduce the training weight of a turn or a row.
_WEIGHTS = frozenset(
    ("weight", "train", "training", "train_detail", "loss", "trainable", "mask", "ignore", "skip")
)
_NOT_WEIGHED = (
    "{} does not change any weight: set the weight of an assistant turn to 0 to exclude it from "
    "training, or delete the row"
)
_ONLY_TEXT, _OUT = "to train only on the text", "delete the column"
_CONTEXTS = frozenset(("context", "contexts", "passage", "document", "documents", "input"))
_JUDGED = (
    "{} looks like a judgement, but every answer is trained on as a good one: delete the rows with "
    "poor answers, or add a label of true or false to every row"
)
_TEXT, _PROMPT = "plain text", "prompt"
_ANSWERED = frozenset(
    ("chat", "ShareGPT", "Alpaca", "prompt/completion", "question/answer", "input/output")
)


@dataclass
class _Column:
    """Statistics of the values in an unused column."""

    rows: int = 0
    where: list[str] = field(default_factory=list)
    values: set[str] = field(default_factory=set)
    are_short: bool = True
    are_truths: bool = True
    are_texts: bool = True

    def add(self, value: Any, source: str) -> None:
        """Adds the value of one row."""
        self.rows += 1
        if len(self.where) < _SHOWN:
            self.where.append(source)
        self.are_truths &= parse_judgement(value) is not None
        self.are_texts &= isinstance(value, str)
        self.are_short &= isinstance(value, bool | int | str) and len(str(value)) <= _LONGEST_CLASS
        if self.are_short and len(self.values) <= _MOST_VALUES:
            self.values.add(str(value).strip())

    @property
    def judges(self) -> bool:
        """Whether its values are positive for some rows and negative for others."""
        return self.are_truths and len({parse_judgement(value) for value in self.values}) == 2

    @property
    def has_few_values(self) -> bool:
        """Whether its values are short and few, as those of classes."""
        are_numbers = all(value.lstrip("-").isdigit() for value in self.values)
        most = _MOST_NUMBERS if are_numbers else _MOST_VALUES
        return self.are_short and 2 <= len(self.values) <= min(most, self.rows // 2)


class UnusedColumns:
    """Collects unused columns row by row; columns in `exempt` are ignored."""

    def __init__(self, exempt: Iterable[str]) -> None:
        self._exempt = frozenset(exempt)
        self._columns: dict[str, _Column] = {}
        self._rows = 0

    def add(self, values: Mapping[str, Any], unused: Set[str], source: str) -> None:
        """Adds a row with the names of its unused columns."""
        self._rows += 1
        inner = sorted(unused - values.keys())  # of turns
        for name in [*(name for name in values if name in unused), *inner]:
            if name.lower() not in self._exempt and name not in self._exempt:
                self._columns.setdefault(name, _Column()).add(values.get(name), source)

    def findings(
        self,
        split: str,
        form: str,
        own: Mapping[str, str],
        *,
        optional: Iterable[str] = (),
        is_meant: bool,
    ) -> list[Finding]:
        """One finding if there are unused columns, otherwise an empty list.

        Args:
            split: the part of the data, such as train.
            form: the name of the row format.
            own: the user's column for each field of the format.
            optional: the optional fields of the format.
            is_meant: whether the user chose the format, so that an unused column is not an error.
        """
        if not self._columns:
            return []
        free = {name: column for name, column in own.items() if name in set(optional)}
        hints = [hint for name in self._columns if (hint := self._hint(name, form, own, free))]
        is_error = not is_meant and any(hint.is_serious for hint in hints)
        are = "column {} is" if len(self._columns) == 1 else "columns {} are"
        names = are.format(", ".join(map(self._shown, self._columns)))
        hints = hints or [_Hint("", "", {}, False, "delete the columns that are not needed")]
        if is_error and form == _TEXT:
            hints.append(_Hint("", "", {"text": own["text"]}, False, _ONLY_TEXT, _OUT))
        fields = {"part": split, "columns": [*self._columns], "format": form}
        return [
            Finding(
                "unused",
                "error" if is_error else "warning",
                f"{names} not used ({split} was read as {form})",
                max(column.rows for column in self._columns.values()),
                tuple(next(iter(self._columns.values())).where),
                "; ".join(hint.advice for hint in hints),
                fields | {"hints": [hint.fields for hint in hints]},
            )
        ]

    def _shown(self, name: str) -> str:
        rows = self._columns[name].rows
        return name if rows == self._rows else f"{name} (in {rows} of {self._rows} rows)"

    def _hint(
        self, name: str, form: str, own: Mapping[str, str], free: Mapping[str, str]
    ) -> "_Hint | None":
        """Suggests a use for the column, if its name or its values indicate one."""
        column, plain = self._columns[name], name.strip().lower()
        inner = plain.rpartition(".")[2]
        if inner in _WEIGHTS or (inner != plain and inner in _JUDGEMENTS):
            return _Hint(name, "", {}, False, _NOT_WEIGHED.format(name))
        if inner != plain:
            return None
        if form in (_TEXT, _PROMPT):
            asked = own["text" if form == _TEXT else "prompt"]
            return _missing(name, column, asked) or self._answer(name, asked, form)
        if plain == "system":
            return _Hint(name, "", {}, False, "the turns already have a system message")
        if plain in _JUDGEMENTS and form in _ANSWERED:
            if column.are_truths:
                return _Hint(name, "as a judgement of the answers", {"label": name}, True)
            return _Hint(name, "", {}, False, _JUDGED.format(name))
        if form in _ANSWERED and column.judges and plain not in _ORIGINS:
            return _Hint(name, "", {"label": name}, False, f"if {name} judges the answers")
        if plain in _CLASSES and form == "text/label":
            return _Hint(name, f"instead of {own['label']}", {"label": name}, False)
        if plain in _CONTEXTS and form == "question/answer":
            ours = {"instruction": own["question"], "input": name, "output": own["answer"]}
            return _Hint(name, "as a part of the question", ours, False)
        near = [
            one for one in difflib.get_close_matches(plain, free, n=1, cutoff=0.8) if one != name
        ]
        near = [one for one in near if free[one] == one]
        return _Hint(name, f"as {near[0]}", {near[0]: name}, False) if near else None

    def _answer(self, name: str, asked: str, form: str) -> "_Hint | None":
        """Suggests the only other text column of the rows as the answer."""
        texts = [one for one in self._columns if self._columns[one].are_texts and _may_answer(one)]
        if texts != [name]:
            return None
        ours = {"prompt": asked, "completion": name}
        return _Hint(name, "as the answer", ours, form == _PROMPT)


@dataclass(frozen=True)
class _Hint:
    """A suggested use of a column with its `data.columns`, or other advice."""

    name: str
    use: str
    columns: Mapping[str, str]
    is_serious: bool
    words: str = ""
    instead: str = ""

    @property
    def aim(self) -> str:
        """The purpose of the suggestion in words."""
        return self.words or f"to use {self.name} {self.use}"

    @property
    def advice(self) -> str:
        """The suggestion as a sentence."""
        ways = [f"set {recipe_line(self.columns)}"] if self.columns else []
        ways += [self.instead] if self.instead else []
        return f"{self.aim}, {', or '.join(ways)}" if ways else self.aim

    @property
    def fields(self) -> dict[str, Any]:
        """The suggestion as values; `instead` is advice for users without a recipe."""
        return {"aim": self.aim, "columns": dict(self.columns), "instead": self.instead}


def suggest_columns(values: Mapping[str, Any]) -> dict[str, str]:
    """Suggests `data.columns` for a row of an unknown format; empty if there is no clear choice."""
    for name, value in values.items():
        turns = parse_cell(value)
        first = turns[0] if isinstance(turns, list) and turns else None
        if isinstance(first, Mapping) and ("role" in first or "from" in first):
            return {"messages" if "role" in first else "conversations": name}
    texts = [name for name, value in values.items() if isinstance(value, str) and name != "id"]
    if len(texts) > 2:
        texts = [name for name in texts if name.lower() not in _ORIGINS]
    lists = [name for name, value in values.items() if isinstance(value, list)]
    if len(lists) == 2 and len(values[lists[0]]) == len(values[lists[1]]) and not texts:
        return dict(zip(("tokens", "tags"), lists, strict=True))
    answers = [name for name in texts if name.strip().lower() in _ANSWERS]
    classes = [name for name in values if name.strip().lower() in _CLASSES and name not in lists]
    for ours, theirs, names in (
        ("completion", "prompt", answers),
        ("label", "text", classes),
    ):
        others = [name for name in texts if name not in names]
        if len(names) == 1 and len(others) == 1:
            return {theirs: others[0], ours: names[0]}
    asked = [name for name in texts if name.strip().lower() in _QUESTIONS]
    if len(asked) == 1 and len(answers) == 1:  # no suggestion is better than a wrong one
        return {"prompt": asked[0], "completion": answers[0]}
    return {}


def _missing(name: str, column: _Column, asked: str) -> _Hint | None:
    """Suggests the column as the label or the answer of rows with only a text or a prompt."""
    plain = name.strip().lower()
    if plain in _QUESTIONS:
        return _Hint(name, "as the question", {"prompt": name, "completion": asked}, True)
    is_class = not _CLASSES.isdisjoint((plain, plain.removesuffix("s")))
    is_class |= bool(difflib.get_close_matches(plain, ("label", "labels"), n=1, cutoff=0.8))
    is_class |= column.has_few_values and plain not in _ORIGINS
    if plain in _ANSWERS and not (is_class and column.has_few_values):
        ours = {"completion": name} | ({} if asked == "prompt" else {"prompt": asked})
        return _Hint(name, "as the answer", dict(reversed(ours.items())), True)
    if is_class:
        ours = {"label": name} | ({} if asked == "text" else {"text": asked})
        return _Hint(name, "as the label", dict(reversed(ours.items())), True)
    if column.has_few_values:
        return _Hint(name, "as the label", {"text": asked, "label": name}, False)
    return None


def _may_answer(name: str) -> bool:
    """Whether a column may contain answers, judging by its name: it is not metadata or an id."""
    plain = name.strip().lower()
    is_named = plain in _ORIGINS or bool(re.search(r"(^|[_ -])id$", plain))
    return not is_named and "reject" not in plain and "." not in name


def recipe_line(columns: Mapping[str, str]) -> str:
    """The line of a recipe that sets data.columns, in YAML."""
    pairs = ", ".join(f"{field}: {yaml_quoted(column)}" for field, column in columns.items())
    return f"data: {{columns: {{{pairs}}}}}"


def yaml_quoted(column: str) -> str:
    """A column name in YAML, quoted unless it is a plain word."""
    return column if re.fullmatch(r"[A-Za-z][\w-]*", column) else json.dumps(column)
