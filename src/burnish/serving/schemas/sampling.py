"""What chat and legacy completions have in common: sampling parameters and their limits."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from burnish.serving.errors import conflicting, invalid

T = TypeVar("T")
# A list that is refused for its first wrong item: a body has room for millions of them.
Array = Annotated[list[T], Field(fail_fast=True)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
_BIAS = 100.0
_DIGITS = 10


def said(what: str) -> WrapValidator:
    """Replace the errors of a union's members by one sentence that says what is expected."""

    def check(value: Any, accept: Callable[[Any], Any]) -> Any:
        """Validate the value, and replace the error."""
        try:
            return accept(value)
        except ValidationError as error:
            raise PydanticCustomError("union", "Input should be {what}", {"what": what}) from error

    return WrapValidator(check)


class Body(BaseModel):
    """A request body that rejects unknown parameters by name."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Body):
    """Options of a stream; `include_usage` adds a last chunk with the token usage."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class SamplingParams(Body):
    """Sampling parameters of a request."""

    model: str
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    seed: int | None = None
    stop: str | Annotated[Array[str], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    user: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings that are not empty."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in given if stop)

    @property
    def counts_tokens(self) -> bool:
        """Whether the stream ends with a chunk that contains the token usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def check_stream(self) -> None:
        """Reject stream options without a stream.

        Raises:
            ApiError: the request has stream options but is not streamed.
        """
        if self.stream_options is not None and not self.stream:
            said = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise conflicting(said, "stream_options")

    def biases(self, vocabulary: int) -> dict[int, float]:
        """Return token ids and the values that are added to their logits.

        Raises:
            ApiError: a key is no token of the model, or a value lies beyond 100.
        """
        result = {}
        for key, value in (self.logit_bias or {}).items():
            # Longer ones are never read as a number: Python refuses those of 4,300 digits.
            if not key.isdecimal() or len(key) > _DIGITS or int(key) >= vocabulary:
                said = f"Invalid key in 'logit_bias': {key[:40]!r} is not a token id of the model."
                raise invalid(said, "logit_bias", "invalid_token")
            if abs(value) > _BIAS:
                side = "above_max" if value > 0 else "below_min"
                said = f"The bias of token {key} is {value:g}; it must be between -100 and 100."
                raise invalid(said, "logit_bias", f"decimal_{side}_value")
            result[int(key)] = value
        return result

    def drawn(self, **more: Any) -> dict[str, Any]:
        """What `SamplingSettings` takes from here; the API's own defaults for what is left out."""
        temperature, top_p = self.temperature, self.top_p
        return {
            "temperature": 1.0 if temperature is None else temperature,
            "top_p": 1.0 if top_p is None else top_p,
            "seed": self.seed,
            "stop": self.stops,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "presence_penalty": self.presence_penalty or 0.0,
            **more,
        }


class JsonSchema(Body):
    """A JSON schema that the answer must follow."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Body):
    """The format of the answer: text, any JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
