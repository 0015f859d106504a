"""Chooses the candidates to test on CERT and their order, from PROBE and validation alone."""

from collections.abc import Sequence

from scipy.optimize import isotonic_regression

from burnish.certification.budgets import Budgets
from burnish.certification.forecast import Forecast
from burnish.runs.candidates import Candidate as Candidate
from burnish.runs.candidates import Frontier

# Each further candidate has to gain this share of the largest gain more than the previous one.
_MATTERS = 0.03


def risk(candidate: Candidate, budgets: Budgets) -> float | None:
    """The largest share used of any budget; None if the suite was not measured on PROBE.

    The upper end of the drop's interval counts: of two equal drops, the one with more flips is less
    likely to pass. Sections, bias and refusal have too few items on PROBE to order by.
    """
    if candidate.drop is None:
        return None
    drop = candidate.drop if candidate.drop_range is None else candidate.drop_range[1]
    shares = [drop / budgets.general]
    if budgets.text_loss is not None and candidate.text_loss is not None:
        shares.append(candidate.text_loss / budgets.text_loss)
    return max(shares)


def smoothed_risks(candidates: Sequence[Candidate], budgets: Budgets) -> dict[str, float]:
    """The risk of each candidate measured on PROBE, by its key.

    A smaller scale of the same weights does not forget more, but with PROBE's error it may seem to.
    Then these candidates share the mean of their risks (isotonic regression along the scale;
    Barlow et al. 1972, Statistical Inference under Order Restrictions).
    """
    adapters: dict[tuple[str, float], dict[str, tuple[float, float]]] = {}
    for one in candidates:
        if (own := risk(one, budgets)) is not None:
            adapters.setdefault((one.weights, one.slope), {})[one.key] = one.scale, own
    smoothed: dict[str, float] = {}
    for known in adapters.values():
        keys = sorted(known, key=lambda key: known[key][0])
        risks = isotonic_regression([known[key][1] for key in keys]).x.tolist()
        smoothed |= dict(zip(keys, risks, strict=True))
    return smoothed


def frontier(candidates: Sequence[Candidate], budgets: Budgets) -> list[Candidate]:
    """The Pareto frontier of gain and risk, safest first.

    The base model gains nothing without risk, so every candidate on the frontier has a gain. Of
    candidates that are equal in both, the first one counts.
    """
    risks = smoothed_risks(candidates, budgets)
    known = [(risks.get(c.key), c.worth, c) for c in candidates]
    rows = [(r, c.scale, g, c) for r, g, c in known if r is not None and g is not None and g > 0]
    # Of scales with the same risk the smaller is safer. The sort is stable: the first of equals
    # stays first.
    rows.sort(key=lambda row: (row[0], row[1], -row[2]))
    best, points = 0.0, []
    for _, _, gain, candidate in rows:
        if gain > best:
            points.append(candidate)
            best = gain
    return points


def order_of_testing(
    candidates: Sequence[Candidate], forecast: Forecast, matters: float = _MATTERS
) -> list[Candidate]:
    """The order of testing: the thinned frontier of the attempt with the largest expected gain.

    Testing ends at the first failure. Within one attempt that costs little: if the safer scale
    fails, the riskier ones would too. A weak candidate of another attempt says nothing about a
    healed one, so placing it first would only add a chance to fail.
    """
    if not 0 <= matters <= 1:
        raise ValueError(
            f"matters is {matters}, but it has to be a share of the largest gain, from 0 to 1"
        )
    attempts = dict.fromkeys(one.attempt for one in candidates)
    orders = [
        _thinned([one for one in candidates if one.attempt == attempt], forecast.budgets, matters)
        for attempt in attempts
    ]
    return max(filter(None, orders), key=forecast.expected_gain, default=[])


def _thinned(candidates: Sequence[Candidate], budgets: Budgets, matters: float) -> list[Candidate]:
    """The frontier from the safest to the riskiest candidate, without negligible steps.

    Gain rises with risk along the frontier. Of the candidates within one step of gain (`matters`
    times the largest gain), only the safest is tested: the others would need a measurement on CERT
    for a negligible gain. Steps are counted down from the largest gain, so that the step of the
    best candidate is always tested.
    """
    points = frontier(candidates, budgets)
    if not points:
        return []
    greatest = points[-1].worth or 0.0
    thinned: list[Candidate] = []
    last: int | None = None
    for point in points:
        gain = point.worth or 0.0
        if matters == 0:
            thinned.append(point)
            continue
        step = int((greatest - gain) / (matters * greatest) + 1e-9)
        if step != last:
            thinned.append(point)
            last = step
    return thinned


def as_frontier(
    candidates: Sequence[Candidate], order: Sequence[Candidate], released: Candidate | None
) -> Frontier:
    """The content of `frontier.json`: candidates, order of testing, released candidate."""
    indices = {candidate.key: index for index, candidate in enumerate(candidates)}
    return Frontier(
        tuple(candidates),
        tuple(indices[candidate.key] for candidate in order),
        indices[released.key] if released is not None else None,
    )
