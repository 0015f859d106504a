"""A reward model: the chosen answer's number above the rejected one's.

Bradley and Terry 1952, as Ouyang et al. 2022 use it (arXiv 2203.02155), equation 1.
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
    """Learns which of two answers people prefer."""

    learns = "tokens of answers"

    def loss(self, network: Network, items: Sequence[Pair]) -> Loss:
        groups = [[item.chosen, item.rejected] for item in items]
        rewards_B_2 = row_rewards(network, groups).view(-1, 2)
        return Loss(bradley_terry(rewards_B_2).sum(), margins(rewards_B_2))


def bradley_terry(rewards_B_2: Tensor) -> Tensor:
    """-log sigma(chosen - rejected), shape (B,)."""
    return -functional.logsigmoid(rewards_B_2[:, 0] - rewards_B_2[:, 1])
