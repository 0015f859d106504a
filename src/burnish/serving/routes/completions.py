"""The route of legacy completions: text or tokens in, their continuation out."""

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from openai.types import Completion, CompletionChoice
from openai.types.completion_choice import Logprobs
from pydantic import Field

from burnish.inference.types import (
    Generation,
    GenerationRequest,
    Piece,
    SampledToken,
    SamplingSettings,
)
from burnish.serving.catalog.served_model import ServedModel, answer_room, reject_too_long_prompt
from burnish.serving.errors import conflicting, invalid
from burnish.serving.middleware.request_state import Usage, record, usage_of
from burnish.serving.routes.generation import (
    ClientDisconnected,
    complete,
    resolve_model,
    run_in_thread_if_large,
    start_stream,
    streamed,
)
from burnish.serving.schemas.openapi import COMPLETION
from burnish.serving.schemas.sampling import Array, SamplingParams

router = APIRouter()
_GONE = Response(status_code=499)
T = TypeVar("T")
_Several = Annotated[Array[T], Field(min_length=1)]
# The API's own default.
_TOKENS = 16


class CompletionRequest(SamplingParams):
    """The body of a legacy completion request."""

    prompt: (
        str | _Several[str] | _Several[int] | _Several[Annotated[Array[int], Field(min_length=1)]]
    ) | None = None
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    suffix: str | None = None

    @property
    def wanted(self) -> int:
        """Tokens that each answer may have."""
        return _TOKENS if self.max_tokens is None else self.max_tokens


@router.post(
    "/completions", summary="Create a completion", response_model=None, responses=COMPLETION
)
async def create(body: CompletionRequest, request: Request) -> Response:
    """Continue each prompt one or more times; with `echo`, also return the prompt and how likely it
    is."""
    body.check_stream()
    if body.suffix:
        raise invalid("This server does not support 'suffix'.", "suffix", "unsupported_parameter")
    if body.stream and (body.best_of or 1) > (body.n or 1):
        raise conflicting("'best_of' cannot be streamed.", "best_of")
    if (body.best_of or body.n or 1) < (body.n or 1):
        raise conflicting("'best_of' must be at least 'n'.", "best_of")
    target = await resolve_model(request, body.model)
    _check_count(body, target.engine.max_requests)
    prompts = await run_in_thread_if_large(request, _prompts, body, target)
    usage = usage_of(request)
    usage.prompt = sum(len(prompt) for prompt in prompts)
    reply = _Reply(body, target, prompts, usage)
    try:
        if body.stream:
            result = await start_stream(target.engine, reply.asks, request, usage)
            record(request, body.prompt, reply.said)
            return streamed(reply.chunks(result))
        answers = await complete(target.engine, reply.asks, request, usage)
    except ClientDisconnected:
        return _GONE
    record(request, body.prompt, answers)
    return JSONResponse(reply.completion(answers).model_dump(mode="json", exclude_unset=True))


def _check_count(body: CompletionRequest, most: int) -> None:
    """
    Raises:
        ApiError: there are more answers to compute than could ever wait together.
    """
    given, count = body.prompt, max(body.best_of or 1, body.n or 1)
    if isinstance(given, list) and given and not isinstance(given[0], int):
        count *= len(given)
    if count > most:
        said = f"The request asks for {count} answers (its prompts times 'n' or 'best_of'); "
        raise invalid(f"{said}ask for at most {most} at once.", "prompt", "too_many_answers")


def _prompts(body: CompletionRequest, target: ServedModel) -> list[tuple[int, ...]]:
    """The prompts as tokens; no prompt is the start token."""
    given = body.prompt
    if not given:
        return [target.start]
    if isinstance(given, str):
        return [_encoded(given, body, target)]
    if isinstance(given[0], int):
        return [_checked(given, body, target)]
    return [
        _encoded(one, body, target) if isinstance(one, str) else _checked(one, body, target)
        for one in given
    ]


def _encoded(text: str, body: CompletionRequest, target: ServedModel) -> tuple[int, ...]:
    with reject_too_long_prompt(target, body.wanted, "prompt"):
        return target.encoded(text)


def _checked(tokens: Any, body: CompletionRequest, target: ServedModel) -> tuple[int, ...]:
    answer_room(target, tokens, body.wanted, "prompt")  # before each of millions is looked at
    if wrong := [token for token in tokens if not 0 <= token < target.vocabulary]:
        raise invalid(f"Invalid token in prompt: {wrong[0]}.", "prompt", "invalid_token")
    return tuple(tokens) or target.start


class _Reply:
    """The asks of one request, and what comes of them."""

    def __init__(
        self,
        body: CompletionRequest,
        target: ServedModel,
        prompts: Sequence[tuple[int, ...]],
        usage: Usage,
    ) -> None:
        self.body, self.target, self.prompts, self.usage = body, target, prompts, usage
        self.each = max(body.best_of or 1, body.n or 1)
        self.asks = [self._ask(prompt, place) for prompt in prompts for place in range(self.each)]
        self.said = [Generation() for _ in self.asks]
        self.shared: dict[str, Any] = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": target.fingerprint,
            "object": "text_completion",
        }

    def completion(self, answers: Sequence[Generation]) -> Completion:
        """The best `n` answers of each prompt."""
        choices = []
        for place in range(len(self.prompts)):
            own = list(answers[place * self.each : (place + 1) * self.each])
            if self.each > (self.body.n or 1):
                own.sort(key=_likelihood, reverse=True)
            choices += [(place, answer) for answer in own[: self.body.n or 1]]
        result = [self._choice(index, *choice) for index, choice in enumerate(choices)]
        return Completion(choices=result, usage=self.usage.told, **self.shared)

    async def chunks(self, found: AsyncIterator[tuple[int, Piece]]) -> AsyncIterator[Completion]:
        """Texts as they are written; an echoed prompt comes first."""
        shown: dict[int, int] = {}
        async for place, piece in found:
            self.said[place].grow(piece)
            answer = Generation(piece.text, list(piece.drawn), piece.end or "", piece.prompt)
            if place not in shown:
                shown[place] = self._begin(place // self.each, answer)
            logprobs = self._logprobs(answer, shown[place])
            shown[place] += len(answer.text)
            choice = CompletionChoice.construct(
                index=place, text=answer.text, finish_reason=piece.end, logprobs=logprobs
            )
            yield Completion.construct(choices=[choice], **self._counted(), **self.shared)
        if self.body.counts_tokens:
            yield Completion(choices=[], usage=self.usage.told, **self.shared)

    def _counted(self) -> dict[str, Any]:
        return {"usage": None} if self.body.counts_tokens else {}

    def _ask(self, prompt: tuple[int, ...], place: int) -> GenerationRequest:
        body = self.body
        draw = SamplingSettings(
            max_tokens=answer_room(self.target, prompt, body.wanted, "prompt"),
            bias=body.biases(self.target.vocabulary),
            # Choosing the best of several needs them, wanted or not.
            top_logprobs=body.logprobs if body.logprobs is not None else self._judged,
            **{name: value for name, value in body.drawn().items() if name != "seed"},
        )
        echoed = bool(body.echo) and body.logprobs is not None
        return self.target.ask(prompt, draw, body.seed, place, prompt_logprobs=echoed)

    @property
    def _judged(self) -> int | None:
        return 0 if self.each > (self.body.n or 1) else None

    def _choice(self, index: int, place: int, answer: Generation) -> CompletionChoice:
        logprobs = self._logprobs(answer, self._begin(place, answer))
        return CompletionChoice(
            index=index,
            text=answer.text,
            finish_reason=answer.end,
            logprobs=logprobs,
        )

    def _begin(self, place: int, answer: Generation) -> int:
        """Puts an echoed prompt before its answer; returns where the text begins in both."""
        prompt = self.target.decoded(self.prompts[place])
        if not self.body.echo:
            return len(prompt)
        answer.text = prompt + answer.text
        return 0

    def _logprobs(self, answer: Generation, offset: int) -> Logprobs | None:
        if self.body.logprobs is None:
            return None
        token_text = self.target.token_text
        return token_text.completion_logprobs(
            answer.prompt, answer.drawn, offset, self.body.logprobs
        )


def _likelihood(answer: Generation) -> float:
    """The mean log-probability of a token, by which the API orders."""
    known: list[SampledToken] = [one for one in answer.drawn if one.logprob is not None]
    return sum(one.logprob or 0.0 for one in known) / max(1, len(known))
