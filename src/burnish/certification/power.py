"""What a suite can certify, before anything is trained: the smallest budget, and what less needs.

All is for a model that lost nothing: if even that one passes a budget in fewer than `power` of all
cases, the budget is one that the items cannot certify.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, expm1, log1p, sqrt
from statistics import NormalDist

from scipy.stats import t as student

from burnish.certification.alpha_ledger import look_alpha
from burnish.certification.budgets import Budgets
from burnish.evaluation.statistics import items_needed, smallest_margin

# Share of items on which the base and a model near its budget differ. Over the sections of `core`
# the support-routing demo changed 0.12 with its whole adapter (0.05 of grammar, 0.26 of refusal),
# an adapter of a few steps at half its scale 0.05.
FLIPS = 0.08
# Standard deviation over texts of the tuned model's rise in nats a token. It grows with the rise:
# 0.2 at the demo's full adapter, which raises perplexity by half; less where it rises less.
TEXT_SPREAD = 0.1
POWER = 0.8
_NORMAL = NormalDist()
_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """Items that certify; None for a part that the suite does not have."""

    sections: Mapping[str, int]
    texts: int | None = None
    bias: int | None = None
    refusal: int | None = None


@dataclass(frozen=True, slots=True)
class Power:
    """What the items can certify of one budget, and how many `tighter` would need.

    `smallest` and `tighter` are in the unit of the budget; `smallest` is None where no budget
    could be certified. `needed` counts items a section for the suite mean, else items.
    """

    name: str
    items: int
    budget: float | None
    smallest: float | None
    tighter: float | None
    needed: int | None


def section_budget(
    n: int, flips: float = FLIPS, *, alpha: float = 0.05, power: float = POWER
) -> float | None:
    """Points that `n` yes/no items can certify; None where they certify nothing below 100."""
    found = smallest_margin(n, flips, power, alpha)
    return None if found is None else 100 * found


def suite_budget(
    sections: Mapping[str, int],
    flips: float = FLIPS,
    *,
    alpha: float = 0.05,
    power: float = POWER,
) -> float | None:
    """Points of the suite mean that sections of these many items can certify, or None as above.

    The mean's bound is MOVER's, as in `macro_paired`: the distances from each section's estimate
    to its own Tango bound, squared and summed, over the number of sections. The estimate itself
    varies by the sum of the sections' variances. At power 0.5 a section's smallest margin is the
    distance to its bound, since an estimate of no loss passes in half of all cases.
    """
    if not sections:
        raise ValueError("a suite needs at least one section")
    distances = [smallest_margin(n, flips, 0.5, alpha) for n in sections.values()]
    known = [distance for distance in distances if distance is not None]
    if len(known) < len(distances):
        return None
    bound = sqrt(sum(distance**2 for distance in known))
    spread = sqrt(sum(flips / n for n in sections.values()))
    margin = (bound + _NORMAL.inv_cdf(power) * spread) / len(sections)
    return 100 * margin if margin < 1 else None


def text_budget(
    n: int, spread: float = TEXT_SPREAD, *, alpha: float = 0.05, power: float = POWER
) -> float | None:
    """Percent of perplexity that `n` texts can certify.

    `spread` is the standard deviation of the paired differences in nats a token.
    """
    if n < 2:
        return None
    quantile = float(student.ppf(1 - alpha, n - 1)) + _NORMAL.inv_cdf(power)
    return 100 * expm1(quantile * spread / sqrt(n))


def suite_items(budget: float, sections: int, flips: float = FLIPS, *, alpha: float = 0.05) -> int:
    """Items that each of so many equal sections needs for a budget of the mean, in points."""

    def enough(n: int) -> bool:
        found = suite_budget(dict.fromkeys(map(str, range(sections)), n), flips, alpha=alpha)
        return found is not None and found <= budget

    return _fewest(enough)


def section_items(budget: float, flips: float = FLIPS, *, alpha: float = 0.05) -> int | None:
    """Yes/no items that a budget in points needs."""
    return items_needed(0.0, flips, budget / 100, POWER, alpha)


def text_items(budget: float, spread: float = TEXT_SPREAD, *, alpha: float = 0.05) -> int:
    """Texts that a budget in percent of perplexity needs."""
    quantile = _NORMAL.inv_cdf(1 - alpha) + _NORMAL.inv_cdf(POWER)
    about = ceil((quantile * spread / log1p(budget / 100)) ** 2)

    def enough(n: int) -> bool:
        found = text_budget(n, spread, alpha=alpha)
        return found is not None and found <= budget

    return next(n for n in range(max(2, about), about + 100) if enough(n))


def power_of(
    sizes: Sizes,
    budgets: Budgets,
    flips: float = FLIPS,
    spread: float = TEXT_SPREAD,
    look: int = 1,
) -> list[Power]:
    """The power of a look for each part that the suite has, the mean first.

    A tighter budget is the recipe's where the items cannot certify it, else half of what they can.
    """
    alpha = look_alpha(look, budgets.confidence)
    counts = list(sizes.sections.values())

    def one(name: str, n: int, budget: float | None) -> Power:
        found = section_budget(n, flips, alpha=alpha)
        tight = _tighter(found, budget)
        needed = section_items(tight, flips, alpha=alpha) if tight else None
        return Power(name, n, budget, found, tight, needed)

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
        ("refusing harm", sizes.refusal, budgets.refusal),
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
    """What the suite can certify, the mean first, each with what a tighter budget would need.

    Then a sentence for each budget that is named and that the items cannot certify.
    """
    rows = power_of(sizes, budgets, flips, spread, look)
    said = [_sentence(row, flips, spread) for row in rows]
    return [*said, *_later(look, budgets), *too_tight(rows)]


def power_headline(sizes: Sizes, budgets: Budgets, look: int = 1) -> str:
    """One line: the mean of the suite, and the budgets that cannot be certified."""
    rows = power_of(sizes, budgets, look=look)
    said = _sentence(rows[0], FLIPS, TEXT_SPREAD)
    return " ".join([said, *_later(look, budgets), *too_tight(rows)])


def _later(look: int, budgets: Budgets) -> list[str]:
    """Why a run that inherits looks can certify less."""
    if look == 1:
        return []
    alpha = look_alpha(look, budgets.confidence)
    return [f"That is at look {look} at these items, which may err in {100 * alpha:.2g} % of runs."]


def too_tight(rows: Sequence[Power]) -> list[str]:
    """A sentence for each budget that the items cannot certify."""
    said = []
    for row in rows:
        if row.budget is None or (row.smallest is not None and row.smallest <= row.budget):
            continue
        of = row.name.replace("its ", "the suite's ")
        said.append(
            f"The budget of {row.budget:g} for {of} is tighter than that: even a model that lost "
            f"nothing would fail it in more than {100 * (1 - POWER):.0f} of 100 runs."
        )
    return said


def _sentence(row: Power, flips: float, spread: float) -> str:
    if row.smallest is None:
        return f"{row.items} items cannot certify any budget of {row.name}."
    close = row.budget is not None and row.smallest > row.budget > row.smallest - 0.1
    figure = f"{row.smallest:.2f}" if close else f"{row.smallest:.1f}"
    if row.name == "prose":
        found = f"a rise of {figure} % of perplexity on {row.name} ({row.items} texts"
        given = f"{found}, {spread:g} nats a token between texts"
        unit = "texts"
    else:
        change = "rise" if row.name == "bias" else "fall"
        found = f"a {change} of {figure} points in {row.name} ({row.items} items"
        given = f"{found}, {100 * flips:.0f} % of them changing"
        unit = "items a section" if row.name == "its mean" else "items"
    tail = f"; {row.tighter:.2g} would need about {row.needed} {unit}" if row.needed else ""
    return f"The suite can certify {given}, {100 * POWER:.0f} % power){tail}."


def _tighter(smallest: float | None, budget: float | None) -> float | None:
    if smallest is None:
        return budget
    return budget if budget is not None and budget < smallest else smallest / 2


def _fewest(enough: Callable[[int], bool]) -> int:
    """The smallest number for which `enough` holds, which it does from there on."""
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
