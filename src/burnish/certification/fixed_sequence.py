"""The certificate: the best candidate inside the budget, with a stated chance of being wrong.

Fixed-sequence Learn then Test (Angelopoulos, Bates, Candès, Jordan, Lei 2021, arXiv:2110.01052;
fixed-sequence testing: Maurer, Hothorn, Lehmacher 1995). The order comes from PROBE and validation,
so CERT is unseen when it is fixed. The null hypothesis of each candidate is that it breaks some
budget. They are tested in turn, each with the whole alpha of the look, until one is not rejected;
the last rejected one is released. A model over budget is released only if the first such model of
the order passes, which has at most the chance alpha: nothing is paid for the length of the order,
where Bonferroni divides alpha by it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from burnish.certification.alpha_ledger import CertLedger, Look, look_alpha
from burnish.certification.budgets import Budgets, BudgetTest, Evidence, budget_tests, inside
from burnish.runs.candidates import Candidate

Measure = Callable[[Candidate], Evidence]


@dataclass(frozen=True, slots=True)
class Tested:
    """A candidate with the tests of its budgets; none for the base model, which needs none."""

    candidate: Candidate
    tests: tuple[BudgetTest, ...]
    passed: bool


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was tested, in order, and the candidate that is released.

    `released` is None where none passed: the base model stays, which keeps every budget.
    """

    tested: tuple[Tested, ...]
    released: Candidate | None
    look: Look
    reasons: tuple[str, ...]


def certify(
    order: Sequence[Candidate],
    measure: Measure,
    budgets: Budgets,
    ledger: CertLedger | None = None,
    called: str | None = None,
) -> Certificate:
    """Tests candidates in the given order and stops at the first that fails.

    Args:
        order: the safest first, chosen without a look at CERT.
        measure: the evidence of one candidate on CERT; called only for those that are reached.
        budgets: what may be lost, and the confidence of all looks together.
        ledger: where the look is kept; without one this is the first look, and no one knows of it.
        called: a name in words for the only candidate, which is compared with no base that stays.
    """
    keys = [candidate.key for candidate in order if candidate.scale != 0]
    look = Look(1, look_alpha(1, budgets.confidence))
    if ledger is not None:
        look = ledger.look(keys, budgets)
    tested: list[Tested] = []
    for candidate in order:
        if candidate.scale == 0:  # the base model lost nothing, whatever the items say
            tested.append(Tested(candidate, (), True))
            continue
        if ledger is not None:
            ledger.record(look, keys, candidate.key, budgets)
        tests = budget_tests(measure(candidate), budgets, look.confidence)
        tested.append(Tested(candidate, tests, inside(tests)))
        if ledger is not None:
            ledger.record(look, keys, candidate.key, budgets, inside(tests))
        if not inside(tests):
            break
    passed = [found.candidate for found in tested if found.passed and found.candidate.scale != 0]
    released = passed[-1] if passed else None
    return Certificate(tuple(tested), released, look, _reasons(tested, look, budgets, called))


def merge_looks(first: Certificate, second: Certificate) -> Certificate:
    """Two looks as one, of which the first let nothing pass: its failure is told, too."""
    kept, rest = (
        (second.reasons[:1], second.reasons[1:]) if second.released else ((), second.reasons)
    )
    reasons = (*kept, first.reasons[0], *rest)
    return Certificate((*first.tested, *second.tested), second.released, second.look, reasons)


def _reasons(
    tested: Sequence[Tested], look: Look, budgets: Budgets, called: str | None
) -> tuple[str, ...]:
    """The last that passed, the one that did not, and which look it is, in words."""
    last = next((found for found in reversed(tested) if found.passed and found.tests), None)
    failed = next((found for found in tested if not found.passed), None)
    said = []
    if last is not None:
        name = called or _name(last.candidate)
        said.append(f"{name} keeps every budget: {_words(last.tests)}.")
    if failed is not None:
        broken = [test for test in failed.tests if not test.passed]
        name = called or _name(failed.candidate)
        said.append(f"{name} is not shown to keep every budget: {_words(broken)}.")
    if last is None and called is None:
        said.append("No candidate is shown to keep every budget, so the base model stays.")
    return (*said, look.words(budgets))


def _name(candidate: Candidate) -> str:
    return candidate.label[0].upper() + candidate.label[1:]


def _words(tests: Sequence[BudgetTest]) -> str:
    return "; ".join(test.words for test in tests)
