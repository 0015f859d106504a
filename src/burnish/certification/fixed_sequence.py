"""The certificate: the best candidate within the budgets, with a stated error probability.

Fixed-sequence Learn then Test (Angelopoulos, Bates, Candès, Jordan, Lei 2021, arXiv:2110.01052;
fixed-sequence testing: Maurer, Hothorn, Lehmacher 1995). The order comes from PROBE and validation,
so CERT is unseen when it is fixed. The null hypothesis of each candidate is that it exceeds some
budget. The candidates are tested in turn, each with the whole alpha of the look, until one fails;
the last one that passed is released. A model over budget is released only if the first such model
in the order passes, which has a probability of at most alpha. So the length of the order costs
nothing, where Bonferroni divides alpha by it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from burnish.certification.alpha_ledger import CertLedger, Look, look_alpha
from burnish.certification.budgets import Budgets, BudgetTest, Evidence, all_pass, budget_tests
from burnish.runs.candidates import Candidate

Measure = Callable[[Candidate], Evidence]


@dataclass(frozen=True, slots=True)
class Tested:
    """A candidate with its budget tests; the base model has none, because it lost nothing."""

    candidate: Candidate
    tests: tuple[BudgetTest, ...]
    passed: bool


@dataclass(frozen=True, slots=True)
class Certificate:
    """The tested candidates in order, and the one that is released.

    `released` is None if none passed; then the base model is kept.
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
    """Test candidates in the given order and stop at the first that fails.

    Args:
        order: the safest first, chosen without looking at CERT.
        measure: returns the evidence of one candidate on CERT; called only for tested candidates.
        budgets: what may be lost, and the joint confidence of all looks.
        ledger: records the look; without one this counts as the first look and is not recorded.
        called: the name of the only candidate in sentences, for a comparison of two models.
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
        tested.append(Tested(candidate, tests, all_pass(tests)))
        if ledger is not None:
            ledger.record(look, keys, candidate.key, budgets, all_pass(tests))
        if not all_pass(tests):
            break
    passed = [one.candidate for one in tested if one.passed and one.candidate.scale != 0]
    released = passed[-1] if passed else None
    return Certificate(tuple(tested), released, look, _reasons(tested, look, budgets, called))


def merge_looks(first: Certificate, second: Certificate) -> Certificate:
    """Merge two looks, the first of which released nothing; the reasons report both."""
    start, rest = (
        (second.reasons[:1], second.reasons[1:]) if second.released else ((), second.reasons)
    )
    reasons = (*start, first.reasons[0], *rest)
    return Certificate((*first.tested, *second.tested), second.released, second.look, reasons)


def _reasons(
    tested: Sequence[Tested], look: Look, budgets: Budgets, called: str | None
) -> tuple[str, ...]:
    """Sentences on the last candidate that passed, the one that failed, and the look."""
    last = next((one for one in reversed(tested) if one.passed and one.tests), None)
    failed = next((one for one in tested if not one.passed), None)
    reasons = []
    if last is not None:
        name = called or _name(last.candidate)
        reasons.append(f"{name} stays within every budget: {_words(last.tests)}.")
    if failed is not None:
        failing = [test for test in failed.tests if not test.passed]
        name = called or _name(failed.candidate)
        reasons.append(f"{name} could not be certified within every budget: {_words(failing)}.")
    if last is None and called is None:
        reasons.append(
            "No candidate could be certified within every budget, so the base model is kept."
        )
    return (*reasons, look.words(budgets))


def _name(candidate: Candidate) -> str:
    return candidate.label[0].upper() + candidate.label[1:]


def _words(tests: Sequence[BudgetTest]) -> str:
    return "; ".join(test.words for test in tests)
