"""Learning rates: the rule for `auto` and `rule`, and the schedule over the steps."""

import math
from typing import Literal

from burnish.recipe.methods import METHODS

# Schulman et al., "LoRA Without Regret" (Thinking Machines, 2025): the best LoRA rate is about ten
# times the best full rate, and falls with the hidden size as (2000 / size) ** 0.781 from 5e-5.
_FULL_RATE_AT_2000 = 5e-5
_SIZE_POWER = 0.781
# Multiple of the encoder adapter's learning rate for a newly initialised head.
FRESH_HEAD_TIMES = 10.0


def automatic_rate(
    method: str, hidden_size: int, *, share: float = 1.0, encoder: bool = False
) -> float:
    """Return the learning rate by the rule; it is lower for an encoder.

    `share` is the objective's rate as a share of the rate for supervised fine-tuning.
    """
    traits = METHODS[method]
    times = traits.rate * share * (traits.encoder_share if encoder else 1.0)
    return float(_FULL_RATE_AT_2000 * times * (2000 / hidden_size) ** _SIZE_POWER)


def rate_factor(
    step: int, steps: int, warmup: int, schedule: Literal["constant", "linear", "cosine"]
) -> float:
    """Return the share of the peak rate at `step` (from 0) of `steps`; warmup is linear from 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - done
    return 0.5 * (1 + math.cos(math.pi * done))


def is_due(step: int, steps: int, times: int) -> bool:
    """Whether `step` is one of `times` evenly spaced steps that include the last one."""
    return times > 0 and (step * times) // steps > ((step - 1) * times) // steps
