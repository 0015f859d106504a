"""The decision: superiority on the target, non-inferiority of general ability, both at 95 %."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import expm1

from burnish.certification.fixed_sequence import Certificate
from burnish.evaluation.statistics import items_needed
from burnish.runs.directory import Decision, LedgerRow, Verdict


@dataclass(frozen=True, slots=True)
class Head:
    """A model that labels and writes nothing: `body` is an encoder or a decoder.

    `baseline` says what it is compared with, since a head that was made afresh has no base.
    """

    body: str
    baseline: str


def decide(
    ledger: Sequence[LedgerRow],
    budget_points: float,
    head: Head | None = None,
    certificate: Certificate | None = None,
) -> Verdict:
    """`release` when both tests pass, `hold` when one surely fails, else `inconclusive`.

    Each test is one-sided at 5 %, or less where looks at the certifying items share it. Both must
    pass (intersection-union test, Berger 1982), so the chance of releasing a model that fails
    either stays at most 5 %. A model with a head has no general ability that could be lost: there
    the target alone decides. A `certificate` judges general ability in place of the ledger's row:
    it knows every budget and how many looks were taken.
    """
    target = next(row for row in ledger if row.kind == "target")
    general = [row for row in ledger if row.kind == "general"]
    judged = [_judge_target(target)]
    if certificate is not None:
        judged.append((_judge_certificate(certificate), certificate.reasons[0]))
    for row in general if certificate is None else ():
        name = f"{row.task} mean" if len(general) > 1 else "suite mean"
        judged.append(_judge_general(row, budget_points, name))
    reasons = [reason for _, reason in judged]
    reasons += certificate.reasons[1:] if certificate is not None else ()
    if head is not None:
        reasons += [
            f"Base is {head.baseline} since a fresh head has learnt nothing to compare with.",
            f"General ability was not measured: the model is {head.body} with a head and writes no "
            "text, so it has none to lose.",
        ]
    elif not general:
        reasons.append(f"General ability was not measured: {_why_not(ledger)}.")
    reasons += _left_out(ledger)
    reasons += _noticed([row for row in ledger if not _is_named(row, ledger, certificate)])
    missing = [_items_missing(row) for row in general]
    drops = [-100 * row.bound for row in general if row.bound is not None]
    whole = bool(general) or head is not None
    decision = _together([result for result, _ in judged], measured=whole)
    return Verdict(
        decision,
        tuple(reasons),
        budget=budget_points,
        confidence=certificate.look.confidence if certificate else 0.95,
        certified_target_gain=_certified_gain(target),
        certified_general_drop=max(drops, default=None),
        items_missing=_most(missing) if decision == "inconclusive" else None,
    )


def _why_not(ledger: Sequence[LedgerRow]) -> str:
    if any(row.kind == "section" for row in ledger):
        return "every section of the general suite is left out"
    return "the recipe names no general suite"


def _left_out(ledger: Sequence[LedgerRow]) -> list[str]:
    """Sections that are no part of the mean, by name."""
    why = [f"{row.task} ({row.excluded})" for row in ledger if row.excluded]
    return [f"Left out of the suite mean: {'; '.join(why)}."] if why else []


def _judge_certificate(certificate: Certificate) -> Decision:
    if certificate.released is not None:
        return "release"
    broken = any(test.broken for found in certificate.tested for test in found.tests)
    return "hold" if broken else "inconclusive"


def _is_named(row: LedgerRow, ledger: Sequence[LedgerRow], certificate: Certificate | None) -> bool:
    """Whether a budget that was tested is about this task, and about no other beside it.

    The budget of all prose is about each kind that rose by no more than it allows.
    """
    if certificate is None or row.excluded:
        return False
    allowed = {test.name: test.budget for found in certificate.tested for test in found.tests}
    if row.kind == "text_loss" and 100 * expm1(row.delta) <= allowed.get("text loss", 0.0):
        return True
    tested = set(allowed)
    together = {"section": True, "text_loss": "text loss" in tested, "bias": "bias" in tested}
    suite = row.task.rpartition(".")[0]
    same = [r for r in ledger if r.kind == row.kind and r.task.rpartition(".")[0] == suite]
    alone = sum(not one.excluded for one in same) == 1
    return row.task in tested or (alone and together.get(row.kind, False))


def _noticed(ledger: Sequence[LedgerRow]) -> list[str]:
    """What fell beyond its interval though no budget names it: a mean can hide it."""
    beside = [row for row in ledger if row.kind == "target" and row.task != ledger[0].task]
    fell = [
        f"{row.task} {_signed(row.delta)} points ({_signed(row.low)} to {_signed(row.high)})"
        for row in [*(row for row in ledger if row.kind == "section"), *beside]
        if row.high < 0 and row.metric != "perplexity"
    ]
    fell += [
        f"{row.task} {_signed(row.delta)} points of stereotypes preferred "
        f"({_signed(row.low)} to {_signed(row.high)})"
        for row in ledger
        if row.kind == "bias" and row.low > 0
    ]
    harder = [
        f"{row.task} {row.delta:+z.3f} nats a token ({row.low:+z.3f} to {row.high:+z.3f})"
        for row in ledger
        if row.kind == "text_loss" and row.low > 0
    ]
    return [f"Worse, outside the budget: {'; '.join(fell + harder)}."] if fell + harder else []


def _together(results: Sequence[Decision], *, measured: bool) -> Decision:
    if "hold" in results:
        return "hold"
    return "release" if measured and all(r == "release" for r in results) else "inconclusive"


def _judge_target(row: LedgerRow) -> tuple[Decision, str]:
    change = _target_change(row)
    if row.passed:
        return "release", f"Better at its task: {change}."
    if (row.low >= 0) if row.metric == "perplexity" else (row.high <= 0):
        return "hold", f"No better at its task: {change}."
    return "inconclusive", f"A gain is not shown: {change}; more test rows would tell."


def _target_change(row: LedgerRow) -> str:
    if row.metric == "perplexity":
        return (
            f"perplexity {row.base:.2f} -> {row.tuned:.2f} ({row.delta:+z.2f}, 95 % interval "
            f"{row.low:+z.2f} to {row.high:+z.2f}, n = {row.n} texts)"
        )
    return (
        f"target {row.metric} {_percent(row.base)} -> {_percent(row.tuned)} "
        f"({_signed(row.delta)} points, 95 % interval {_signed(row.low)} to {_signed(row.high)}, "
        f"n = {row.n})"
    )


def _judge_general(row: LedgerRow, budget: float, name: str) -> tuple[Decision, str]:
    drop = (
        f"{name} {_percent(row.base)} -> {_percent(row.tuned)} ({_signed(row.delta)} points, "
        f"95 % interval {_signed(row.low)} to {_signed(row.high)}, n = {row.n}, "
        f"{row.lost} lost, {row.gained} gained)"
    )
    if row.passed:
        return "release", f"General ability is kept within {budget:g} points: {drop}."
    if row.high < -budget / 100:
        return "hold", f"General ability fell by more than {budget:g} points: {drop}."
    need = _items_missing(row)
    tail = f"about {need} more items would tell" if need else "the drop itself is at the budget"
    return "inconclusive", f"A drop beyond {budget:g} points cannot be ruled out: {drop}; {tail}."


def _items_missing(row: LedgerRow) -> int | None:
    """Items that 80 % power would still need, were the change and the flips as measured."""
    assert row.lost is not None
    assert row.gained is not None
    assert row.budget is not None
    # A mean over sections may move by more than the share of all items that flipped.
    flips = max(max(row.lost + row.gained, 1) / row.n, abs(row.delta))
    needed = items_needed(row.delta, flips, row.budget)
    return max(0, needed - row.n) if needed is not None else None


def _most(missing: Sequence[int | None]) -> int | None:
    """None where no number of items would do, or nothing general was measured."""
    known = [items for items in missing if items is not None]
    return max(known) if known and len(known) == len(missing) else None


def _certified_gain(row: LedgerRow) -> float | None:
    """Points; perplexity has no points."""
    return _points(row.bound) if row.passed and row.metric != "perplexity" else None


def _points(value: float | None) -> float | None:
    return None if value is None else value * 100


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %"


def _signed(value: float) -> str:
    return f"{value * 100:+z.1f}"
