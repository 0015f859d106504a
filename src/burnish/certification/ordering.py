"""Which candidates are tested on CERT, and in which order: from PROBE and validation alone."""

from collections.abc import Sequence

from scipy.optimize import isotonic_regression

from burnish.certification.budgets import Budgets
from burnish.certification.forecast import Forecast
from burnish.runs.candidates import Candidate as Candidate
from burnish.runs.candidates import Frontier

# A next candidate has to gain this share of the greatest gain more than the one before it.
_MATTERS = 0.03


def risk(candidate: Candidate, budgets: Budgets) -> float | None:
    """The share that is used of the budget which is used most; None where PROBE was not asked.

    Of the drop the high end of the interval counts: of two equal drops the one with more flips is
    less sure to pass. Sections, bias and refusal have too few items on PROBE to order by.
    """
    if candidate.drop is None:
        return None
    drop = candidate.drop if candidate.drop_range is None else candidate.drop_range[1]
    shares = [drop / budgets.general]
    if budgets.text_loss is not None and candidate.text_loss is not None:
        shares.append(candidate.text_loss / budgets.text_loss)
    return max(shares)


def smoothed_risks(candidates: Sequence[Candidate], budgets: Budgets) -> dict[str, float]:
    """Each candidate's risk by its key, of those that PROBE was asked about.

    A smaller scale of the same weights forgets no more, but PROBE's error may say that it does:
    then all in question have the mean of their risks (isotonic regression along the scale;
    Barlow et al. 1972, Statistical Inference under Order Restrictions).
    """
    adapters: dict[tuple[str, float], dict[str, tuple[float, float]]] = {}
    for one in candidates:
        if (own := risk(one, budgets)) is not None:
            adapters.setdefault((one.weights, one.slope), {})[one.key] = one.scale, own
    found: dict[str, float] = {}
    for known in adapters.values():
        keys = sorted(known, key=lambda key: known[key][0])
        risks = isotonic_regression([known[key][1] for key in keys]).x.tolist()
        found |= dict(zip(keys, risks, strict=True))
    return found


def frontier(candidates: Sequence[Candidate], budgets: Budgets) -> list[Candidate]:
    """Candidates that gain, and that no other one beats in gain without more risk; safest first.

    The base model gains nothing, so a candidate without a gain is beaten by it. Of candidates
    that are equal in both the first one stands.
    """
    risks = smoothed_risks(candidates, budgets)
    known = [(risks.get(c.key), c.worth, c) for c in candidates]
    found = [(r, c.scale, g, c) for r, g, c in known if r is not None and g is not None and g > 0]
    # Of scales that share a risk the smaller is the safer. The sort is stable, so the first of
    # equals stays first.
    found.sort(key=lambda row: (row[0], row[1], -row[2]))
    best, kept = 0.0, []
    for _, _, gain, candidate in found:
        if gain > best:
            kept.append(candidate)
            best = gain
    return kept


def order_of_testing(
    candidates: Sequence[Candidate], forecast: Forecast, matters: float = _MATTERS
) -> list[Candidate]:
    """A fixed sequence of tests: the thinned frontier of the attempt that promises most.

    A sequence ends at its first failure. Along the scales of one attempt that costs little: where
    the safer one fails, the riskier ones would, too. A weak candidate of another attempt tells
    nothing of a healed one, and put before it would only be a chance to fail.
    """
    if not 0 <= matters <= 1:
        raise ValueError(f"matters is {matters}; it is a share of the greatest gain")
    attempts = dict.fromkeys(one.attempt for one in candidates)
    orders = [
        _thinned([one for one in candidates if one.attempt == attempt], forecast.budgets, matters)
        for attempt in attempts
    ]
    return max(filter(None, orders), key=forecast.expected_gain, default=[])


def _thinned(candidates: Sequence[Candidate], budgets: Budgets, matters: float) -> list[Candidate]:
    """The frontier from the safest to the riskiest, without steps that do not matter.

    Along the frontier gain rises with risk. Of candidates within one step of gain, the step being
    `matters` of the greatest gain there, the safest is kept: the others would cost a measurement
    on CERT for a gain that nobody sees. A coarser step makes fewer tests. The steps are counted
    down from the greatest gain, so that the best candidate's own step is always tested.
    """
    points = frontier(candidates, budgets)
    if not points:
        return []
    greatest = points[-1].worth or 0.0
    kept: list[Candidate] = []
    last: int | None = None
    for point in points:
        gain = point.worth or 0.0
        if matters == 0:
            kept.append(point)
            continue
        step = int((greatest - gain) / (matters * greatest) + 1e-9)
        if step != last:
            kept.append(point)
            last = step
    return kept


def as_frontier(
    candidates: Sequence[Candidate], order: Sequence[Candidate], released: Candidate | None
) -> Frontier:
    """What `frontier.json` holds of a search and its certificate."""
    places = {candidate.key: place for place, candidate in enumerate(candidates)}
    return Frontier(
        tuple(candidates),
        tuple(places[candidate.key] for candidate in order),
        places[released.key] if released is not None else None,
    )
