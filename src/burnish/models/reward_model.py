"""A reward model: a decoder with a head that scores an answer to a prompt."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from burnish.conversation import Example
from burnish.data.render import render_all, with_answer
from burnish.errors import ModelError
from burnish.models.branches import Network, Row, tree_states
from burnish.models.classifier import load_classifier
from burnish.models.load import DeviceChoice
from burnish.models.loaded import LoadedModel

_AT_ONCE = 16


class RewardModel(LoadedModel):
    """Scores answers; its module is transformers' own for sequence classification.

    Args:
        fresh: names of the newly initialised modules of the head.

    See `LoadedModel` for the others.
    """

    body = "decoder"

    def __init__(self, module: Any, tokenizer: Any, *, fresh: Sequence[str], **names: str) -> None:
        super().__init__(module, tokenizer, **names)
        self.fresh = tuple(fresh)

    @contextlib.contextmanager
    def base(self) -> Iterator["LongerAnswerBaseline"]:
        """The baseline to compare with: the longer answer, since length is a known bias."""
        yield LongerAnswerBaseline()

    @torch.no_grad()
    def rewards(self, examples: Sequence[Example], answers: Sequence[str]) -> list[float]:
        """The reward of each answer to the prompt of its example; higher is better."""
        self.module.eval()
        if not examples:
            return []
        answered = [with_answer(e, answer) for e, answer in zip(examples, answers, strict=True)]
        rendered, _ = render_all(answered, self.tokenizer, 1 << 30)
        rows = [Row(row.tokens, row.weights) for row in rendered]
        rewards = [0.0] * len(rows)
        order = sorted(range(len(rows)), key=lambda index: rows[index].size)
        for start in range(0, len(order), _AT_ONCE):
            part = order[start : start + _AT_ONCE]
            values = row_rewards(self.network, [[rows[index]] for index in part]).tolist()
            for index, value in zip(part, values, strict=True):
                rewards[index] = value
        return rewards


class LongerAnswerBaseline:
    """A baseline that prefers the longer of two answers."""

    name = "the longer answer"
    fingerprint = "longer-answer"

    def rewards(self, examples: Sequence[Example], answers: Sequence[str]) -> list[float]:
        return [float(len(answer)) for answer in answers]


def row_rewards(network: Network, groups: Sequence[Sequence[Row]]) -> Tensor:
    """The head's output at the last token of each row; rows of a group share their prompt."""
    ended = [[_end(row) for row in group] for group in groups]
    states = tree_states(network, ended)
    rewards: Tensor = network.model.score(states.hidden_N_H)[:, 0].float()
    return rewards


def load_reward_model(name: str, device: DeviceChoice, seed: int = 0) -> RewardModel:
    """Loads a decoder with a newly initialised reward head.

    Raises:
        ModelError: the model cannot be loaded, or is an encoder.
    """
    model = load_classifier(name, device, "classify", ["reward"], seed)
    if model.body != "decoder":
        raise ModelError(
            f"{name} is an encoder, but a reward model needs a language model with a chat template",
            "choose a language model such as smollm2-135m",
            code="is_an_encoder",
            model=name,
        )
    return RewardModel(
        model.module,
        model.tokenizer,
        name=model.name,
        source_sha256=model.source_sha256,
        fresh=model.fresh,
    )


def _end(row: Row) -> Row:
    """The row with a weight on the position after its last token, where the head is read."""
    return Row([*row.tokens, 0], [0.0] * len(row.tokens) + [1.0])
