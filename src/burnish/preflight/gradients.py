"""Checks that gradient accumulation and shared trunks give the same loss and gradients.

Gradients are compared by adding one and subtracting the other in place, which leaves the
difference without a second copy of the gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from burnish.errors import quantity
from burnish.models.branches import Row, TargetStates, branch_states, tree_states
from burnish.preflight.base import (
    Check,
    Subject,
    not_applicable,
    relative_difference,
    rows_in,
    without_dropout,
)

# A gradient with less than this share of the largest one is mostly rounding error.
_SMALL = 1e-3


@dataclass(frozen=True, slots=True)
class _Difference:
    """The largest relative difference of two gradients, and the parameter that has it."""

    value: float
    name: str


def check_accumulation(subject: Subject, items: Sequence[Any]) -> Check:
    """Compares gradients of the same items in one forward pass and in one pass per item."""
    name = "accumulated = one batch"
    if not subject.objective.additive:
        return not_applicable(name, "this objective compares the rows of a batch with each other")
    with without_dropout(subject.loop.model):
        objective = subject.objective
        if len(items) < 2:
            return not_applicable(name, "there is only one row")
        units = objective.units(items)
        (objective.loss(subject.network, items).total / units).backward()  # type: ignore[no-untyped-call]
        sizes = _gradient_sizes(subject)
        for item in items:
            loss = objective.loss(subject.network, [item]).total
            (-loss / units).backward()  # type: ignore[no-untyped-call]
        difference = _difference(subject, sizes)
        random = difference.value > subject.tolerance and _is_random(subject, items[:1])
    figure = f"gradients of {len(items)} rows differ by at most {difference.value:.0e}"
    if difference.value <= subject.tolerance:
        return Check(name, True, figure, difference.value)
    if random:
        return not_applicable(name, "the loss is random, so two passes differ")
    seen = (
        f"the gradient of {difference.name} differs by {difference.value:.1%} between one pass "
        f"over {len(items)} rows and one pass per row"
    )
    remedy = (
        "set training.gradient_accumulation to 1, or choose an objective whose loss is a sum over "
        "its rows"
    )
    fields = {"parameter": difference.name}
    return Check(name, False, figure, difference.value, seen, remedy, "gradients_differ", fields)


def check_trunk(subject: Subject, items: Sequence[Any]) -> Check:
    """Compares log-probabilities and gradients of rows on a shared trunk with plain passes."""
    name = "trunk = plain"
    if not subject.writes:
        return not_applicable(name, "a model with a head has no token log-probabilities")
    groups = [rows for item in items if (rows := rows_in(item))]
    rows = [row for group in groups for row in group]
    if not any(row.learnt for row in rows):
        return not_applicable(name, "no tokens of the objective's rows are trained on")
    with without_dropout(subject.loop.model):
        states = _shared_states(subject, groups)
        ours_N = subject.network.logprobs(states.hidden_N_H, states.targets_N)
        units = sum(abs(weight) for row in rows for weight in row.weights)
        ((ours_N * states.weights_N).sum() / units).backward()  # type: ignore[no-untyped-call]
        sizes = _gradient_sizes(subject)
        plain_N = torch.cat([_plain(subject, row, units) for row in rows])
        difference = _difference(subject, sizes)
    return _judged(subject, rows, (ours_N.detach(), plain_N), difference)


def _judged(
    subject: Subject, rows: Sequence[Row], values: tuple[Tensor, Tensor], gradient: _Difference
) -> Check:
    name, (ours_N, plain_N) = "trunk = plain", values
    far_N = relative_difference(ours_N, plain_N)
    value = float(far_N.max())
    figure = (
        f"log-probabilities of {quantity(len(far_N), 'token')} differ by at most {value:.0e}, "
        f"gradients by at most {gradient.value:.0e}"
    )
    if not subject.network.shares_beginnings:
        figure += " (each row is computed alone, because this model's cache cannot be shared)"
    remedy = "choose a model with standard attention layers, because rows cannot share a trunk here"
    worst = max(value, gradient.value)
    if value > subject.tolerance:
        first = int((far_N > subject.tolerance).nonzero()[0])
        positions = [(r, t) for r, row in enumerate(rows) for t, w in enumerate(row.weights) if w]
        row, place = positions[first]
        seen = (
            f"the log-probability of token {place} {subject.text(rows[row].tokens[place])} in "
            f"row {row + 1} is {float(ours_N[first]):.4f} on a shared trunk and "
            f"{float(plain_N[first]):.4f} in a plain forward pass"
        )
        fields: dict[str, Any] = {"row": row + 1, "place": place}
        return Check(name, False, figure, worst, seen, remedy, "logprobs_differ", fields)
    if gradient.value > subject.tolerance:
        seen = (
            f"the gradient of {gradient.name} differs by {gradient.value:.1%} between a shared "
            "trunk and a plain forward pass"
        )
        fields = {"parameter": gradient.name}
        return Check(name, False, figure, worst, seen, remedy, "gradients_differ", fields)
    return Check(name, True, figure, worst)


def _shared_states(subject: Subject, groups: Sequence[Sequence[Row]]) -> TargetStates:
    if any(len(group) > 1 for group in groups):
        return tree_states(subject.network, groups)
    return branch_states(subject.network, [row for group in groups for row in group])


def _plain(subject: Subject, row: Row, units: float) -> Tensor:
    """Returns log-probabilities (n,) of the trained tokens, and subtracts their gradients."""
    tokens_1_L = torch.tensor([list(row.tokens)], device=subject.network.device)
    logits_L_V: Tensor = (
        subject.network.wrapped(input_ids=tokens_1_L, use_cache=False)
        .logits[0, -len(row.tokens) :]
        .float()
    )
    positions = [t for t, weight in enumerate(row.weights) if weight]
    if not positions:
        return logits_L_V.new_zeros(0)
    before = torch.tensor(positions, device=logits_L_V.device) - 1
    values_n = logits_L_V[before].log_softmax(-1).gather(1, tokens_1_L[0, before + 1, None])[:, 0]
    weights_n = values_n.new_tensor([row.weights[t] for t in positions])
    (-(values_n * weights_n).sum() / units).backward()  # type: ignore[no-untyped-call]
    detached_n: Tensor = values_n.detach()
    return detached_n


def _is_random(subject: Subject, items: Sequence[Any]) -> bool:
    """Whether two passes over the same items give different losses."""
    with torch.no_grad():
        first, again = (
            float(subject.objective.loss(subject.network, items).total) for _ in range(2)
        )
    return first != again


def _learning(subject: Subject) -> dict[str, Any]:
    return {n: p for n, p in subject.loop.model.named_parameters() if p.grad is not None}


def _gradient_sizes(subject: Subject) -> dict[str, float]:
    """The largest absolute gradient of each parameter."""
    return {name: float(p.grad.abs().max()) for name, p in _learning(subject).items()}


def _difference(subject: Subject, sizes: dict[str, float]) -> _Difference:
    """Returns the largest remaining difference in the gradients, and clears them."""
    floor = _SMALL * max(sizes.values(), default=0.0)
    worst = _Difference(0.0, "")
    for name, parameter in _learning(subject).items():
        rest = float(parameter.grad.abs().max())
        value = rest / max(sizes.get(name, 0.0), floor) if rest else 0.0
        if value > worst.value or value != value:
            worst = _Difference(value, name)
        parameter.grad = None
    return worst
