"""Learning rates: the rule behind `auto`, and how the rate moves over the steps."""

import math
from typing import Literal

# Schulman et al., "LoRA Without Regret" (Thinking Machines, 2025): the best LoRA rate is about ten
# times the best full rate, and falls with the hidden size as (2000 / size) ** 0.781 from 5e-5.
_FULL_RATE_AT_2000 = 5e-5
_SIZE_POWER = 0.781
# The other methods as multiples of the full rate, from the rate their source used at its model's
# hidden size, which that power carries to 2000:
#   IA3: 3e-3 for T0-3B, hidden size 2048 (Liu et al. 2022, arXiv 2205.05638);
#   bottleneck: 3e-4 for LLaMA-7B, hidden size 4096 (Hu et al. 2023, arXiv 2304.01933), where
#     LoRA's rate is the same, and is 2.9e-4 by the rule above;
#   prefix: 1e-2 for T5-large, hidden size 1024 (PEFT's guide to prefix tuning); learnt directly,
#     so far above the rates of Li and Liang 2021, who learn it through a network.
_TIMES = {
    "full": 1.0,
    "last-n": 1.0,
    "lora": 10.0,
    "qlora": 10.0,
    "bottleneck": 10.0,
    "ia3": 60.0,
    "prefix": 120.0,
}
# Encoders take half, since the screen may double it. Measured with LoRA on all-minilm-l6-v2 and a
# head ten times as fast: banking77, 20 rows a label and 3 epochs, validation accuracy 71.4 % at
# 6e-4, 83.4 % at 1.2e-3, 87.0 % at 2.4e-3; WNUT-17, validation loss after one epoch of two 0.225
# at 6e-4, 0.211 at 1.8e-3, where a head as slow as the adapter had tagged every word alike.
# Weights that learn themselves take a sixth, 1.8e-5 at BERT's size: it was tuned at 2e-5 to 5e-5
# (Devlin et al. 2019, arXiv 1810.04805, A.3).
_ENCODER_SHARE = 1 / 2
_ENCODER_SHARES = {"full": 1 / 6, "last-n": 1 / 6}
FRESH_HEAD_TIMES = 10.0
# Objectives that compare answers move far with small steps. TRL 1.16 takes 1/20 of SFT's rate for
# them; here at 1/10, since at the full rate the policy of recipes/courteous-replies wrote nonsense
# that its reward model liked.
_COMPARING = {"dpo": 0.1, "kto": 0.1, "grpo": 0.1}


def automatic_rate(
    method: str, hidden_size: int, *, objective: str = "sft", encoder: bool = False
) -> float:
    """The learning rate that `learning_rate: auto` stands for; an encoder takes less."""
    times = _TIMES[method]
    if encoder:
        times *= _ENCODER_SHARES.get(method, _ENCODER_SHARE)
    times *= _COMPARING.get(objective, 1.0)
    return float(_FULL_RATE_AT_2000 * times * (2000 / hidden_size) ** _SIZE_POWER)


def rate_factor(
    step: int, steps: int, warmup: int, schedule: Literal["constant", "linear", "cosine"]
) -> float:
    """Share of the peak rate at `step` (0-based) of `steps`; warm-up is linear from 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - done
    return 0.5 * (1 + math.cos(math.pi * done))


def is_due(step: int, steps: int, times: int) -> bool:
    """Whether `step` is one of `times` evenly spaced ones, the last step among them."""
    return times > 0 and (step * times) // steps > ((step - 1) * times) // steps
