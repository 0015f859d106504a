"""Compares a model in memory: one forward pass over prompt and answer is enough.

If at every position of the reference's answer its token is the likeliest, the greedy answer is the
same. So only the reference has to generate.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from burnish.conversation import Conversation, Message
from burnish.data.render import render_prompt
from burnish.errors import DataError
from burnish.models.branches import Row, branch_states
from burnish.models.generate import Decoder
from burnish.models.interface import Sampling
from burnish.models.language_model import LanguageModel
from burnish.parity.difference import ProbeResult
from burnish.parity.prompts import ANSWER, Prompt
from burnish.parity.record import ReferenceAnswer

# Tokens of a prompt and of the answer to it.
_Row = tuple[tuple[int, ...], tuple[int, ...]]
# Log-probabilities and leads of one row's answer.
_Pass = tuple[tuple[float, ...], tuple[float, ...]]


@torch.no_grad()
def generate_reference(
    model: LanguageModel, prompts: Sequence[Prompt]
) -> tuple[ReferenceAnswer, ...]:
    """Generate the greedy answers that other forms are compared with.

    Raises:
        DataError: a prompt leaves no room for an answer in the model's context.
    """
    model.module.eval()
    tokens = [tuple(render_prompt(conversation, model.tokenizer)) for _, conversation in prompts]
    _check_lengths(model, prompts, tokens)
    answered: list[tuple[int, ...]] = [()] * len(prompts)
    decoder = Decoder(model.network, model.tokenizer, Sampling(max_new_tokens=ANSWER))
    for group in _group_prompts([conversation for _, conversation in prompts]):
        answers = decoder.answers([tokens[index] for index in group])
        for index, (answer,) in zip(group, answers, strict=True):
            answered[index] = answer.tokens
    rows = list(zip(tokens, answered, strict=True))
    passes = _passes(model, [conversation for _, conversation in prompts], rows)
    return tuple(
        ReferenceAnswer(
            name,
            tuple((turn.role, turn.content) for turn in conversation),
            *row,
            *passed,
            next((turn.tools for turn in conversation if turn.tools), ""),
        )
        for (name, conversation), row, passed in zip(prompts, rows, passes, strict=True)
    )


@torch.no_grad()
def probe(model: LanguageModel, references: Sequence[ReferenceAnswer]) -> list[ProbeResult]:
    """Score the reference's answers with this model, whose own tokenizer renders the prompts."""
    conversations = [one.conversation for one in references]
    tokens = [tuple(render_prompt(prompt, model.tokenizer)) for prompt in conversations]
    rows = [(prompt, one.answer) for prompt, one in zip(tokens, references, strict=True)]
    return [
        ProbeResult(prompt, len(prompt), _first_below(leads), logprobs)
        for prompt, (logprobs, leads) in zip(
            tokens, _passes(model, conversations, rows), strict=True
        )
    ]


def _check_lengths(
    model: LanguageModel, prompts: Sequence[Prompt], tokens: Sequence[tuple[int, ...]]
) -> None:
    longest = model.context_length - ANSWER
    for (name, _), row in zip(prompts, tokens, strict=True):
        if len(row) > longest:
            raise DataError(
                f"the prompt {name} has {len(row)} tokens, more than the {longest} that fit in the "
                f"context of {model.name} with an answer",
                "shorten the prompt, or leave it out",
                code="too_many_tokens",
                prompt=name,
                tokens=len(row),
                limit=longest,
                model=model.name,
            )


def _group_prompts(prompts: Sequence[Conversation]) -> list[list[int]]:
    """Group prompts with the same system message, so that it is computed only once."""
    groups: dict[Message | None, list[int]] = {}
    for index, (first, *_) in enumerate(prompts):
        groups.setdefault(first if first.role == "system" else None, []).append(index)
    return list(groups.values())


def _passes(
    model: LanguageModel, prompts: Sequence[Conversation], rows: Sequence[_Row]
) -> list[_Pass]:
    """The log-probability and the lead of every answer token, for each row."""
    model.module.eval()
    network = model.network
    passes: list[_Pass] = [((), ())] * len(rows)
    for group in _group_prompts(prompts):
        batch = [
            Row([*prompt, *answer], [0.0] * len(prompt) + [1.0] * len(answer))
            for prompt, answer in (rows[index] for index in group)
        ]
        states = branch_states(network, batch)
        values = network.read(states.hidden_N_H, states.targets_N, _logprobs_and_leads).tolist()
        for index in group:
            own, values = values[: len(rows[index][1])], values[len(rows[index][1]) :]
            passes[index] = tuple(one[0] for one in own), tuple(one[1] for one in own)
    return passes


def _logprobs_and_leads(logits_N_V: Tensor, targets_N: Tensor, _: slice) -> Tensor:
    """log p(target), and its lead over the likeliest other token; [N, 2]."""
    logprobs_N_V = logits_N_V.log_softmax(-1)
    own_N_1 = logprobs_N_V.gather(1, targets_N[:, None])
    others_N_V = logprobs_N_V.scatter(1, targets_N[:, None], -torch.inf)
    return torch.cat([own_N_1, own_N_1 - others_N_V.amax(1, keepdim=True)], dim=1)


def _first_below(leads: Sequence[float]) -> int | None:
    return next((index for index, lead in enumerate(leads) if lead < 0), None)
