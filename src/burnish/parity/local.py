"""A model in memory as reference and as voice: one pass over prompt and answer tells all.

Where at every place of the reference's answer its own token is the likeliest, the greedy answer is
the same; so only the reference has to write.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from burnish.conversation import Conversation, Message
from burnish.data.render import render_prompt
from burnish.errors import DataError
from burnish.models.branches import Network, Row, branch_states
from burnish.models.generate import Decoder
from burnish.models.interface import Sampling
from burnish.models.language_model import LanguageModel
from burnish.parity.difference import Heard
from burnish.parity.prompts import ANSWER, Prompt
from burnish.parity.record import Said

# Tokens of a prompt and of the answer to it.
_Row = tuple[tuple[int, ...], tuple[int, ...]]
# Log-probabilities and leads of one row's answer.
_Pass = tuple[tuple[float, ...], tuple[float, ...]]


@torch.no_grad()
def answered(model: LanguageModel, prompts: Sequence[Prompt]) -> tuple[Said, ...]:
    """The model's greedy answers, as others are compared with them.

    Raises:
        DataError: a prompt leaves no room for an answer.
    """
    model.module.eval()
    tokens = [tuple(render_prompt(asked, model.tokenizer)) for _, asked in prompts]
    _check_lengths(model, prompts, tokens)
    wrote: list[tuple[int, ...]] = [()] * len(prompts)
    decoder = Decoder(model.network, model.tokenizer, Sampling(max_new_tokens=ANSWER))
    for group in _alike(model.network, [asked for _, asked in prompts]):
        answers = decoder.answers([tokens[place] for place in group])
        for place, (answer,) in zip(group, answers, strict=True):
            wrote[place] = answer.tokens
    rows = list(zip(tokens, wrote, strict=True))
    passes = _passes(model, [asked for _, asked in prompts], rows)
    return tuple(
        Said(
            name,
            tuple((turn.role, turn.content) for turn in asked),
            *row,
            *passed,
            next((turn.tools for turn in asked if turn.tools), ""),
        )
        for (name, asked), row, passed in zip(prompts, rows, passes, strict=True)
    )


@torch.no_grad()
def heard(model: LanguageModel, said: Sequence[Said]) -> list[Heard]:
    """What the model says to the reference's prompts, rendered with its own tokenizer."""
    asked = [one.conversation for one in said]
    tokens = [tuple(render_prompt(prompt, model.tokenizer)) for prompt in asked]
    rows = [(prompt, one.answer) for prompt, one in zip(tokens, said, strict=True)]
    return [
        Heard(prompt, len(prompt), _first_below(leads), logprobs)
        for prompt, (logprobs, leads) in zip(tokens, _passes(model, asked, rows), strict=True)
    ]


def _check_lengths(
    model: LanguageModel, prompts: Sequence[Prompt], tokens: Sequence[tuple[int, ...]]
) -> None:
    longest = model.context_length - ANSWER
    for (name, _), row in zip(prompts, tokens, strict=True):
        if len(row) > longest:
            raise DataError(
                f"the prompt {name} has {len(row)} tokens, and with an answer {model.name} reads "
                f"{longest} of them",
                "shorten it, or leave it out",
                code="text_too_long",
                prompt=name,
                tokens=len(row),
                limit=longest,
                model=model.name,
            )


def _alike(network: Network, prompts: Sequence[Conversation]) -> list[list[int]]:
    """Prompts with the same system message are read together: it is computed once.

    Where attention has a window, each stands alone, because padding would shift the window.
    """
    if network.window is not None:
        return [[place] for place in range(len(prompts))]
    groups: dict[Message | None, list[int]] = {}
    for place, (first, *_) in enumerate(prompts):
        groups.setdefault(first if first.role == "system" else None, []).append(place)
    return list(groups.values())


def _passes(
    model: LanguageModel, prompts: Sequence[Conversation], rows: Sequence[_Row]
) -> list[_Pass]:
    """Of each row the log-probability and the lead of every answer token."""
    model.module.eval()
    network = model.network
    found: list[_Pass] = [((), ())] * len(rows)
    for group in _alike(network, prompts):
        given = [
            Row([*prompt, *answer], [0.0] * len(prompt) + [1.0] * len(answer))
            for prompt, answer in (rows[place] for place in group)
        ]
        asked = branch_states(network, given)
        values = network.read(asked.hidden_N_H, asked.targets_N, _logprobs_and_leads).tolist()
        for place in group:
            own, values = values[: len(rows[place][1])], values[len(rows[place][1]) :]
            found[place] = tuple(one[0] for one in own), tuple(one[1] for one in own)
    return found


def _logprobs_and_leads(logits_N_V: Tensor, targets_N: Tensor, _: slice) -> Tensor:
    """log p(target), and by how much that is more than the likeliest other token's."""
    logprobs_N_V = logits_N_V.log_softmax(-1)
    own_N_1 = logprobs_N_V.gather(1, targets_N[:, None])
    others_N_V = logprobs_N_V.scatter(1, targets_N[:, None], -torch.inf)
    return torch.cat([own_N_1, own_N_1 - others_N_V.amax(1, keepdim=True)], dim=1)


def _first_below(leads: Sequence[float]) -> int | None:
    return next((place for place, lead in enumerate(leads) if lead < 0), None)
