"""A model is three verbs: base, tuned, adapter at half scale, served and mock all speak them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from burnish.conversation import Conversation

_DRY_RUN_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn. Temperature 0 is greedy; `stop` strings are cut off."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0


def dry_run(sampling: Sampling) -> Sampling:
    """The same with short answers, where only the way to them is tried."""
    return replace(sampling, max_new_tokens=min(sampling.max_new_tokens, _DRY_RUN_TOKENS))


@dataclass(frozen=True, slots=True)
class Generation:
    """An answer: its text, its tokens (stop token included) and their summed log-probability.

    Where an answer ends because another speaker's line begins, the tokens of that line are none.
    """

    text: str
    tokens: tuple[int, ...]
    logprob: float
    finished: bool


@dataclass(frozen=True, slots=True)
class TextLoss:
    """Negative log-likelihood of a text: nats in all, and the number of tokens predicted."""

    nats: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One question and the texts that may follow it.

    `context` is a conversation (rendered with the chat template, the choices being replies) or
    plain text that the choices continue.
    """

    context: Conversation | str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """For each choice the summed log-probability (nats), and its length in characters."""

    logprobs: tuple[float, ...]
    characters: tuple[int, ...]


Stream = Callable[[int, str], None]


class ModelInfo(Protocol):
    """What a run of a task must know of any model."""

    @property
    def name(self) -> str:
        """How reports call the model."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the answers could: a hash of the weights and the adapter."""
        ...


class Model(ModelInfo, Protocol):
    """What every measure of a model that writes runs on."""

    def generate(
        self,
        prompts: Sequence[Conversation],
        sampling: Sampling,
        stream: Stream | None = None,
    ) -> list[Generation]:
        """Answers in the order of the prompts; `stream` gets (prompt index, new text)."""
        ...

    def score(self, items: Sequence[Choice]) -> list[Scores]:
        """How likely each choice is after its context."""
        ...

    def nll(self, texts: Sequence[str]) -> list[TextLoss]:
        """How surprising each text is."""
        ...
