"""A vLLM server that computes the answers, for GPUs; routes, names, limits and logs stay ours.

Prompts go as token ids and answers come back as token ids and text, so what a template makes of
messages, and what a single token reads like, is decided here alone. Tuned models are loaded there
by the folder of their adapter: vLLM has to see the same folders, and to run with --enable-lora and
VLLM_ALLOW_RUNTIME_LORA_UPDATING=True. A key, where it wants one, is read from VLLM_API_KEY.
"""

import asyncio
import hashlib
import json
import os
import threading
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2

from burnish.errors import ModelError, UserError
from burnish.inference.engine import EngineCounters, check
from burnish.inference.errors import (
    BackendError,
    RequestError,
    UnavailableError,
    overloaded,
    shutting_down,
)
from burnish.inference.grammar import SchemaGrammar, ToolCallGrammar
from burnish.inference.stream import AnswerStream
from burnish.inference.types import (
    GenerationRequest,
    Piece,
    SampledToken,
    SamplingSettings,
    TokenCounts,
)

# Answers that are asked for at once; vLLM queues what it has no room for.
_MOST = 512
# Seconds in which a connection comes about; an answer may take as long as it takes.
_CONNECT = 10.0
# Bits of a seed that vLLM takes; -1 means none to it.
_SEED = 63
# Characters of an error that are handed on.
_SAID = 300
_FAILED = "The model server had an error."


class VllmBackend:
    """Forwards requests to a vLLM server and streams its answers, as `Engine` does.

    Args:
        url: the server's base URL, ending in /v1.
        vocabulary: tokens of its model.
        marked: whether its answers mark thoughts or calls with special tokens, to be kept.

    Raises:
        InferenceError: the server does not answer.
        UserError: it does not answer as vLLM does.
    """

    def __init__(self, url: str, vocabulary: int, *, marked: bool = False) -> None:
        self.url, self.vocabulary, self.marked = url.rstrip("/"), vocabulary, marked
        self._headers = {"Authorization": f"Bearer {os.environ.get('VLLM_API_KEY', 'none')}"}
        self.name, self.context = self._base()
        self.max_requests = _MOST
        self._counted = TokenCounts(0, 0, 0)
        self._active: set[asyncio.Task[None]] = set()
        self._loaded: dict[str, asyncio.Future[str]] = {}
        self._closing = False
        self._loop = asyncio.new_event_loop()
        timeout = httpx2.Timeout(None, connect=_CONNECT)
        limits = httpx2.Limits(max_connections=None)
        self._client = httpx2.AsyncClient(headers=self._headers, timeout=timeout, limits=limits)
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> AnswerStream:
        """Asks for an answer; from any thread, never waiting.

        Raises:
            InferenceError: the prompt is empty or too long, a token is not in the vocabulary, the
                grammar is not a schema, too many answers are under way, or the server is
                shutting down.
        """
        check(request, self.context, self.vocabulary)
        wanted = _request_body(request)
        if self.marked:
            wanted["skip_special_tokens"] = False
        if self._closing:
            raise shutting_down()
        if len(self._active) >= _MOST:
            raise overloaded()
        stream = AnswerStream()
        self._loop.call_soon_threadsafe(self._begin, request, wanted, stream)
        return stream

    def counters(self) -> EngineCounters:
        """What is asked for counts as running: what waits, vLLM's own metrics tell."""
        counted = self._counted
        return EngineCounters(len(self._active), 0, counted.prompt, counted.cached, counted.drawn)

    def close(self, seconds: float | None = None) -> None:
        """Refuses new asks, waits for those under way for so long, and lets go of the server."""
        self._closing = True
        asyncio.run_coroutine_threadsafe(self._close(seconds), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _base(self) -> tuple[str, int]:
        """The name of the model that is no adapter, and its context."""
        try:
            reply = httpx2.get(f"{self.url}/models", headers=self._headers, timeout=_CONNECT)
            reply.raise_for_status()
            card = next(one for one in reply.json()["data"] if not one.get("parent"))
            return str(card["id"]), int(card["max_model_len"])
        except httpx2.TransportError as error:  # it may be about to begin
            raise _unreachable(error) from error
        except (httpx2.HTTPError, ValueError, TypeError, KeyError, StopIteration) as error:
            raise UserError(
                f"{self.url} does not respond like a vLLM server ({error!r})",
                "start it with `vllm serve MODEL --enable-lora`, pass its URL with /v1, and set "
                "VLLM_API_KEY to its key",
                code="not_a_vllm_server",
                url=self.url,
            ) from error

    def _begin(
        self, request: GenerationRequest, wanted: dict[str, Any], stream: AnswerStream
    ) -> None:
        task = self._loop.create_task(self._answer(request, wanted, stream))
        self._active.add(task)
        task.add_done_callback(self._active.discard)

    async def _answer(
        self, request: GenerationRequest, wanted: dict[str, Any], stream: AnswerStream
    ) -> None:
        try:
            async with aclosing(self._pieces(request, wanted)) as pieces:
                async for piece in pieces:
                    if stream.cancelled:
                        return  # the connection is closed, at which vLLM gives the answer up
                    stream.drawn += len(piece.drawn)
                    if piece.used is not None:
                        stream.drawn = piece.used.drawn
                    stream.put(piece)
        except httpx2.HTTPError as error:
            stream.put(_unreachable(error))
        except asyncio.CancelledError:
            stream.put(shutting_down())
        except Exception as error:
            stream.put(error)

    async def _pieces(
        self, request: GenerationRequest, wanted: dict[str, Any]
    ) -> AsyncGenerator[Piece]:
        if not request.sampling.max_tokens and not request.prompt_logprobs:  # which vLLM refuses
            yield Piece("", (), "length", used=TokenCounts(len(request.prompt), 0, 0))
            return
        last, used, left = None, None, len(request.prompt) if request.prompt_logprobs else 0
        async with aclosing(self._chunks(request.adapter, wanted)) as chunks:
            async for chunk in chunks:
                if usage := chunk.get("usage"):
                    used = self._count(usage, request.sampling.max_tokens)
                for choice in chunk["choices"]:
                    piece = _piece(choice, request.sampling.top_logprobs, left)
                    left -= len(piece.prompt)
                    if piece.end:
                        last = piece
                    else:
                        yield piece
        if last is None:
            raise _broke_off()
        yield replace(last, used=used)

    async def _chunks(
        self, adapter: str | None, wanted: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any]]:
        """Yield the chunks of the stream; an adapter that vLLM lacks is loaded again."""
        for again in (False, True):
            wanted["model"] = await self._model(adapter)
            async with self._client.stream("POST", f"{self.url}/completions", json=wanted) as reply:
                if reply.status_code == 404 and adapter and not again:
                    self._loaded.pop(adapter, None)
                    continue
                await _raise_for_status(reply)
                async for line in reply.aiter_lines():
                    if line.startswith("data: {"):
                        yield _chunk(line)
                return

    async def _model(self, adapter: str | None) -> str:
        """What vLLM calls the model; an adapter is loaded by the first who asks."""
        if adapter is None:
            return self.name
        if adapter not in self._loaded:
            self._loaded[adapter] = asyncio.ensure_future(self._load(adapter))
        try:
            return await asyncio.shield(self._loaded[adapter])
        except Exception:
            self._loaded.pop(adapter, None)  # the next one tries again
            raise

    async def _load(self, adapter: str) -> str:
        folder = Path(adapter).resolve()  # vLLM was started elsewhere
        name = f"burnish-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
        given = {"lora_name": name, "lora_path": str(folder)}
        reply = await self._client.post(f"{self.url}/load_lora_adapter", json=given)
        # A name given twice has vLLM's type of every wrong value, so its words tell it from others.
        if not reply.is_success and "already been loaded" not in reply.text:
            reason = await _error_text(reply)
            raise ModelError(
                f"vLLM did not load the adapter {folder} ({reason})",
                "make the folder readable for vLLM, and start vLLM with --enable-lora, a "
                "--max-lora-rank of at least the adapter's rank, and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
                code="adapter_not_loaded",
                path=str(folder),
                reason=reason,
            )
        return name

    def _count(self, usage: Mapping[str, Any], most: int) -> TokenCounts:
        """vLLM draws a token even where only the prompt's are wanted."""
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        used = TokenCounts(usage["prompt_tokens"], cached, min(usage["completion_tokens"], most))
        sums = self._counted
        self._counted = TokenCounts(
            sums.prompt + used.prompt, sums.cached + used.cached, sums.drawn + used.drawn
        )
        return used

    async def _close(self, seconds: float | None) -> None:
        if self._active:
            _, late = await asyncio.wait(self._active, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._client.aclose()


def _request_body(request: GenerationRequest) -> dict[str, Any]:
    """The body of vLLM's completions; what its model's own generation config would set, we set."""
    sampling = request.sampling
    wanted: dict[str, Any] = {
        "prompt": list(request.prompt),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p or 1.0,
        # vLLM refuses top_p 0, at which only the likeliest token is left.
        "top_k": -1 if sampling.top_p else 1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "stop": [*sampling.stop, *sampling.speakers],
        "seed": None if sampling.seed is None else sampling.seed % (1 << _SEED),
        "logit_bias": {str(token): value for token, value in sampling.bias.items()} or None,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }
    if sampling.ends:
        wanted["stop_token_ids"] = sorted(sampling.ends)
    if sampling.top_logprobs is not None:
        wanted |= {"logprobs": sampling.top_logprobs, "return_tokens_as_token_ids": True}
    if request.prompt_logprobs:  # the prompt's text stays away, since token ids are wanted
        wanted["echo"] = True
    if request.project is not None:  # or what others have asked could be told from what is cached
        wanted["cache_salt"] = request.project
    return wanted | _format(sampling)


def _format(sampling: SamplingSettings) -> dict[str, Any]:
    """
    Raises:
        InferenceError: the grammar is neither a JSON schema nor calls of tools.
    """
    match sampling.grammar:
        case None:
            return {}
        case SchemaGrammar(schema=schema):
            named = {"name": "answer", "schema": dict(schema)}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        case ToolCallGrammar(lark=lark):
            return {"structured_outputs": {"grammar": lark}}
    message = "The vllm backend supports JSON schemas and tool calls only."
    raise RequestError(message, "unsupported_parameter", "response_format")


def _piece(choice: Mapping[str, Any], top: int | None, left: int) -> Piece:
    """`uncomputed` tokens of the prompt are still to come before those of the answer.

    Raises:
        InferenceError: vLLM gave the answer up.
    """
    said, end = choice.get("logprobs") or {}, choice.get("finish_reason")
    if end not in (None, "stop", "length"):
        raise _broke_off()
    drawn = [SampledToken(token) for token in choice.get("token_ids") or ()]
    if said:
        parts = (said["tokens"], said["token_logprobs"], said["top_logprobs"])
        drawn = [
            SampledToken(_token(token), logprob, _likeliest(others, top))
            for token, logprob, others in zip(*parts, strict=True)
        ]
    prompt, drawn = drawn[:left], drawn[left:]
    if end == "stop" and not isinstance(choice.get("stop_reason"), str):
        drawn = drawn[:-1]  # the stop token, which is in no piece
    return Piece(choice["text"], tuple(drawn), end, tuple(prompt))


def _likeliest(
    others: Mapping[str, float] | None, top: int | None
) -> tuple[tuple[int, float], ...]:
    """vLLM adds the drawn token where it is not among them."""
    result = [(_token(token), value) for token, value in (others or {}).items()]
    return tuple(sorted(result, key=lambda one: -one[1])[: top or 0])


def _token(shown: str) -> int:
    return int(shown.removeprefix("token_id:"))


def _chunk(line: str) -> dict[str, Any]:
    """
    Raises:
        InferenceError: vLLM gave up in the middle.
    """
    chunk: dict[str, Any] = json.loads(line.removeprefix("data: "))
    if "error" in chunk:
        raise BackendError(_FAILED, "model_server_failed")
    return chunk


async def _raise_for_status(reply: httpx2.Response) -> None:
    """
    Raises:
        InferenceError: vLLM refuses what it was asked; its own faults stay with it.
    """
    if reply.is_success:
        return
    if reply.status_code >= 500:
        raise UnavailableError(_FAILED, "model_server_failed")
    refused = f"The model server rejected the request: {await _error_text(reply)}"
    if reply.status_code == 400:
        raise RequestError(refused, "model_server_refused")
    raise BackendError(refused, "model_server_refused")


async def _error_text(reply: httpx2.Response) -> str:
    """What an error says, at most a few lines of it."""
    text = (await reply.aread()).decode(errors="replace")
    with suppress(ValueError, TypeError, KeyError):  # a proxy's words are no such JSON
        text = str(json.loads(text)["error"]["message"])
    return text[:_SAID]


def _unreachable(error: httpx2.HTTPError) -> UnavailableError:
    message = f"The model server does not respond ({type(error).__name__})."
    return UnavailableError(message, "model_server_silent")


def _broke_off() -> UnavailableError:
    return UnavailableError(
        "The model server stopped before its answer was complete.", "model_server_broke_off"
    )
