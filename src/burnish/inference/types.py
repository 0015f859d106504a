"""Requests to the engine and their answers, as plain data."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


class Grammar(Protocol):
    """Which tokens may come next; one object per answer, advanced as tokens are drawn."""

    def mask(self, logits_V: Tensor, stops: Collection[int] = ()) -> None:
        """Sets what may not come next to -inf, in place; stop tokens may come at an end."""
        ...

    def advance(self, token: int) -> None:
        """The token was drawn."""
        ...

    @property
    def ended(self) -> bool:
        """Nothing but the end may follow."""
        ...


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How one answer is sampled, with the API's meaning of each parameter.

    Temperature 0 is greedy. `top_logprobs` asks for so many alternatives a token (None: no
    log-probabilities). `ends` are tokens that end the answer along with the model's own, and
    `speakers` texts that end it like `stop`, but also where it begins with one, without its line
    break. Penalties are subtracted from the logits of what the answer holds already;
    `bias` is added. Log-probabilities are those of the model before temperature, penalties and
    bias.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()
    speakers: tuple[str, ...] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    grammar: Callable[[], Grammar] | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for one answer: prompt tokens, adapter (None: the base model) and sampling
    settings.

    `adapter` is a folder in PEFT format. `prompt_logprobs` asks for those of the prompt's own
    tokens (legacy `echo`). `project` is the asking key's: beginnings are shared only within it,
    since how much was known of a prompt tells what others have asked.
    """

    prompt: tuple[int, ...]
    sampling: SamplingSettings
    adapter: str | None = None
    prompt_logprobs: bool = False
    project: str | None = None


@dataclass(frozen=True, slots=True)
class SampledToken:
    """One token of an answer: its log-probability in nats and the likeliest others."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of the prompt, those of them that were computed before, and those drawn.

    A stop token, and tokens behind a stop string, count among the drawn ones.
    """

    prompt: int
    cached: int
    drawn: int


@dataclass(frozen=True, slots=True)
class Piece:
    """The next part of an answer: text that will not change, and its tokens.

    `end` is set on the last piece: "stop" (a stop token or string) or "length". `prompt` holds
    the prompt's own tokens where they were asked for, on the first piece; its first token has
    nothing before it, so no log-probability. A stop token, or one behind a stop string, is in no
    piece: `used`, on the last piece, counts what was computed.
    """

    text: str
    drawn: tuple[SampledToken, ...] = ()
    end: str | None = None
    prompt: tuple[SampledToken, ...] = ()
    used: TokenCounts | None = None


@dataclass(slots=True)
class Generation:
    """An answer that grows to its end."""

    text: str = ""
    drawn: list[SampledToken] = field(default_factory=list)
    end: str = "stop"
    prompt: tuple[SampledToken, ...] = ()

    def grow(self, piece: Piece) -> None:
        """Append a piece."""
        self.text += piece.text
        self.drawn += piece.drawn
        self.end = piece.end or self.end
        self.prompt = piece.prompt or self.prompt
