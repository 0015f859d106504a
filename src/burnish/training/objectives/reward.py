"""A reward model: the chosen answer's number above the rejected one's.

Bradley and Terry 1952, as Ouyang et al. 2022 use it (arXiv 2203.02155), equation 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from burnish.conversation import Example
from burnish.data.render import Rendered, render_answers
from burnish.models.branches import Network
from burnish.models.reward_model import row_rewards
from burnish.runs.directory import Finding
from burnish.training.objectives.base import Loss, Objective, light_pieces
from burnish.training.objectives.dpo import Dpo, Pair, check_pairs


@dataclass(frozen=True)
class RewardPairs(Objective[Pair]):
    """Learns which of two answers people prefer."""

    learns = "tokens of answers"

    def check(self, examples: Sequence[Example]) -> None:
        check_pairs(examples)

    def render(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int | None
    ) -> tuple[list[Rendered], Finding | None]:
        return render_answers(examples, tokenizer, max_length)

    def items(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Pair]:
        return Dpo().items(examples, tokenizer, max_length)

    def units(self, items: Sequence[Pair]) -> float:
        return float(len(items))

    def pieces(self, network: Network, items: Sequence[Pair]) -> list[list[Pair]]:
        return light_pieces(network, items)

    def loss(self, network: Network, items: Sequence[Pair]) -> Loss:
        groups = [[item.chosen, item.rejected] for item in items]
        rewards_B_2 = row_rewards(network, groups).view(-1, 2)
        margins_B = (rewards_B_2[:, 0] - rewards_B_2[:, 1]).detach()
        count = float(len(items))
        metrics = {
            "preferred": ((margins_B > 0).float().sum(), count),
            "margin": (margins_B.sum(), count),
        }
        return Loss(bradley_terry(rewards_B_2).sum(), metrics)


def bradley_terry(rewards_B_2: Tensor) -> Tensor:
    """-log sigma(chosen - rejected), shape (B,)."""
    return -functional.logsigmoid(rewards_B_2[:, 0] - rewards_B_2[:, 1])
