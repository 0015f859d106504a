"""The route of chat completions: messages in; replies out, complete or streamed."""

import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.chat_completion import Choice, ChoiceLogprobs
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from openai.types.chat.chat_completion_message import ChatCompletionMessage
from pydantic import Field, model_validator

from burnish.data.answer_text import ReplyReader
from burnish.data.chat_templates import speaker_prefixes
from burnish.errors import UserError
from burnish.inference.grammar import call_grammar
from burnish.inference.tool_calls import Call, text_before_calls
from burnish.inference.types import (
    Generation,
    GenerationRequest,
    Grammar,
    Piece,
    SampledToken,
    SamplingSettings,
)
from burnish.serving.catalog.served_model import (
    ServedModel,
    answer_room,
    prompt_tokens,
    reject_too_long_prompt,
)
from burnish.serving.errors import conflicting, invalid, refused
from burnish.serving.middleware.request_state import Usage, record, usage_of
from burnish.serving.routes.generation import (
    ClientDisconnected,
    complete,
    resolve_model,
    run_in_thread_if_large,
    start_stream,
    streamed,
)
from burnish.serving.schemas.openapi import CHAT
from burnish.serving.schemas.sampling import Array, Body, Metadata, ResponseFormat, SamplingParams
from burnish.serving.schemas.tools import ToolOptions

router = APIRouter()
_GONE = Response(status_code=499)  # nobody reads it
# What the models here have no use for is refused by name, and null is none of it.
_UNUSED = frozenset(
    ("audio", "moderation", "prediction", "prompt_cache_options", "reasoning_effort",
     "web_search_options")
)  # fmt: skip


class Message(Body):
    """One message of the conversation.

    Some fields are only taken as a reply of the client has them, empty, so that it can be sent
    back; `parsed` is what the client made of the content, which is read instead.
    """

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | Array[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: Array[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: dict[str, Any] | None = None
    reasoning_content: str | None = None
    parsed: Any = None


class ChatRequest(SamplingParams, ToolOptions):
    """The body of a chat completion request.

    `return_token_ids` is an extension, as in vLLM: a complete reply then also contains the ids of
    its prompt tokens, so that a client can see how its messages were rendered.
    """

    messages: Annotated[Array[Message], Field(min_length=1)]
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    response_format: ResponseFormat | None = None
    modalities: Array[Literal["text"]] | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    verbosity: Literal["medium"] | None = None
    return_token_ids: bool | None = None

    @property
    def wanted(self) -> int | None:
        """Tokens that the answer may have, by the request itself."""
        return self.max_completion_tokens or self.max_tokens

    @model_validator(mode="before")
    @classmethod
    def _without_unused(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if v is not None or k not in _UNUSED}


@router.post(
    "/chat/completions", summary="Create a chat completion", response_model=None, responses=CHAT
)
async def create(body: ChatRequest, request: Request) -> Response:
    """Generate one or more replies to a conversation, complete or as a stream of server-sent
    events."""
    _check(body)
    target = await resolve_model(request, body.model)
    turns = [message.model_dump(exclude_none=True) for message in body.messages]
    keeps = bool(body.offered) or (body.response_format is not None)
    prompt, asks = await run_in_thread_if_large(
        request, _prepared, body, turns, target, compiles=keeps
    )
    usage = usage_of(request)
    usage.prompt = len(prompt)
    reply = _Reply(body, target, usage, prompt)
    try:
        if body.stream:
            result = await start_stream(target.engine, asks, request, usage)
            said = [Generation() for _ in asks]
            record(request, turns, said)
            return streamed(reply.chunks(result, said))
        answers = await complete(target.engine, asks, request, usage)
    except ClientDisconnected:
        return _GONE
    record(request, turns, answers)
    told = reply.completion(answers).model_dump(mode="json", exclude_unset=True)
    if body.return_token_ids:
        told["prompt_token_ids"] = list(prompt)
    return JSONResponse(told)


@router.get("/chat/completions", include_in_schema=False)
def stored() -> None:
    """Answer that completions are not stored, so there is no list of them.

    Raises:
        HTTPException: always; no such URL.
    """
    raise HTTPException(404)


def _check(body: ChatRequest) -> None:
    """Parameters that mean nothing without others, or with them."""
    body.check_stream()
    for place, message in enumerate(body.messages):
        if message.content is None and message.role not in ("assistant", "function"):
            said = f"The message with the role '{message.role}' has no content; add a string."
            raise invalid(said, f"messages[{place}].content", "missing_required_parameter")
    if body.top_logprobs is not None and not body.logprobs:
        raise conflicting("'top_logprobs' requires 'logprobs' to be true.", "top_logprobs")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        said = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise conflicting(said, "max_tokens")
    body.check_tools()


def _grammar(body: ChatRequest, target: ServedModel) -> Callable[[], Grammar] | None:
    """What the answer must keep to; None where it is free. A format that is wanted leaves the
    model free to call, and a call of what is strict leaves it free in its words."""
    tools, functions = "functions" if body.functions else "tools", body.required_functions
    with _naming(tools):
        if functions:
            several = not body.one_call and body.tool_choice == "required"
            return call_grammar(target.tokenizer, functions, several=several)
    with _naming("response_format"):
        answer = target.grammar(body.response_format)
    offered = [tool["function"] for tool in body.offered]
    if not offered or (answer is None and not any(one.get("strict") for one in offered)):
        return answer
    reply: Mapping[str, Any] | Literal["words"] = "words" if answer is None else answer.schema
    with _naming(tools):
        several = not body.one_call
        return call_grammar(target.tokenizer, offered, several=several, answer=reply)


@contextmanager
def _naming(param: str) -> Iterator[None]:
    """The parameter that is at fault where what it holds cannot be used."""
    try:
        yield
    except UserError as error:
        raise refused(error, param) from error


def _prepared(
    body: ChatRequest, turns: Sequence[dict[str, Any]], target: ServedModel
) -> tuple[tuple[int, ...], list[GenerationRequest]]:
    with reject_too_long_prompt(target, body.wanted, "messages"):
        prompt = prompt_tokens(turns, body.offered, target.tokenizer, target.engine.context)
    return prompt, _asks(body, target, prompt)


def _asks(
    body: ChatRequest, target: ServedModel, prompt: tuple[int, ...]
) -> list[GenerationRequest]:
    """An ask for each choice."""
    room = answer_room(target, prompt, body.wanted)
    draw = SamplingSettings(
        max_tokens=room,
        bias=body.biases(target.vocabulary),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        grammar=_grammar(body, target),
        speakers=speaker_prefixes(target.tokenizer),
        **{name: value for name, value in body.drawn().items() if name != "seed"},
    )
    return [target.ask(prompt, draw, body.seed, place) for place in range(body.n or 1)]


class _Reply:
    """What all parts of one reply have in common."""

    def __init__(
        self, body: ChatRequest, target: ServedModel, usage: Usage, prompt: Sequence[int]
    ) -> None:
        self.body, self.target, self.usage = body, target, usage
        self.reader = ReplyReader(target.tokenizer, body.offered, prompt)
        self.nothing = None if body.offered else ""  # what a reply says that only calls
        self.shared: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": target.fingerprint,
            "service_tier": "default",
        }

    def completion(self, answers: Sequence[Generation]) -> ChatCompletion:
        """The whole reply."""
        choices = [self._choice(place, answer) for place, answer in enumerate(answers)]
        return ChatCompletion(
            object="chat.completion", choices=choices, usage=self.usage.told, **self.shared
        )

    async def chunks(
        self, found: AsyncIterator[tuple[int, Piece]], said: Sequence[Generation]
    ) -> AsyncIterator[ChatCompletionChunk]:
        """The reply as it is written, its calls of tools too."""
        shown = [_Shown(self.body, self.reader) for _ in said]
        start_stream = ChoiceDelta(role="assistant", content=self.nothing, refusal=None)
        for place in range(len(said)):
            yield self._chunk(place, start_stream)
        async for place, piece in found:
            said[place].grow(piece)
            for delta in shown[place].more(said[place].text, piece):
                yield self._chunk(place, delta, drawn=shown[place].told())
            if piece.end:
                for chunk in self._ended(place, said[place], shown[place]):
                    yield chunk
        if self.body.counts_tokens:
            yield self._marked(choices=[], usage=self.usage.told)

    def _ended(self, place: int, answer: Generation, shown: "_Shown") -> list[ChatCompletionChunk]:
        parts = self.reader.parts(answer.text)
        text, calls, end = self.body.split_calls(parts.content, answer.end, self.reader.calls)
        deltas = [*shown.thought(parts.thought), *shown.rest(text, calls)]
        result = [self._chunk(place, delta, drawn=shown.told()) for delta in deltas]
        return [*result, self._chunk(place, ChoiceDelta(), end=end, drawn=shown.told())]

    def _choice(self, place: int, answer: Generation) -> Choice:
        parts = self.reader.parts(answer.text)
        text, calls, end = self.body.split_calls(parts.content, answer.end, self.reader.calls)
        message: dict[str, Any] = {"role": "assistant", "content": text or self.nothing}
        message |= {"reasoning_content": parts.thought} if parts.thought else {}
        message |= {"refusal": None, "annotations": []} | (self.body.told(calls) if calls else {})
        return Choice.model_validate(
            {
                "index": place,
                "finish_reason": end,
                "logprobs": self._logprobs(answer.drawn),
                "message": ChatCompletionMessage.model_validate(message),
            }
        )

    def _chunk(
        self,
        place: int,
        delta: ChoiceDelta,
        *,
        end: str | None = None,
        drawn: Sequence[SampledToken] = (),
    ) -> ChatCompletionChunk:
        choice: dict[str, Any] = {"index": place, "delta": delta, "finish_reason": end}
        logprobs = self._logprobs(drawn) if drawn else None
        choice["logprobs"] = logprobs and logprobs.model_dump()  # a chunk has its own type of them
        counted: dict[str, Any] = {"usage": None} if self.body.counts_tokens else {}
        return self._marked(choices=[ChunkChoice(**choice)], **counted)

    def _marked(self, **parts: Any) -> ChatCompletionChunk:
        return ChatCompletionChunk(object="chat.completion.chunk", **self.shared, **parts)

    def _logprobs(self, drawn: Sequence[SampledToken]) -> ChoiceLogprobs | None:
        if not self.body.logprobs:
            return None
        return ChoiceLogprobs(content=self.target.token_text.chat_logprobs(drawn), refusal=None)


class _Shown:
    """What of one streamed answer has been shown: of a call, its name and its arguments."""

    def __init__(self, offer: ToolOptions, reader: ReplyReader) -> None:
        self.offer, self.offered, self.reader = offer, bool(offer.offered), reader
        self._size = self._thought = 0
        self._calls: list[int] = []
        self._drawn: list[SampledToken] = []

    def more(self, text: str, piece: Piece) -> Iterator[ChoiceDelta]:
        """What can be shown now that the answer has grown to `text` by `piece`."""
        self._drawn += piece.drawn
        parts, form = self.reader.parts(text, ended=False), self.reader.calls
        yield from self.thought(parts.thought)
        text = parts.content
        before = text_before_calls(text, form) if self.offered else text
        calls = self.offer.split_calls(text, "", form)[1] if len(before) < len(text) else []
        yield from self.rest(before, calls)

    def thought(self, text: str) -> Iterator[ChoiceDelta]:
        """What of the thought has not been shown."""
        if new := text[self._thought :]:
            self._thought += len(new)
            yield ChoiceDelta.model_validate({"reasoning_content": new})

    def rest(self, text: str, calls: Sequence[Call]) -> Iterator[ChoiceDelta]:
        """What of that has not been shown."""
        if new := text[self._size :]:
            self._size += len(new)
            yield ChoiceDelta(content=new)
        for told in self.offer.new_call_deltas(calls, self._calls):
            yield ChoiceDelta.model_validate(told)

    def told(self) -> list[SampledToken]:
        """The tokens since it was last asked."""
        drawn, self._drawn = self._drawn, []
        return drawn
