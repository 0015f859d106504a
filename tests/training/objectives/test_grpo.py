"""GRPO: hand-worked numbers, TRL's loss on the same answers, and reward that goes up."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.conversation import Example, Message
from burnish.models.branches import Network, Row
from burnish.models.generate import Decoder
from burnish.models.interface import Sampling
from burnish.training.batches import Batches
from burnish.training.loop import Loop, Settings
from burnish.training.objectives.grpo import (
    Group,
    Grpo,
    advantages_of,
    clipped_loss,
    kl_estimate,
)

EXAMPLE = Example("1", (Message("user", "yes"),))


def nothing(answers: Sequence[str], _: Sequence[Example]) -> list[float]:
    return [0.0] * len(answers)


def groups(draw: Callable[..., list[Row]]) -> list[Group]:
    made = []
    for seed, lengths in enumerate([[4, 6, 3], [3, 2, 5]]):
        rows = draw(4 + seed, lengths, seed=seed)
        advantages = tuple([1.0, -0.5, 0.25] if seed else [-1.0, 2.0, 0.5])
        made.append(
            Group(tuple(rows[0].tokens[: 4 + seed]), EXAMPLE, tuple(rows), (0.0,) * 3, advantages)
        )
    return made


def test_numbers_by_hand() -> None:
    assert advantages_of([1.0, 3.0]) == pytest.approx((-0.70706, 0.70706), abs=1e-4)
    assert advantages_of([2.0, 2.0, 2.0]) == (0.0, 0.0, 0.0)
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5]).log()
    advantages = torch.tensor([2.0, -2.0, 2.0, -2.0])
    loss, clipped = clipped_loss(ratio, advantages, 0.2)
    assert loss.tolist() == pytest.approx([-2.4, 3.0, -1.0, 1.6])
    assert clipped.tolist() == [True, False, False, True]
    found = kl_estimate(torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)]))
    assert float(found) == pytest.approx(0.5 - math.log(0.5) - 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("updates", [1, 2])
def test_loss_and_gradient_equal_trl(
    adapted: Any,
    draw: Callable[..., list[Row]],
    tiny_tokenizer: Any,
    updates: int,
    trl_trainer: Any,
    assert_same: Any,
) -> None:
    network = Network(adapted)
    objective = Grpo(nothing, tiny_tokenizer, beta=0.1, num_iterations=updates)
    made = groups(draw)
    with network.base():
        bases = objective._logprobs(network, made)
    chance = torch.Generator().manual_seed(1)
    ready = [
        replace(
            group,
            base=base,
            old=tuple(
                tuple(v + 0.3 * float(torch.randn((), generator=chance)) for v in row)
                for row in base
            ),
        )
        for group, base in zip(made, bases, strict=True)
    ]
    options = {
        "beta": 0.1, "epsilon": 0.2, "num_generations": 2, "per_device_train_batch_size": 2,
        "loss_type": "dapo", "max_completion_length": 8,
    }  # fmt: skip
    trainer = trl_trainer(
        "GRPO", adapted, {"prompt": "yes"}, options,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    adapted.train()
    assert_same(
        adapted,
        trainer._compute_loss(adapted, trl_inputs(ready, old=updates > 1)),
        lambda: objective.loss(network, ready).total / objective.units(ready),
    )


def trl_inputs(made: list[Group], *, old: bool) -> dict[str, Any]:
    rows = [(group, row, k) for group in made for k, row in enumerate(group.rows)]
    prompts = max(len(group.prompt) for group in made)
    answers = max(row.learnt for _, row, _ in rows)

    def right(values: Sequence[float]) -> list[float]:
        return [*values, *[0] * (answers - len(values))]

    inputs = {
        "prompt_ids": [[0] * (prompts - len(g.prompt)) + list(g.prompt) for g, _, _ in rows],
        "prompt_mask": [[0] * (prompts - len(g.prompt)) + [1] * len(g.prompt) for g, _, _ in rows],
        "completion_ids": [right(list(r.tokens[len(g.prompt) :])) for g, r, _ in rows],
        "completion_mask": [right([1] * r.learnt) for _, r, _ in rows],
        "advantages": [g.advantages[k] for g, _, k in rows],
        "ref_per_token_logps": [right(g.base[k]) for g, _, k in rows if g.base],
        "num_items_in_batch": sum(r.learnt for _, r, _ in rows),
    }
    if old:
        inputs["old_per_token_logps"] = [right(g.old[k]) for g, _, k in rows if g.old]
    return {name: torch.tensor(value) for name, value in inputs.items()}


def test_several_answers_share_their_prompt(adapted: Any, tiny_tokenizer: Any) -> None:
    adapted.eval()
    prompts = [[5, 6, 7, 8], [5, 6, 9], [5, 6, 4, 3, 8]]
    adapted.config.vocab_size = len(tiny_tokenizer)
    greedy = Decoder(Network(adapted), tiny_tokenizer, Sampling(max_new_tokens=6))
    alone = [greedy.answers([prompt])[0][0].tokens for prompt in prompts]
    together = greedy.answers(prompts, each=3)
    for expected, found in zip(alone, together, strict=True):
        assert [answer.tokens for answer in found] == [expected] * 3
    sampling = Sampling(max_new_tokens=6, temperature=1.0, seed=3)
    drawn = Decoder(Network(adapted), tiny_tokenizer, sampling).answers(prompts, each=3)
    again = Decoder(Network(adapted), tiny_tokenizer, sampling).answers(prompts, each=3)
    assert drawn == again
    assert len({answer.tokens for answer in drawn[0]}) > 1


def test_reward_goes_up(adapted: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Answers that hold the letter a more often are worth more."""

    def reward(answers: Sequence[str], _: Sequence[Example]) -> list[float]:
        return [float(sum(ord(char) % 2 for char in answer)) for answer in answers]

    sampling = Sampling(max_new_tokens=5, temperature=1.0)
    objective = Grpo(
        reward, tiny_tokenizer, num_generations=8, sampling=sampling, beta=0.01, num_iterations=2
    )
    items = [Group((5, 6, n), EXAMPLE) for n in range(10, 26)]
    events: list[dict[str, Any]] = []
    loop = Loop(
        adapted,
        Batches({"train": items}, 4, 1, 6, 0),
        objective,
        Settings(3e-2, evaluations=0, checkpoints=1),
        {},
        tmp_path,
        lambda phase, values: events.append(values) if phase == "train" else None,
    )
    loop.run()
    rewards = [values["reward"] for values in events]
    first, last = sum(rewards[:4]) / 4, sum(rewards[-4:]) / 4
    assert last > first + 0.5
    assert {"kl", "clipped", "answer_tokens"} <= events[0].keys()
