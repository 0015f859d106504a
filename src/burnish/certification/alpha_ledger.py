"""The ledger of looks at the certification items (CERT), and the error rate of each look.

Items that were looked at once are no longer unseen. Training again after a verdict and testing on
the same items again gives a model more than one chance to pass by luck. So alpha is divided over
the looks of one line of models: each look spends four fifths of what is left. That is 4%, 0.8%,
0.16% ... for 5%, which never sums to more. So the probability that any look releases a model over
its budget is at most alpha, however many looks there are (a union bound). The bound is exact if the
candidates of a later look do not depend on the result of an earlier one. They may: no item of CERT
is ever trained on, but a verdict can influence the next recipe. That is little information, and one
more reason to make later looks expensive. Four fifths, because most lines have one look: the first
look is then almost as powerful as if it were the only one. It needs 1.75 standard errors, a second
one 2.4.

The ledger is `cert-uses.jsonl` in the run directory. A run that starts from another run inherits
its ledger, and a stage also inherits the looks of earlier stages that were held. The item counts: a
look at one of the suites is a look, whatever else was measured with it. A line is written before
the evidence is seen, so an interruption spends the look; resuming is the same look. Two runs that
start from the same earlier run do not know about each other.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from burnish.certification.budgets import Budgets
from burnish.runs.directory import RunDirectory
from burnish.runs.json_lines import append_line, from_json, read_lines

# Share of the remaining alpha that a look spends.
_SPENT = 0.8


@dataclass(frozen=True, slots=True)
class Look:
    """The `number`-th look of a line of models, from 1, and its error rate `alpha`."""

    number: int
    alpha: float

    @property
    def confidence(self) -> float:
        """One-sided confidence of each test in this look."""
        return 1 - self.alpha

    def words(self, budgets: Budgets) -> str:
        """For example `This is look 2 at the certification items, tested at 99.2% ...`."""
        return (
            f"This is look {self.number} at the certification items, tested at "
            f"{100 * self.confidence:.4g}% confidence so that all looks together have "
            f"{100 * budgets.confidence:.4g}%."
        )


@dataclass(frozen=True, slots=True)
class CertUse:
    """One candidate in one look; `passed` is None in the line written before the evidence."""

    base: str  # sha256 of the base model
    items: tuple[str, ...]  # a hash of each certifying task
    budgets: str  # hash of the budgets
    look: int
    alpha: float
    order: tuple[str, ...]  # keys of the candidates of the look, in the order of testing
    candidate: str
    time: float
    passed: bool | None = None
    asked: tuple[str, ...] = ()  # a hash of each item, only in the line before the evidence


class CertLedger:
    """The looks at certification items with one base model, in one line of runs.

    Args:
        directory: the run that takes the look.
        base: sha256 of the base model.
        items: a hash of each certifying task.
        asked: a hash of each item in them.
    """

    def __init__(
        self,
        directory: RunDirectory,
        base: str,
        items: Sequence[str],
        asked: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.base = base
        self.items = tuple(items)
        self.asked = tuple(asked)

    def uses(self) -> list[CertUse]:
        """Uses of any of the items, oldest first, including those of earlier runs."""
        recorded = _of_held_stages(self.directory) + _read(self.directory)
        tasks, asked = set(self.items), set(self.asked)
        return [
            use
            for use in recorded
            if use.base == self.base and (tasks & set(use.items) or asked & set(use.asked))
        ]

    @property
    def next_number(self) -> int:
        """The number of the next look."""
        return 1 + max((use.look for use in self.uses()), default=0)

    def passed(self, budgets: Budgets) -> set[str]:
        """Keys of candidates that passed a look at all of the items with these budgets."""
        return {use.candidate for use in self._alike(budgets) if use.passed}

    def failed(self, budgets: Budgets) -> set[str]:
        """Keys of candidates that failed a look at all of the items with these budgets."""
        return {use.candidate for use in self._alike(budgets) if use.passed is False}

    def tested(self, budgets: Budgets) -> list[str]:
        """Keys tested by the last look at all of the items with these budgets, in order."""
        done = [use for use in self._alike(budgets) if use.passed is not None]
        return list(dict.fromkeys(use.candidate for use in done if use.look == done[-1].look))

    def look(self, order: Sequence[str], budgets: Budgets) -> Look:
        """The look that tests the candidates in this order.

        It repeats an earlier look if the evidence is exactly the same: the same budgets, no other
        items, and either the same order, as after an interruption, or only candidates that were
        tested in that look. Then no new item is seen, so no further alpha is spent.
        """
        alike, next_number = self._alike(budgets), self.next_number
        for number in range(1, next_number):
            same = [use for use in alike if use.look == number]
            tested = {use.candidate for use in same}
            if same and (tuple(order) == same[0].order or set(order) <= tested):
                return Look(number, same[0].alpha)
        return Look(next_number, look_alpha(next_number, budgets.confidence))

    def record(
        self,
        look: Look,
        order: Sequence[str],
        candidate: str,
        budgets: Budgets,
        passed: bool | None = None,
    ) -> None:
        """Append a use: once before the evidence is seen, once with the outcome."""
        use = CertUse(
            self.base, self.items, _hash(budgets), look.number, look.alpha, tuple(order), candidate,
            round(time.time(), 3), passed, self.asked if passed is None else (),
        )  # fmt: skip
        append_line(self.directory.cert_uses, asdict(use))

    def _alike(self, budgets: Budgets) -> list[CertUse]:
        """Uses of all of the items with the same budgets."""
        wanted = _hash(budgets)
        return [
            use
            for use in self.uses()
            if use.budgets == wanted and set(self.items) <= set(use.items)
        ]


def inherit_looks(held: RunDirectory, folder: RunDirectory) -> None:
    """Record the looks of a held stage where later stages find them."""
    known = _lines(folder)
    for use in _lines(held):
        if use not in known:
            append_line(folder.cert_uses, asdict(use))


def look_alpha(number: int, confidence: float) -> float:
    """The error rate of the `number`-th look: four fifths of what earlier looks left."""
    if number < 1:
        raise ValueError(f"look {number}: the first look is 1")
    return (1 - confidence) * _SPENT * (1 - _SPENT) ** (number - 1)


def _read(directory: RunDirectory) -> list[CertUse]:
    before = _read(RunDirectory(directory.earlier)) if directory.earlier.exists() else []
    return before + _lines(directory)


def _of_held_stages(directory: RunDirectory) -> list[CertUse]:
    """The looks of held stages, which are recorded in the folder of all stages."""
    return _lines(RunDirectory(directory.path.parent))


def _lines(directory: RunDirectory) -> list[CertUse]:
    if not directory.cert_uses.exists():
        return []
    return [from_json(CertUse, row) for row in read_lines(directory.cert_uses)]


def _hash(budgets: Budgets) -> str:
    return hashlib.sha256(json.dumps(asdict(budgets)).encode()).hexdigest()[:16]
