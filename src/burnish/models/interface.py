"""The interface of every model: generate, score and nll, for base, tuned and served models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from burnish.conversation import Conversation

_DRY_RUN_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are sampled. Temperature 0 is greedy; `stop` strings are cut off."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0


def dry_run(sampling: Sampling) -> Sampling:
    """The same settings with short answers, to try generation out quickly."""
    return replace(sampling, max_new_tokens=min(sampling.max_new_tokens, _DRY_RUN_TOKENS))


@dataclass(frozen=True, slots=True)
class Generation:
    """An answer: its text, its tokens (stop token included) and their summed log-probability.

    If an answer ends because the line of another speaker begins, that line is not part of it.
    """

    text: str
    tokens: tuple[int, ...]
    logprob: float
    finished: bool


@dataclass(frozen=True, slots=True)
class TextLoss:
    """Negative log-likelihood of a text: total nats, and the number of predicted tokens."""

    nats: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Choice:
    """A question and its possible answers.

    `context` is a conversation, rendered with the chat template and answered by the choices, or
    plain text that the choices continue.
    """

    context: Conversation | str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """The summed log-probability (nats) and the length in characters of each choice."""

    logprobs: tuple[float, ...]
    characters: tuple[int, ...]


Stream = Callable[[int, str], None]


class ModelInfo(Protocol):
    """The name and fingerprint of a model."""

    @property
    def name(self) -> str:
        """The model's name in reports."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of the weights and the adapter, which changes when the answers may change."""
        ...


class Model(ModelInfo, Protocol):
    """A model that generates text, as every evaluation uses it."""

    def generate(
        self,
        prompts: Sequence[Conversation],
        sampling: Sampling,
        stream: Stream | None = None,
    ) -> list[Generation]:
        """Returns an answer to each prompt; `stream` is called with (prompt index, new text)."""
        ...

    def score(self, items: Sequence[Choice]) -> list[Scores]:
        """Returns the log-probability of each choice after its context."""
        ...

    def nll(self, texts: Sequence[str]) -> list[TextLoss]:
        """Returns the negative log-likelihood of each text."""
        ...
