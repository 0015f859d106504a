"""Power analysis before training: the smallest budget that a suite can certify.

Everything is computed for a model that lost nothing: if even that model passes with a probability
below POWER, the items cannot certify the budget.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, expm1, log1p, sqrt
from statistics import NormalDist

from scipy.stats import t as student

from burnish.certification.alpha_ledger import look_alpha
from burnish.certification.budgets import Budgets
from burnish.errors import quantity
from burnish.evaluation.statistics import items_needed, smallest_margin

# Share of items on which the base and a model near its budget differ. Over the sections of `core`
# the support-routing demo changed 0.12 with its full adapter (0.05 in grammar, 0.26 in refusal),
# and 0.05 with an adapter of a few steps at half scale.
FLIPS = 0.08
# Standard deviation over texts of the tuned model's rise in nats per token. It grows with the rise:
# 0.2 for the demo's full adapter, which raises perplexity by half, and less for smaller rises.
TEXT_SPREAD = 0.1
POWER = 0.8
_NORMAL = NormalDist()
_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of certification items; None for a part that the suite does not have."""

    sections: Mapping[str, int]
    texts: int | None = None
    bias: int | None = None
    refusal: int | None = None


@dataclass(frozen=True, slots=True)
class Power:
    """The smallest certifiable budget of one quantity, and the items that `tighter` needs.

    `smallest` and `tighter` are in the unit of the budget; `smallest` is None if no budget can be
    certified. `needed` counts items per section for the suite mean, and items otherwise.
    """

    name: str
    items: int
    budget: float | None
    smallest: float | None
    tighter: float | None
    needed: int | None


def section_budget(n: int, flips: float = FLIPS, *, alpha: float = 0.05) -> float | None:
    """Smallest budget in points that `n` yes/no items can certify; None if none is below 100."""
    margin = smallest_margin(n, flips, POWER, alpha)
    return None if margin is None else 100 * margin


def suite_budget(
    sections: Mapping[str, int], flips: float = FLIPS, *, alpha: float = 0.05
) -> float | None:
    """Smallest budget of the suite mean in points for sections of these sizes; None if none.

    The bound of the mean is MOVER's, as in `macro_paired`: the root of the summed squared distances
    from each section's estimate to its Tango bound, divided by the number of sections. The variance
    of the estimate is the sum of the sections' variances. At power 0.5 a section's smallest margin
    is the distance to its bound, since an estimate of no loss passes in half of all cases.
    """
    if not sections:
        raise ValueError("a suite needs at least one section")
    distances = [smallest_margin(n, flips, 0.5, alpha) for n in sections.values()]
    known = [distance for distance in distances if distance is not None]
    if len(known) < len(distances):
        return None
    bound = sqrt(sum(distance**2 for distance in known))
    spread = sqrt(sum(flips / n for n in sections.values()))
    margin = (bound + _NORMAL.inv_cdf(POWER) * spread) / len(sections)
    return 100 * margin if margin < 1 else None


def text_budget(n: int, spread: float = TEXT_SPREAD, *, alpha: float = 0.05) -> float | None:
    """Smallest budget in percent of perplexity that `n` texts can certify.

    `spread` is the standard deviation of the paired differences in nats per token.
    """
    if n < 2:
        return None
    quantile = float(student.ppf(1 - alpha, n - 1)) + _NORMAL.inv_cdf(POWER)
    return 100 * expm1(quantile * spread / sqrt(n))


def suite_items(budget: float, sections: int, flips: float = FLIPS, *, alpha: float = 0.05) -> int:
    """Items that each of `sections` equal sections needs for a budget of the mean in points."""

    def enough(n: int) -> bool:
        smallest = suite_budget(dict.fromkeys(map(str, range(sections)), n), flips, alpha=alpha)
        return smallest is not None and smallest <= budget

    return _fewest(enough)


def section_items(budget: float, flips: float = FLIPS, *, alpha: float = 0.05) -> int | None:
    """Yes/no items needed for a budget in points; None if no number is enough."""
    return items_needed(0.0, flips, budget / 100, POWER, alpha)


def text_items(budget: float, spread: float = TEXT_SPREAD, *, alpha: float = 0.05) -> int:
    """Texts needed for a budget in percent of perplexity."""
    quantile = _NORMAL.inv_cdf(1 - alpha) + _NORMAL.inv_cdf(POWER)
    about = ceil((quantile * spread / log1p(budget / 100)) ** 2)

    def enough(n: int) -> bool:
        smallest = text_budget(n, spread, alpha=alpha)
        return smallest is not None and smallest <= budget

    return next(n for n in range(max(2, about), about + 100) if enough(n))


def power_of(
    sizes: Sizes,
    budgets: Budgets,
    flips: float = FLIPS,
    spread: float = TEXT_SPREAD,
    look: int = 1,
) -> list[Power]:
    """What a look can certify for each part of the suite, the mean first.

    `tighter` is the recipe's budget if the items cannot certify it, else half the smallest budget.
    """
    alpha = look_alpha(look, budgets.confidence)
    counts = list(sizes.sections.values())

    def one(name: str, n: int, budget: float | None) -> Power:
        smallest = section_budget(n, flips, alpha=alpha)
        tight = _tighter(smallest, budget)
        needed = section_items(tight, flips, alpha=alpha) if tight else None
        return Power(name, n, budget, smallest, tight, needed)

    mean = suite_budget(sizes.sections, flips, alpha=alpha)
    tight = _tighter(mean, budgets.general)
    needed = suite_items(tight, len(counts), flips, alpha=alpha) if tight else None
    rows = [Power("its mean", sum(counts), budgets.general, mean, tight, needed)]
    if budgets.section is not None:
        rows.append(one("its smallest section", min(counts), budgets.section))
    if sizes.texts is not None:
        rise = text_budget(sizes.texts, spread, alpha=alpha)
        tight = _tighter(rise, budgets.text_loss)
        needed = text_items(tight, spread, alpha=alpha) if tight else None
        rows.append(Power("prose", sizes.texts, budgets.text_loss, rise, tight, needed))
    for name, n, budget in (
        ("bias", sizes.bias, budgets.bias),
        ("refusing harmful requests", sizes.refusal, budgets.refusal),
    ):
        if n is not None:
            rows.append(one(name, n, budget))
    return rows


def power_sentences(
    sizes: Sizes,
    budgets: Budgets,
    flips: float = FLIPS,
    spread: float = TEXT_SPREAD,
    look: int = 1,
) -> list[str]:
    """Sentences on what the suite can certify, the mean first, and on what a tighter budget needs.

    Then a sentence for each budget of the recipe that the items cannot certify.
    """
    rows = power_of(sizes, budgets, flips, spread, look)
    sentences = [_sentence(row, flips, spread) for row in rows]
    return [*sentences, *_later(look, budgets), *too_tight(rows)]


def power_headline(sizes: Sizes, budgets: Budgets, look: int = 1) -> str:
    """One line on the suite mean and on the budgets that cannot be certified."""
    rows = power_of(sizes, budgets, look=look)
    first = _sentence(rows[0], FLIPS, TEXT_SPREAD)
    return " ".join([first, *_later(look, budgets), *too_tight(rows)])


def _later(look: int, budgets: Budgets) -> list[str]:
    """A sentence on why a run that inherits looks can certify less; none for the first look."""
    if look == 1:
        return []
    alpha = look_alpha(look, budgets.confidence)
    return [
        f"This holds for look {look} at these items, whose error rate is limited to "
        f"{100 * alpha:.2g}%."
    ]


def too_tight(rows: Sequence[Power]) -> list[str]:
    """A sentence for each budget that the items cannot certify."""
    sentences = []
    for row in rows:
        if row.budget is None or (row.smallest is not None and row.smallest <= row.budget):
            continue
        name = row.name.replace("its ", "the suite's ")
        sentences.append(
            f"The budget of {row.budget:g} for {name} is too tight for that: even a model that "
            f"lost nothing would fail in more than {100 * (1 - POWER):.0f}% of runs."
        )
    return sentences


def _sentence(row: Power, flips: float, spread: float) -> str:
    if row.smallest is None:
        items = quantity(row.items, "item")
        return f"The suite cannot certify any budget for {row.name} ({items})."
    close = row.budget is not None and row.smallest > row.budget > row.smallest - 0.1
    figure = f"{row.smallest:.2f}" if close else f"{row.smallest:.1f}"
    if row.name == "prose":
        change = f"a rise of {figure}% in perplexity on {row.name}"
        basis = f"{row.items:,} texts, standard deviation {spread:g} nats per token"
        unit = "texts"
    else:
        direction = "rise" if row.name == "bias" else "fall"
        change = f"a {direction} of {figure} points in {row.name}"
        basis = f"{row.items:,} items, of which {100 * flips:.0f}% change"
        unit = "items per section" if row.name == "its mean" else "items"
    tail = (
        f"; a budget of {row.tighter:.2g} would need about {row.needed:,} {unit}"
        if row.needed
        else ""
    )
    power = f"{100 * POWER:.0f}% power"
    return f"The smallest budget that the suite can certify is {change} ({basis}, {power}){tail}."


def _tighter(smallest: float | None, budget: float | None) -> float | None:
    if smallest is None:
        return budget
    return budget if budget is not None and budget < smallest else smallest / 2


def _fewest(enough: Callable[[int], bool]) -> int:
    """The smallest number for which the monotone condition `enough` holds."""
    high = 1
    while not enough(high):
        high *= 2
        if high > _MOST:
            return high
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
