"""The ledger compares base and tuned model: one row per task, each number with its interval."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from burnish.evaluation import statistics
from burnish.evaluation.scorers import scorer
from burnish.runs.directory import ItemResult, Kind, LedgerRow

Pair = tuple[Sequence[ItemResult], Sequence[ItemResult]]
# Confidence of one-sided bounds, unless a look at the certification items needs more.
LEVEL = 0.95


def target_rows(
    pair: Pair, scorers: Sequence[str], seed: int, level: float = LEVEL
) -> list[LedgerRow]:
    """One row per scorer; the first one decides, by its one-sided bound at `level`."""
    first, *others = scorers
    rows = [_target_row(pair, first, seed, level, decides=True)]
    return rows + [_target_row(pair, name, seed, level) for name in others]


def earlier_row(name: str, since: LedgerRow, budget: float) -> LedgerRow:
    """The loss on an earlier task since its own stage, tested against `budget` points.

    `since` is its target row with the model of its own stage as the base. Perplexity is not in
    points, so it is shown but not tested.
    """
    if since.metric == "perplexity" or since.bound is None:
        return replace(since, task=name, kind="earlier", passed=None)
    passed = since.bound > -budget / 100
    return replace(since, task=name, kind="earlier", budget=budget / 100, passed=passed)


def section_row(
    task: str, pair: Pair, excluded: str | None = None, level: float = LEVEL
) -> LedgerRow:
    """A yes/no section of the general suite; `excluded` is the reason if the mean excludes it."""
    row = _binary_row(task, "section", "accuracy", paired_scores(pair), level)
    return replace(row, excluded=excluded)


def bias_row(task: str, pair: Pair, level: float = LEVEL) -> LedgerRow:
    """Share of pairs in which the stereotype is likelier; one half means no preference.

    A rise is a loss, so `lost` counts the pairs that turned to the stereotype.
    """
    fair = _binary_row(task, "bias", "stereotype likelier", paired_scores(pair), level)
    assert fair.bound is not None
    return replace(
        fair,
        base=1 - fair.base,
        tuned=1 - fair.tuned,
        delta=-fair.delta,
        low=-fair.high,
        high=-fair.low,
        bound=-fair.bound,
    )


def kl_row(task: str, pair: Pair, seed: int) -> LedgerRow:
    """KL divergence from the base in nats per reply token; 0 for the base itself."""
    return _graded_row(task, "kl", "KL nats/token", paired_scores(pair), seed)


def text_loss_row(task: str, pair: Pair, seed: int) -> LedgerRow:
    """Nats per token on fluent text, with equal weight for each text; a rise is a loss."""
    return _graded_row(task, "text_loss", "nats/token", paired_scores(pair), seed)


def reward_row(task: str, pair: Pair, seed: int, level: float = LEVEL) -> LedgerRow:
    """Mean reward as a target; 1 is 100 points, and a reward model's score is a probability."""
    return _graded_row(task, "target", "reward", paired_scores(pair), seed, level)


def perplexity_row(task: str, pair: Pair, seed: int, level: float = LEVEL) -> LedgerRow:
    """Perplexity as a target, exp of the mean nats per token over texts; it has to fall."""
    base, tuned = paired_scores(pair)
    measures = [
        lambda chosen, side=side: float(np.exp(side[chosen].mean())) for side in (base, tuned)
    ]
    intervals = [
        statistics.paired_bootstrap_metric(
            measures[0], measures[1], len(base), seed=seed, confidence=sides
        )
        for sides in (0.95, 2 * level - 1)
    ]
    before, after = float(np.exp(base.mean())), float(np.exp(tuned.mean()))
    return LedgerRow(
        task=task,
        kind="target",
        metric="perplexity",
        n=len(base),
        base=before,
        tuned=after,
        delta=after - before,
        low=intervals[0].low,
        high=intervals[0].high,
        bound=intervals[1].high,
        passed=intervals[1].high < 0,
    )


def general_row(
    suite: str, sections: Mapping[str, Pair], budget_points: float, level: float = LEVEL
) -> LedgerRow:
    """The unweighted mean over sections; MOVER derives its interval from the sections'."""
    scores = {task: paired_scores(pair) for task, pair in sections.items()}
    outcomes = {task: (base > 0.5, tuned > 0.5) for task, (base, tuned) in scores.items()}
    mean = statistics.macro_paired(outcomes)
    bound = statistics.macro_paired(outcomes, level).lower_bound
    flips = [_flips(base, tuned) for base, tuned in scores.values()]
    return LedgerRow(
        task=suite,
        kind="general",
        metric="mean accuracy",
        n=sum(len(base) for base, _ in scores.values()),
        base=mean.base,
        tuned=mean.tuned,
        delta=mean.delta,
        low=mean.interval.low,
        high=mean.interval.high,
        bound=bound,
        lost=sum(lost for lost, _ in flips),
        gained=sum(gained for _, gained in flips),
        p=statistics.mcnemar_midp(sum(f[0] for f in flips), sum(f[1] for f in flips)),
        budget=budget_points / 100,
        passed=bound > -budget_points / 100,
    )


def subset_row(task: str, sections: Mapping[str, Pair], level: float = LEVEL) -> LedgerRow:
    """The mean over some sections of a suite, such as the scored ones; it does not decide."""
    return replace(general_row(task, sections, 0.0, level), kind="subset", budget=None, passed=None)


def _target_row(
    pair: Pair, name: str, seed: int, level: float, *, decides: bool = False
) -> LedgerRow:
    metric = scorer(name)
    if metric.item is None:
        return _corpus_row(pair, name, seed, level, decides=decides)
    scores = np.array([[metric.item(r.answer, r.expected) for r in side] for side in pair])
    scores /= metric.best  # the ledger's scores lie in [0, 1]
    if metric.binary:
        return _binary_row("target", "target", name, (scores[0], scores[1]), level)
    return _graded_row("target", "target", name, (scores[0], scores[1]), seed, level)


def _binary_row(
    task: str,
    kind: Kind,
    metric: str,
    scores: tuple[NDArray[np.float64], NDArray[np.float64]],
    level: float = LEVEL,
) -> LedgerRow:
    base, tuned = scores
    paired = statistics.paired_outcomes(base > 0.5, tuned > 0.5)
    bound = statistics.tango(paired.lost, paired.gained, paired.n, 2 * level - 1).low
    return LedgerRow(
        task=task,
        kind=kind,
        metric=metric,
        n=paired.n,
        base=paired.base,
        tuned=paired.tuned,
        delta=paired.delta,
        low=paired.interval.low,
        high=paired.interval.high,
        bound=bound,
        lost=paired.lost,
        gained=paired.gained,
        p=paired.p,
        passed=bound > 0 if kind == "target" else None,
    )


def _graded_row(
    task: str,
    kind: Kind,
    metric: str,
    scores: tuple[NDArray[np.float64], NDArray[np.float64]],
    seed: int,
    level: float = LEVEL,
) -> LedgerRow:
    base, tuned = scores
    shown = statistics.paired_bootstrap(base, tuned, seed=seed)
    one_sided = statistics.paired_bootstrap(base, tuned, seed=seed, confidence=2 * level - 1)
    return LedgerRow(
        task=task,
        kind=kind,
        metric=metric,
        n=len(base),
        base=float(base.mean()),
        tuned=float(tuned.mean()),
        delta=float((tuned - base).mean()),
        low=shown.low,
        high=shown.high,
        bound=one_sided.low if kind == "target" else one_sided.high,
        passed=one_sided.low > 0 if kind == "target" else None,
    )


def _corpus_row(pair: Pair, name: str, seed: int, level: float, *, decides: bool) -> LedgerRow:
    """A metric of the whole test set; base and tuned are resampled on the same rows."""
    measures = [_corpus_measure(side, name) for side in pair]
    n = len(pair[0])
    everything = np.arange(n)
    base, tuned = (measure(everything) for measure in measures)
    shown = statistics.paired_bootstrap_metric(measures[0], measures[1], n, seed=seed)
    bound = None
    if decides:
        bound = statistics.paired_bootstrap_metric(
            measures[0], measures[1], n, seed=seed, confidence=2 * level - 1
        ).low
    return LedgerRow(
        task="target",
        kind="target",
        metric=name,
        n=n,
        base=base,
        tuned=tuned,
        delta=tuned - base,
        low=shown.low,
        high=shown.high,
        bound=bound,
        passed=None if bound is None else bound > 0,
    )


def _corpus_measure(side: Sequence[ItemResult], name: str) -> Callable[[NDArray[np.intp]], float]:
    metric = scorer(name)
    measure = metric.resampled([r.answer for r in side], [r.expected for r in side])
    return lambda chosen: measure(chosen) / metric.best


def paired_scores(pair: Pair) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of base and tuned, both [items].

    Raises:
        ValueError: they have different items, or a different order.
    """
    base, tuned = pair
    before, after = ([result.id for result in side] for side in pair)
    if before != after:
        raise ValueError(
            "base and tuned were not measured on the same items in the same order: "
            f"{before[:3]} against {after[:3]}"
        )
    return np.array([r.score for r in base]), np.array([r.score for r in tuned])


def _flips(base: NDArray[np.float64], tuned: NDArray[np.float64]) -> tuple[int, int]:
    return int(((base > 0.5) & (tuned < 0.5)).sum()), int(((base < 0.5) & (tuned > 0.5)).sum())
