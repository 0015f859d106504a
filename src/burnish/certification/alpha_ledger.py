"""The ledger of CERT: who looked at the certifying items, how often, and what a look may err.

Items that were looked at once are no longer unseen. Whoever trains again after a verdict, and asks
the same items again, gets more than one chance to be let through by luck. So the allowance alpha is
divided over the looks of one line of models: each look spends four fifths of what is left. That is
4, 0.8, 0.16 ... % of 5 %, which never sums to more, so the chance that any look ever releases a
model over its budget stays at most alpha, however many looks there are (a union bound). It is exact
where a later look's candidates do not depend on what an earlier one showed. They may: no item of
CERT is ever trained on, but a verdict can steer the next recipe. That is little to learn from, and
a reason more to make later looks dear: four fifths, because most lines are looked at once. The
first look is then almost as sharp as if it were the only one, and a second one asks for 2.4
standard errors where the first asks for 1.75.

The ledger is `cert-uses.jsonl` in the run directory, and a run that starts from another one
inherits that one's; a stage inherits the looks of the stages that were held before it, too. What
counts is the item: a look at one of the suites is a look, whatever else was asked with it. A line
is written before the evidence is seen, so an interruption spends the look; going on with it is the
same look. Two runs from the same earlier one do not know of each other.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from burnish.certification.budgets import Budgets
from burnish.runs.directory import RunDirectory
from burnish.runs.json_lines import append_line, read_lines

# Share of the allowance that is left which a look spends.
_SPENT = 0.8


@dataclass(frozen=True, slots=True)
class Look:
    """The `number`-th look of a line of models, from 1, and what it may err."""

    number: int
    alpha: float

    @property
    def confidence(self) -> float:
        """One-sided, of each test of this look."""
        return 1 - self.alpha

    def words(self, budgets: Budgets) -> str:
        """Such as `This is look 2 at the certifying items, judged at 99.2 % confidence ...`."""
        return (
            f"This is look {self.number} at the certifying items, judged at "
            f"{100 * self.confidence:.4g} % confidence, so that all looks together keep "
            f"{100 * budgets.confidence:.4g} %."
        )


@dataclass(frozen=True, slots=True)
class CertUse:
    """One candidate in one look. `passed` is None in the line written before its evidence."""

    base: str  # sha256 of the base model
    items: tuple[str, ...]  # a hash of each certifying task
    budgets: str  # hash of what was asked
    look: int
    alpha: float
    order: tuple[str, ...]  # keys of the candidates of the look, in the order of testing
    candidate: str
    time: float
    passed: bool | None = None
    asked: tuple[str, ...] = ()  # a hash of each item, in the line before the evidence


class CertLedger:
    """Uses of certifying items on one base model, in one line of runs.

    Args:
        directory: the run that looks.
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
        """Those of any of the items, the oldest first; of the runs before this one too."""
        found = _of_held_stages(self.directory) + _read(self.directory)
        tasks, asked = set(self.items), set(self.asked)
        return [
            use
            for use in found
            if use.base == self.base and (tasks & set(use.items) or asked & set(use.asked))
        ]

    @property
    def next_number(self) -> int:
        """The number of the next look."""
        return 1 + max((use.look for use in self.uses()), default=0)

    def passed(self, budgets: Budgets) -> set[str]:
        """Keys of the candidates that a look let pass, by all of the items and these budgets."""
        return {use.candidate for use in self._alike(budgets) if use.passed}

    def failed(self, budgets: Budgets) -> set[str]:
        """Keys of those that a look by all of the items and these budgets did not let pass."""
        return {use.candidate for use in self._alike(budgets) if use.passed is False}

    def tested(self, budgets: Budgets) -> list[str]:
        """Keys that the last look by all of the items and these budgets tested, in its order."""
        done = [use for use in self._alike(budgets) if use.passed is not None]
        return list(dict.fromkeys(use.candidate for use in done if use.look == done[-1].look))

    def look(self, order: Sequence[str], budgets: Budgets) -> Look:
        """The look that testing the candidates in this order is.

        It is an earlier one over again where the evidence is exactly the same: the same budgets, no
        other items, and either the same order, as after an interruption, or only candidates that
        were tested in that look. Then no new item is seen and no new chance taken.
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
        """Appends a use: once before the evidence is seen, once with the outcome."""
        use = CertUse(
            self.base, self.items, _hash(budgets), look.number, look.alpha, tuple(order), candidate,
            round(time.time(), 3), passed, self.asked if passed is None else (),
        )  # fmt: skip
        append_line(self.directory.cert_uses, asdict(use))

    def _alike(self, budgets: Budgets) -> list[CertUse]:
        """Uses that saw all of the items, by the same budgets."""
        asked = _hash(budgets)
        return [
            use for use in self.uses() if use.budgets == asked and set(self.items) <= set(use.items)
        ]


def inherit_looks(held: RunDirectory, folder: RunDirectory) -> None:
    """Keeps the looks of a stage that was held where the stages after it find them."""
    known = _lines(folder)
    for use in _lines(held):
        if use not in known:
            append_line(folder.cert_uses, asdict(use))


def look_alpha(number: int, confidence: float) -> float:
    """What the `number`-th look may err: four fifths of what those before it left."""
    if number < 1:
        raise ValueError(f"look {number}: the first one is 1")
    return (1 - confidence) * _SPENT * (1 - _SPENT) ** (number - 1)


def _read(directory: RunDirectory) -> list[CertUse]:
    before = _read(RunDirectory(directory.earlier)) if directory.earlier.exists() else []
    return before + _lines(directory)


def _of_held_stages(directory: RunDirectory) -> list[CertUse]:
    """A stage lies in the folder of all stages, where those of held ones are kept."""
    return _lines(RunDirectory(directory.path.parent))


def _lines(directory: RunDirectory) -> list[CertUse]:
    if not directory.cert_uses.exists():
        return []
    lists = ("order", "items", "asked")
    return [
        CertUse(**row | {name: tuple(row.get(name, ())) for name in lists})
        for row in read_lines(directory.cert_uses)
    ]


def _hash(budgets: Budgets) -> str:
    return hashlib.sha256(json.dumps(asdict(budgets)).encode()).hexdigest()[:16]
