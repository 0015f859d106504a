"""What a model's name stands for: an engine over the base weights, and the adapter in it."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from anyio import to_thread
from fastapi import Request

from burnish.data.chat_templates import extra_stop_tokens
from burnish.inference.engine import Backend
from burnish.inference.grammar import SchemaGrammar, json_grammar, lenient, schema_grammar
from burnish.inference.lengths import TooLongError, tokens_within
from burnish.inference.types import GenerationRequest, SamplingSettings
from burnish.serving.catalog.token_text import TokenText
from burnish.serving.errors import ApiError, invalid
from burnish.serving.middleware.auth import project_of
from burnish.serving.middleware.limits import SHORT, release_body
from burnish.serving.schemas.sampling import ResponseFormat

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that can be asked.

    Attributes:
        engine: answers with the base weights and the adapters on them.
        tokenizer: of the base.
        token_text: its tokens as the API shows them.
        fingerprint: changes when answers could.
        adapter: the tuned model's folder; None for the base.
        project: whose answers share what is computed of their prompts.
    """

    engine: Backend
    tokenizer: Any
    token_text: TokenText
    fingerprint: str
    adapter: str | None = None
    project: str | None = None

    @property
    def vocabulary(self) -> int:
        return len(self.tokenizer)

    @property
    def start(self) -> tuple[int, ...]:
        """What stands before a text that has nothing before it."""
        token = self.tokenizer.bos_token_id
        return (int(token if token is not None else self.tokenizer.eos_token_id),)

    def encoded(self, text: str) -> tuple[int, ...]:
        """
        Raises:
            TooLongError: it is so much longer than the context that nobody counted its tokens.
        """
        text.encode()  # what is no text is refused here, by its own name
        return tuple(tokens_within(self.tokenizer, text, self.engine.context)) or self.start

    def decoded(self, tokens: tuple[int, ...]) -> str:
        return str(self.tokenizer.decode(tokens))

    def grammar(self, wanted: ResponseFormat | None) -> SchemaGrammar | None:
        """What the answer must keep to; None where it is free."""
        if wanted is None or wanted.type == "text":
            return None
        if wanted.type == "json_object":
            return json_grammar(self.tokenizer)
        if wanted.json_schema is None or wanted.json_schema.schema_ is None:
            said, param = "'json_schema' names no schema.", "response_format.json_schema"
            raise invalid(said, param, "missing_required_parameter")
        schema = wanted.json_schema.schema_
        return schema_grammar(
            self.tokenizer, schema if wanted.json_schema.strict else lenient(schema)
        )

    def ask(
        self,
        prompt: tuple[int, ...],
        draw: SamplingSettings,
        seed: int | None,
        place: int,
        *,
        prompt_logprobs: bool = False,
    ) -> GenerationRequest:
        """One of several answers to a prompt: a seed is the first one's, the others' come of it."""
        ends = frozenset(extra_stop_tokens(self.tokenizer))
        own = replace(
            draw, ends=ends, seed=seed if seed is None or not place else _seed(seed, place)
        )
        return GenerationRequest(prompt, own, self.adapter, prompt_logprobs, self.project)


def _seed(seed: int, place: int) -> int:
    """Were it the next number, the request with the next seed would get the same answer."""
    digest = hashlib.sha256(f"{seed} {place}".encode()).digest()
    return int.from_bytes(digest[:8])


async def resolve_model(request: Request, name: str) -> ServedModel:
    """The model of that name, an alias included; its base is loaded where nobody asked it yet.

    Raises:
        ApiError: there is none, it is not served here, or the key's project may not use it.
    """
    find = request.app.state.service.engines.target
    found: ServedModel = await to_thread.run_sync(find, name, project_of(request))
    return found


async def run_in_thread_if_large(
    request: Request, work: Callable[..., Result], *given: Any, compiles: bool = False
) -> Result:
    """What is done with a request before it is asked; in threads of its own where it may take long.

    Megabytes of prompt take a while to render, in which nobody else would be answered. Few are
    prepared at once, since each takes many times its size while it is. What `compiles` a schema may
    take as long, however short it is.
    """
    told = request.headers.get("content-length", "")
    if not compiles and told.isdecimal() and int(told) <= SHORT:
        return work(*given)
    try:
        return await to_thread.run_sync(work, *given, limiter=request.app.state.preparing)
    finally:
        release_body(request.scope)


@contextmanager
def reject_too_long_prompt(target: ServedModel, wanted: int | None, param: str) -> Iterator[None]:
    """
    Raises:
        ApiError: as `answer_room` does, where a prompt is too long for its tokens to be counted.
    """
    try:
        yield
    except TooLongError as error:
        raise _too_long(target, f"more than {error.least}", wanted, param) from error


def answer_room(
    target: ServedModel, prompt: Sequence[int], wanted: int | None, param: str = "messages"
) -> int:
    """Tokens that the answer may have; `param` is what the prompt was made of.

    Raises:
        ApiError: prompt and answer together are longer than the model's context.
    """
    context = target.engine.context
    if len(prompt) + (1 if wanted is None else wanted) > context:
        raise _too_long(target, f"{len(prompt)}", wanted, param)
    return context - len(prompt) if wanted is None else wanted


def _too_long(target: ServedModel, count: str, wanted: int | None, param: str) -> ApiError:
    rest = "" if wanted is None else f" and asks for {wanted} more"
    return invalid(
        f"This model's maximum context length is {target.engine.context} tokens. "
        f"The request has {count} of them in its prompt{rest}.",
        param,
        "context_length_exceeded",
    )
