"""Distillation: trains the student towards a teacher's distribution, token by token.

The teacher is the base model with another prompt (context distillation, arXiv 2209.15189), another
local model, or a server that returns log-probabilities. The answers are those of the rows, or
sampled from the student (Agarwal et al. 2023, arXiv 2306.13649). Student and teacher may have
different prompts before the same answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from burnish.conversation import Example, Message
from burnish.data.render import Rendered, render_prompt, render_prompts
from burnish.errors import RecipeError
from burnish.models.branches import Network, Row, branch_states
from burnish.models.endpoint import ServedTeacher
from burnish.models.generate import Decoder
from burnish.models.interface import Sampling, dry_run
from burnish.models.load import load_model, load_tokenizer
from burnish.models.registry import resolve
from burnish.recipe.schema import Recipe
from burnish.runs.directory import Finding
from burnish.training.objectives.base import Loss, Objective, rows_of, sampling_of

# Log-probabilities (n, V) of the positions in a slice; -inf where the teacher's are unknown.
TeacherLogprobs = Callable[[slice], Tensor]


class Teacher(Protocol):
    """Returns log-probabilities at the weighted positions of rows, one row after the other."""

    def logprobs(self, network: Network, rows: Sequence[Row]) -> TeacherLogprobs: ...


@dataclass(frozen=True)
class OwnBase:
    """The student's base model: the student with its adapter disabled."""

    def logprobs(self, network: Network, rows: Sequence[Row]) -> TeacherLogprobs:
        with network.base():
            hidden_N_H = branch_states(network, rows).hidden_N_H

        def read(which: slice) -> Tensor:
            with torch.no_grad():  # adapters do not change the vocabulary projection
                return network.logits(hidden_N_H[which]).log_softmax(-1)

        return read


class LocalTeacher:
    """Another model with the same vocabulary, loaded on first use."""

    def __init__(self, load: Callable[[], Network]) -> None:
        self._load = load

    @cached_property
    def teacher(self) -> Network:
        return self._load()

    def logprobs(self, network: Network, rows: Sequence[Row]) -> TeacherLogprobs:
        with self.teacher.frozen():
            hidden_N_H = branch_states(self.teacher, rows).hidden_N_H

        def read(which: slice) -> Tensor:
            with torch.no_grad():
                return self.teacher.logits(hidden_N_H[which]).log_softmax(-1).to(network.device)

        return read


@dataclass(frozen=True, slots=True)
class Twin:
    """One answer after the student's prompt and after the teacher's."""

    student: Row
    teacher: Row

    @property
    def size(self) -> int:
        return self.student.size + self.teacher.size

    @property
    def learnt(self) -> int:
        return self.student.learnt


@dataclass(frozen=True)
class Distill(Objective[Twin], name="distill"):
    """Trains the student to answer like the teacher.

    Args:
        teacher: the source of the target log-probabilities.
        tokenizer: the student's tokenizer, for sampling.
        system: system message that the teacher reads instead of the student's.
        kl_direction: `forward` is KL(teacher, student), `reverse` is KL(student, teacher).
        on_policy: train on answers that the student samples instead of the answers of the rows.
        sampling: the sampling of these answers.
    """

    teacher: Teacher
    tokenizer: Any
    system: str | None = None
    kl_direction: Literal["forward", "reverse"] = "forward"
    on_policy: bool = False
    sampling: Sampling = Sampling(max_new_tokens=64, temperature=1.0)  # noqa: RUF009

    @classmethod
    def from_recipe(cls, recipe: Recipe, tokenizer: Any) -> "Distill":
        settings = recipe.distill
        return cls(
            teacher=_teacher(recipe, tokenizer),
            tokenizer=tokenizer,
            system=settings.system,
            kl_direction=settings.kl_direction,
            on_policy=settings.on_policy,
            sampling=sampling_of(recipe, settings),
        )

    def render(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int | None
    ) -> tuple[list[Rendered], Finding | None]:
        if not self.on_policy:
            return super().render(examples, tokenizer, max_length)
        return render_prompts(examples, tokenizer, max_length, self.sampling.max_new_tokens)

    def items(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Twin]:
        teacher_examples = [with_system(example, self.system) for example in examples]
        if self.on_policy:
            return [
                Twin(_prompt(own, tokenizer), _prompt(other, tokenizer))
                for own, other in zip(examples, teacher_examples, strict=True)
            ]
        rows = rows_of(examples, tokenizer, max_length)
        teacher_rows = rows_of(teacher_examples, tokenizer, 1 << 30)
        return [Twin(own, other) for own, other in zip(rows, teacher_rows, strict=True)]

    def collect(self, network: Network, items: Sequence[Twin], step: int) -> list[Twin]:
        if not self.on_policy:
            return list(items)
        with network.frozen():
            sampling = replace(self.sampling, seed=self.sampling.seed + step)
            decoder = Decoder(network, self.tokenizer, sampling)
            answers = decoder.answers([item.student.tokens for item in items])
        return [
            Twin(_answered(item.student, own.tokens), _answered(item.teacher, own.tokens))
            for item, (own,) in zip(items, answers, strict=True)
        ]

    def rehearsal(self) -> "Distill":
        return replace(self, sampling=dry_run(self.sampling)) if self.on_policy else self

    def units(self, items: Sequence[Twin]) -> float:
        return float(sum(sum(item.student.weights) for item in items))

    def loss(self, network: Network, items: Sequence[Twin]) -> Loss:
        teacher = self.teacher.logprobs(network, [item.teacher for item in items])
        states = branch_states(network, [item.student for item in items])
        divergence = forward_kl if self.kl_direction == "forward" else reverse_kl

        def reading(logits_N_V: Tensor, _targets_N: Tensor, which: slice) -> Tensor:
            return divergence(teacher(which), logits_N_V.log_softmax(-1))

        values_N = network.read(states.hidden_N_H, states.targets_N, reading)
        return Loss((values_N * states.weights_N).sum())

    def validate(self, network: Network, items: Sequence[Twin]) -> dict[str, float]:
        """Return metrics per unit; on policy, answers are sampled again with the same seed."""
        return super().validate(network, self.collect(network, items, 0))


def _teacher(recipe: Recipe, tokenizer: Any) -> Teacher:
    """Return the recipe's teacher: the base model, a server, or another local model."""
    settings = recipe.distill
    if settings.teacher is None:
        return OwnBase()
    if settings.teacher.startswith(("http://", "https://")):
        if settings.kl_direction == "reverse":
            raise RecipeError(
                "distill.kl_direction is reverse, but a server returns only the likeliest tokens",
                "set it to forward, or use a local teacher",
                code="reverse_needs_local_teacher",
                key="distill.kl_direction",
                teacher=settings.teacher,
            )
        return ServedTeacher(settings.teacher, settings.served_name, tokenizer)
    name = settings.teacher
    if load_tokenizer(resolve(name)).get_vocab() != tokenizer.get_vocab():
        raise RecipeError(
            f"distill.teacher {name} has a different vocabulary than {recipe.model}",
            "choose a teacher of the same family",
            code="other_vocabulary",
            key="distill.teacher",
            teacher=name,
            model=recipe.model,
        )
    return LocalTeacher(lambda: load_model(name, recipe.device).network)


def forward_kl(teacher_N_V: Tensor, student_N_V: Tensor) -> Tensor:
    """Return the sum of p_teacher (log p_teacher - log p_student) in nats, shape (N,)."""
    known_N_V = teacher_N_V.isfinite()
    difference_N_V = (teacher_N_V - student_N_V).masked_fill(~known_N_V, 0.0)
    return (teacher_N_V.exp() * difference_N_V).sum(-1)


def reverse_kl(teacher_N_V: Tensor, student_N_V: Tensor) -> Tensor:
    """Return the sum of p_student (log p_student - log p_teacher) in nats, shape (N,)."""
    return (student_N_V.exp() * (student_N_V - teacher_N_V)).sum(-1)


def with_system(example: Example, system: str | None) -> Example:
    """Return the row with another system message, for the teacher."""
    if system is None:
        return example
    rest = tuple(turn for turn in example.messages if turn.role != "system")
    return replace(example, messages=(Message("system", system), *rest))


def _prompt(example: Example, tokenizer: Any) -> Row:
    tokens = render_prompt(example.prompt, tokenizer)
    return Row(tokens, [0.0] * len(tokens))


def _answered(prompt: Row, answer: Sequence[int]) -> Row:
    return Row([*prompt.tokens, *answer], [*prompt.weights, *[1.0] * len(answer)])
