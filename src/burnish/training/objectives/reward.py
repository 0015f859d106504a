"""Reward models: trained to score the chosen answer above the rejected one.

Bradley and Terry 1952, as in Ouyang et al. 2022 (arXiv 2203.02155), equation 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from burnish.models.branches import Network
from burnish.models.reward_model import row_rewards
from burnish.training.objectives.base import Loss
from burnish.training.objectives.dpo import Pair, PairObjective, margins


@dataclass(frozen=True)
class RewardPairs(PairObjective, name="reward"):
    """Trains a head to score the preferred one of two answers higher."""

    learns = "tokens of answers"

    def loss(self, network: Network, items: Sequence[Pair]) -> Loss:
        groups = [[item.chosen, item.rejected] for item in items]
        rewards_B_2 = row_rewards(network, groups).view(-1, 2)
        return Loss(bradley_terry(rewards_B_2).sum(), margins(rewards_B_2))


def bradley_terry(rewards_B_2: Tensor) -> Tensor:
    """Return -log sigma(chosen - rejected), shape (B,)."""
    return -functional.logsigmoid(rewards_B_2[:, 0] - rewards_B_2[:, 1])
