"""GRPO: samples answers, and makes those likelier that are better than the mean of their group.

Shao et al. 2024 (arXiv 2402.03300), equations 3 and 4: without a value model, the advantage of an
answer is its reward relative to the other answers to the same prompt. All tokens have the same
weight (arXiv 2503.14476).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from burnish.conversation import Example
from burnish.data.render import Rendered, render_prompt, render_prompts
from burnish.evaluation.rewards import Reward, load_reward
from burnish.models.branches import Network, Row, TargetStates, tree_states
from burnish.models.devices import tensor_on
from burnish.models.generate import Decoder
from burnish.models.interface import Sampling, dry_run
from burnish.recipe.schema import Recipe
from burnish.runs.directory import Finding
from burnish.training.objectives.base import Loss, Objective, light_pieces, sampling_of

_DEVIATION_FLOOR = 1e-4  # added to the deviation of a group, as in the paper's code


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt, and after sampling also the rows, rewards and advantages of its answers.

    `old` has the log-probabilities of each row when it was sampled, and `base` those of the base
    model; None if the loss does not need them.
    """

    prompt: tuple[int, ...]
    example: Example
    rows: tuple[Row, ...] = ()
    rewards: tuple[float, ...] = ()
    advantages: tuple[float, ...] = ()
    old: tuple[tuple[float, ...], ...] | None = None
    base: tuple[tuple[float, ...], ...] | None = None

    @property
    def size(self) -> int:
        """Number of tokens of the prompt and, after sampling, of all answers."""
        return len(self.prompt) + self.learnt if self.rows else len(self.prompt)

    @property
    def learnt(self) -> int:
        return sum(row.learnt for row in self.rows)


@dataclass(frozen=True)
class Grpo(Objective[Group], name="grpo"):
    """Group-relative policy optimisation.

    Args:
        reward: the reward function.
        tokenizer: the tokenizer of the model.
        num_generations: sampled answers per prompt.
        sampling: the sampling of the answers; each step has its own seed.
        epsilon: clip range of the probability ratio, around 1.
        beta: weight of the KL to the base model (adapter disabled).
        num_iterations: optimizer updates on the answers of one step.
    """

    reward: Reward
    tokenizer: Any
    num_generations: int = 8
    sampling: Sampling = Sampling(max_new_tokens=64, temperature=1.0)  # noqa: RUF009
    epsilon: float = 0.2
    beta: float = 0.0
    num_iterations: int = 1

    learns = "prompts"

    @classmethod
    def from_recipe(cls, recipe: Recipe, tokenizer: Any) -> "Grpo":
        settings = recipe.grpo
        return cls(
            reward=load_reward(settings.reward),
            tokenizer=tokenizer,
            sampling=sampling_of(recipe, settings),
            num_generations=settings.num_generations,
            epsilon=settings.epsilon,
            beta=settings.beta,
            num_iterations=settings.num_iterations,
        )

    def render(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int | None
    ) -> tuple[list[Rendered], Finding | None]:
        return render_prompts(examples, tokenizer, max_length, self.sampling.max_new_tokens)

    def items(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Group]:
        prompts = [tuple(render_prompt(e.prompt, tokenizer)) for e in examples]
        return [Group(prompt, e) for prompt, e in zip(prompts, examples, strict=True)]

    def collect(self, network: Network, items: Sequence[Group], step: int) -> list[Group]:
        groups = self._sampled(network, items, self.num_generations, seed=self.sampling.seed + step)
        if self.num_iterations > 1:
            with network.frozen():
                olds = self._logprobs(network, groups)
            groups = [replace(g, old=old) for g, old in zip(groups, olds, strict=True)]
        if self.beta:
            with network.base():
                bases = self._logprobs(network, groups)
            groups = [replace(g, base=base) for g, base in zip(groups, bases, strict=True)]
        return groups

    def rehearsal(self) -> "Grpo":
        """Return a version with two short answers per prompt, whose rewards always differ.

        Equal rewards would make every gradient 0, and a check of gradients could not fail.
        """

        def alternating(answers: Sequence[str], examples: Sequence[Example]) -> list[float]:
            rewards = self.reward(answers, examples)  # called because it may fail
            return [float(index % 2) for index, _ in enumerate(rewards)]

        return replace(self, reward=alternating, num_generations=2, sampling=dry_run(self.sampling))

    def units(self, items: Sequence[Group]) -> float:
        return float(sum(item.learnt for item in items))

    def pieces(self, network: Network, items: Sequence[Group]) -> list[list[Group]]:
        return light_pieces(network, items)

    def loss(self, network: Network, items: Sequence[Group]) -> Loss:
        states = tree_states(network, [item.rows for item in items])
        logprobs_N = self._read(network, states)
        old_N = logprobs_N.detach()
        if self.num_iterations > 1:
            old_N = _flat([item.old or () for item in items], logprobs_N)
        advantages = [value for item in items for value in item.advantages]
        advantages_N = tensor_on(network.device, advantages)[states.rows_N]
        losses_N, clipped_N = clipped_loss(logprobs_N - old_N, advantages_N, self.epsilon)
        count, rewards = float(len(states.targets_N)), [r for item in items for r in item.rewards]
        metrics = {
            "reward": (torch.tensor(rewards).sum(), float(len(rewards))),
            "answer_tokens": (torch.tensor(count), float(len(rewards))),
            "clipped": (clipped_N.float().sum(), count),
        }
        if self.beta:
            base_N = _flat([item.base or () for item in items], logprobs_N)
            # The ratio makes its gradient that of the KL itself (arXiv 2512.02556).
            divergence_N = (logprobs_N - old_N).exp() * kl_estimate(logprobs_N, base_N)
            losses_N = losses_N + self.beta * divergence_N
            metrics["kl"] = (divergence_N.detach().sum(), count)
        return Loss(losses_N.sum(), metrics)

    def validate(self, network: Network, items: Sequence[Group]) -> dict[str, float]:
        """Sample one answer per prompt with a fixed seed; the loss is minus the mean reward."""
        groups = self._sampled(network, items, 1, seed=self.sampling.seed)
        rewards = [reward for group in groups for reward in group.rewards]
        mean = sum(rewards) / len(rewards)
        return {"loss": -mean, "reward": mean}

    def _sampled(
        self, network: Network, items: Sequence[Group], each: int, seed: int
    ) -> list[Group]:
        with network.frozen():
            decoder = Decoder(network, self.tokenizer, replace(self.sampling, seed=seed))
            generations = decoder.answers([item.prompt for item in items], each)
        texts = [answer.text for answers in generations for answer in answers]
        rewards = self.reward(texts, [item.example for item in items for _ in range(each)])
        groups = []
        for index, (item, answers) in enumerate(zip(items, generations, strict=True)):
            own = tuple(float(r) for r in rewards[index * each : (index + 1) * each])
            start = len(item.prompt)
            rows = tuple(
                Row([*item.prompt, *a.tokens], [0.0] * start + [1.0] * len(a.tokens))
                for a in answers
            )
            groups.append(replace(item, rows=rows, rewards=own, advantages=advantages_of(own)))
        return groups

    def _read(self, network: Network, states: TargetStates) -> Tensor:
        """Return log p of the targets at the temperature of sampling."""
        temperature = self.sampling.temperature or 1.0

        def reading(logits_N_V: Tensor, targets_N: Tensor, _: slice) -> Tensor:
            logprobs_N_V = (logits_N_V / temperature).log_softmax(-1)
            return logprobs_N_V.gather(1, targets_N[:, None])[:, 0]

        return network.read(states.hidden_N_H, states.targets_N, reading)

    def _logprobs(
        self, network: Network, groups: Sequence[Group]
    ) -> list[tuple[tuple[float, ...], ...]]:
        """Return the log-probabilities of the answer tokens by group, row and token."""
        states = tree_states(network, [group.rows for group in groups])
        values = iter(self._read(network, states).tolist())
        return [
            tuple(tuple(next(values) for _ in range(row.learnt)) for row in group.rows)
            for group in groups
        ]


def advantages_of(rewards: Sequence[float]) -> tuple[float, ...]:
    """Return (reward - mean) / deviation within a group; 0 if all rewards are equal."""
    values = torch.tensor(rewards, dtype=torch.float64)
    if len(rewards) < 2:
        return (0.0,) * len(rewards)
    return tuple(((values - values.mean()) / (values.std() + _DEVIATION_FLOOR)).tolist())


def clipped_loss(log_ratio_N: Tensor, advantages_N: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Return -min(ratio A, clipped ratio A) and whether the clipped ratio was used, both (N,).

    Schulman et al. 2017 (arXiv 1707.06347), equation 7.
    """
    ratio_N = log_ratio_N.exp()
    plain_N = ratio_N * advantages_N
    clipped_N = ratio_N.clamp(1 - clip, 1 + clip) * advantages_N
    return -torch.minimum(plain_N, clipped_N), clipped_N < plain_N


def kl_estimate(logprobs_N: Tensor, base_N: Tensor) -> Tensor:
    """Return exp(d) - d - 1 with d = log base - log policy: unbiased, at least 0 (equation 4)."""
    difference_N = base_N - logprobs_N
    return difference_N.exp() - difference_N - 1


def _flat(nested: Sequence[Sequence[Sequence[float]]], like: Tensor) -> Tensor:
    values = [value for group in nested for row in group for value in row]
    return tensor_on(like.device, values, like.dtype)
