"""The verdict: superiority on the target and non-inferiority of general ability, both at 95%."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import expm1

from burnish.certification.fixed_sequence import Certificate
from burnish.errors import quantity
from burnish.evaluation.statistics import items_needed
from burnish.runs.directory import Decision, LedgerRow, Verdict


@dataclass(frozen=True, slots=True)
class Head:
    """A model with a classification head, which does not generate text.

    `body` is the kind of model below the head. `baseline` is what it is compared with, because a
    newly initialised head has no base model.
    """

    body: str
    baseline: str


def decide(
    ledger: Sequence[LedgerRow],
    budget_points: float,
    head: Head | None = None,
    certificate: Certificate | None = None,
) -> Verdict:
    """Return `release` if both tests pass, `hold` if one clearly fails, else `inconclusive`.

    Each test is one-sided at 5%, or less if several looks at the certification items share it. Both
    must pass (intersection-union test, Berger 1982), so the probability of releasing a model that
    should fail either test is at most 5%. A model with a head has no general ability to lose: the
    target alone decides. A `certificate` replaces the ledger's row on general ability, because it
    covers every budget and the number of looks.
    """
    target = next(row for row in ledger if row.kind == "target")
    general = [row for row in ledger if row.kind == "general"]
    judgements = [_judge_target(target)]
    if certificate is not None:
        judgements.append((_judge_certificate(certificate), certificate.reasons[0]))
    for row in general if certificate is None else ():
        name = f"{row.task} mean" if len(general) > 1 else "suite mean"
        judgements.append(_judge_general(row, budget_points, name))
    reasons = [reason for _, reason in judgements]
    reasons += certificate.reasons[1:] if certificate is not None else ()
    if head is not None:
        reasons += [
            f"The baseline is {head.baseline} because there is no base model with a trained head.",
            f"General ability was not measured: the model is {head.body} with a head and does not "
            "generate text.",
        ]
    elif not general:
        reasons.append(f"General ability was not measured: {_unmeasured_reason(ledger)}.")
    reasons += _exclusions(ledger)
    reasons += _unbudgeted_losses(
        [row for row in ledger if not _has_budget(row, ledger, certificate)]
    )
    missing = [_items_missing(row) for row in general]
    drops = [-100 * row.bound for row in general if row.bound is not None]
    whole = bool(general) or head is not None
    decision = _together([result for result, _ in judgements], measured=whole)
    return Verdict(
        decision,
        tuple(reasons),
        budget=budget_points,
        confidence=certificate.look.confidence if certificate else 0.95,
        certified_target_gain=_certified_gain(target),
        certified_general_drop=max(drops, default=None),
        items_missing=_most(missing) if decision == "inconclusive" else None,
    )


def _unmeasured_reason(ledger: Sequence[LedgerRow]) -> str:
    if any(row.kind == "section" for row in ledger):
        return "every section of the general suite was excluded"
    return "the recipe has no general suite"


def _exclusions(ledger: Sequence[LedgerRow]) -> list[str]:
    """A sentence on the sections that are excluded from the mean, with the reasons."""
    excluded = [f"{row.task} ({row.excluded})" for row in ledger if row.excluded]
    return [f"Excluded from the suite mean: {'; '.join(excluded)}."] if excluded else []


def _judge_certificate(certificate: Certificate) -> Decision:
    if certificate.released is not None:
        return "release"
    tests = [test for candidate in certificate.tested for test in candidate.tests]
    return "hold" if any(test.exceeded for test in tests) else "inconclusive"


def _has_budget(
    row: LedgerRow, ledger: Sequence[LedgerRow], certificate: Certificate | None
) -> bool:
    """Whether a tested budget covers this task and no other.

    The budget of all prose covers each kind of prose that rose by no more than it allows.
    """
    if certificate is None or row.excluded:
        return False
    allowed = {
        test.name: test.budget for candidate in certificate.tested for test in candidate.tests
    }
    if row.kind == "text_loss" and 100 * expm1(row.delta) <= allowed.get("text loss", 0.0):
        return True
    tested = set(allowed)
    together = {"section": True, "text_loss": "text loss" in tested, "bias": "bias" in tested}
    suite = row.task.rpartition(".")[0]
    same = [r for r in ledger if r.kind == row.kind and r.task.rpartition(".")[0] == suite]
    alone = sum(not one.excluded for one in same) == 1
    return row.task in tested or (alone and together.get(row.kind, False))


def _unbudgeted_losses(ledger: Sequence[LedgerRow]) -> list[str]:
    """A sentence on what got significantly worse without a budget: a mean can hide it."""
    other_targets = [row for row in ledger if row.kind == "target" and row.task != ledger[0].task]
    fell = [
        f"{row.task} {_signed(row.delta)} points ({_signed(row.low)} to {_signed(row.high)})"
        for row in [*(row for row in ledger if row.kind == "section"), *other_targets]
        if row.high < 0 and row.metric != "perplexity"
    ]
    fell += [
        f"{row.task} {_signed(row.delta)} points towards stereotypes "
        f"({_signed(row.low)} to {_signed(row.high)})"
        for row in ledger
        if row.kind == "bias" and row.low > 0
    ]
    harder = [
        f"{row.task} {row.delta:+z.3f} nats per token ({row.low:+z.3f} to {row.high:+z.3f})"
        for row in ledger
        if row.kind == "text_loss" and row.low > 0
    ]
    return (
        [f"Worse, but not covered by a budget: {'; '.join(fell + harder)}."]
        if fell + harder
        else []
    )


def _together(results: Sequence[Decision], *, measured: bool) -> Decision:
    if "hold" in results:
        return "hold"
    return "release" if measured and all(r == "release" for r in results) else "inconclusive"


def _judge_target(row: LedgerRow) -> tuple[Decision, str]:
    change = _target_change(row)
    if row.passed:
        return "release", f"The gain is significant: {change}."
    if (row.low >= 0) if row.metric == "perplexity" else (row.high <= 0):
        return "hold", f"There is no gain: {change}."
    return "inconclusive", f"The gain is not significant: {change}; add test rows to decide."


def _target_change(row: LedgerRow) -> str:
    if row.metric == "perplexity":
        return (
            f"perplexity {row.base:.2f} -> {row.tuned:.2f} ({row.delta:+z.2f}, 95% interval "
            f"{row.low:+z.2f} to {row.high:+z.2f}, n = {quantity(row.n, 'text')})"
        )
    return (
        f"target {row.metric} {_percent(row.base)} -> {_percent(row.tuned)} "
        f"({_signed(row.delta)} points, 95% interval {_signed(row.low)} to {_signed(row.high)}, "
        f"n = {row.n})"
    )


def _judge_general(row: LedgerRow, budget: float, name: str) -> tuple[Decision, str]:
    drop = (
        f"{name} {_percent(row.base)} -> {_percent(row.tuned)} ({_signed(row.delta)} points, "
        f"95% interval {_signed(row.low)} to {_signed(row.high)}, n = {row.n}, "
        f"{row.lost} lost, {row.gained} gained)"
    )
    points = quantity(budget, "point")
    if row.passed:
        return "release", f"General ability stayed within the budget of {points}: {drop}."
    if row.high < -budget / 100:
        return "hold", f"General ability fell by more than {points}: {drop}."
    need = _items_missing(row)
    tail = "the drop itself reaches the budget"
    if need:
        tail = f"add about {quantity(need, 'item')} to decide"
    return "inconclusive", f"A drop beyond {points} cannot be ruled out: {drop}; {tail}."


def _items_missing(row: LedgerRow) -> int | None:
    """Further items needed for 80% power if the change and the flips are as measured."""
    assert row.lost is not None
    assert row.gained is not None
    assert row.budget is not None
    # A mean over sections may move by more than the share of all items that flipped.
    flips = max(max(row.lost + row.gained, 1) / row.n, abs(row.delta))
    needed = items_needed(row.delta, flips, row.budget)
    return max(0, needed - row.n) if needed is not None else None


def _most(missing: Sequence[int | None]) -> int | None:
    """The largest count; None if one is unknown or nothing general was measured."""
    known = [items for items in missing if items is not None]
    return max(known) if known and len(known) == len(missing) else None


def _certified_gain(row: LedgerRow) -> float | None:
    """The certified gain in points; None for perplexity, which has none."""
    return _points(row.bound) if row.passed and row.metric != "perplexity" else None


def _points(value: float | None) -> float | None:
    return None if value is None else value * 100


def _percent(value: float) -> str:
    return f"{value * 100:.1f}%"


def _signed(value: float) -> str:
    return f"{value * 100:+z.1f}"
