"""A model that the server answers with: chat messages to prompt tokens, and tokens to text."""

import codecs
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from llguidance import LLTokenizer
from llguidance.hf import from_tokenizer
from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob, TopLogprob
from openai.types.completion_choice import Logprobs

from burnish.data.chat_templates import extra_stop_tokens, thinking_of
from burnish.data.template_text import form_for, messages_text
from burnish.errors import DataError
from burnish.inference.engine import Backend
from burnish.inference.grammar import SchemaGrammar, json_grammar, lenient, schema_grammar
from burnish.inference.lengths import TooLongError, tokens_within
from burnish.inference.types import GenerationRequest, SampledToken, SamplingSettings
from burnish.serving.errors import ApiError, invalid
from burnish.serving.schemas.sampling import ResponseFormat


class TokenText:
    """The text and bytes of each token of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokens: LLTokenizer = from_tokenizer(tokenizer)
        added = tokenizer.added_tokens_decoder
        self._special = frozenset(token for token, one in added.items() if one.special)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of a token; for a special token, those of its name."""
        return bytes(self._tokens.decode_bytes([token]))

    def token_string(self, token: int) -> str:
        """Return the token as text; half a character is escaped as the API does."""
        return bytes_to_string(self.token_bytes(token))

    def chat_logprobs(self, drawn: Sequence[SampledToken]) -> list[ChatCompletionTokenLogprob]:
        """Return the log-probabilities of a chat reply."""
        return [
            ChatCompletionTokenLogprob(
                token=self.token_string(one.token),
                bytes=list(self.token_bytes(one.token)),
                logprob=_number(one.logprob),
                top_logprobs=[
                    TopLogprob(
                        token=self.token_string(token),
                        bytes=list(self.token_bytes(token)),
                        logprob=_number(logprob),
                    )
                    for token, logprob in one.top
                ],
            )
            for one in drawn
        ]

    def completion_logprobs(
        self, prompt: Sequence[SampledToken], answer: Sequence[SampledToken], offset: int, top: int
    ) -> Logprobs:
        """Return the log-probabilities of a completion whose first token starts at the character
        `offset` of prompt and answer.

        The very first token of an echoed prompt has no log-probability and no alternatives. The
        parts of one character all stand where the character does, and a special token of the
        answer, whose text leaves it out, where the next one does. The token itself is always among
        its alternatives, in addition to the `top` likeliest ones.
        """
        read = codecs.getincrementaldecoder("utf-8")("replace")
        drawn = (*prompt, *answer)
        offsets = []
        for place, one in enumerate(drawn):
            offsets.append(offset)
            if place < len(prompt) or one.token not in self._special:
                offset += len(read.decode(self.token_bytes(one.token)))
        alternatives: list[Any] = [
            {
                self.token_string(token): _number(logprob)
                for token, logprob in (*one.top[:top], (one.token, one.logprob))
            }
            if one.logprob is not None
            else None
            for one in drawn
        ]
        return Logprobs.construct(
            tokens=[self.token_string(one.token) for one in drawn],
            token_logprobs=[None if d.logprob is None else _number(d.logprob) for d in drawn],
            top_logprobs=alternatives if top else None,
            text_offset=offsets,
        )


@lru_cache(maxsize=4096)
def bytes_to_string(token_bytes: bytes) -> str:
    """Decode bytes as text; bytes that are not valid UTF-8 are escaped as the API does."""
    try:
        return token_bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token_bytes)


def _number(logprob: float | None) -> float:
    """JSON has no infinity; the API writes -9999 for what cannot happen."""
    return -9999.0 if logprob is None or logprob < -9999.0 else logprob


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that can answer requests.

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
        """Number of tokens in the vocabulary."""
        return len(self.tokenizer)

    @property
    def start(self) -> tuple[int, ...]:
        """The start token, which stands for an empty prompt."""
        token = self.tokenizer.bos_token_id
        return (int(token if token is not None else self.tokenizer.eos_token_id),)

    def encoded(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text.

        Raises:
            TooLongError: it is so much longer than the context that nobody counted its tokens.
        """
        text.encode()  # what is no text is refused here, by its own name
        return tuple(tokens_within(self.tokenizer, text, self.engine.context)) or self.start

    def decoded(self, tokens: tuple[int, ...]) -> str:
        """Return the text of tokens."""
        return str(self.tokenizer.decode(tokens))

    def grammar(self, wanted: ResponseFormat | None) -> SchemaGrammar | None:
        """Return the grammar that the answer must follow; None if any text is allowed."""
        if wanted is None or wanted.type == "text":
            return None
        if wanted.type == "json_object":
            return json_grammar(self.tokenizer)
        if wanted.json_schema is None or wanted.json_schema.schema_ is None:
            said, param = "'json_schema' does not contain a schema.", "response_format.json_schema"
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
        """Return the request for the answer with the index `place`; the seeds of further answers
        derive from the first one's seed."""
        ends = frozenset(extra_stop_tokens(self.tokenizer))
        own = replace(
            draw, ends=ends, seed=seed if seed is None or not place else _seed(seed, place)
        )
        return GenerationRequest(prompt, own, self.adapter, prompt_logprobs, self.project)


def _seed(seed: int, place: int) -> int:
    """Were it the next number, the request with the next seed would get the same answer."""
    digest = hashlib.sha256(f"{seed} {place}".encode()).digest()
    return int.from_bytes(digest[:8])


@contextmanager
def reject_too_long_prompt(target: ServedModel, wanted: int | None, param: str) -> Iterator[None]:
    """Turn a prompt that is too long to count into an error of the API.

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
    """Return how many tokens the answer may have; `param` is the parameter that held the prompt.

    Raises:
        ApiError: prompt and answer together are longer than the model's context.
    """
    context = target.engine.context
    if len(prompt) + (1 if wanted is None else wanted) > context:
        raise _too_long(target, f"{len(prompt)}", wanted, param)
    return context - len(prompt) if wanted is None else wanted


def _too_long(target: ServedModel, count: str, wanted: int | None, param: str) -> ApiError:
    rest = "" if wanted is None else f", and the request asks for {wanted} more"
    return invalid(
        f"This model's maximum context length is {target.engine.context} tokens. "
        f"The prompt has {count} tokens{rest}.",
        param,
        "context_length_exceeded",
    )


_ROLES = {"developer": "system", "function": "tool"}


def prompt_tokens(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    most: int = sys.maxsize,
) -> tuple[int, ...]:
    """Render a conversation with the model's chat template, ready for a reply, and return its
    tokens.

    Raises:
        ApiError: the template refuses the messages, or knows no tools.
        TooLongError: it is so much longer than `max_requests` tokens that nobody counted them.
    """
    if tools and not _shows_tools(tokenizer, tools):
        raise invalid(
            "This model's chat template does not support tools.", "tools", "unsupported_parameter"
        )
    turns = [_turn(message) for message in messages]
    try:
        text = messages_text(turns, tools, tokenizer, asks=True, thinking=thinking_of(tokenizer))
    except RecursionError as error:
        raise _refused(error) from error
    except DataError as error:
        if error.code != "refused_by_template":
            raise invalid(f"This model cannot chat: {error}.", "model", error.code) from error
        raise _refused(error.fields.get("reason")) from error
    return tuple(tokens_within(tokenizer, text, most, marks=False))


def _refused(reason: object) -> ApiError:
    said = f"The model's chat template does not accept these messages: {reason}."
    return invalid(said, "messages", "refused_by_template")


def _shows_tools(tokenizer: Any, tools: Any) -> bool:
    """Whether the template shows tools to the model."""
    try:
        return form_for(tokenizer, tools).has_tools
    except DataError as error:
        raise invalid(f"This model cannot chat: {error}.", "model", error.code) from error


def _turn(message: Mapping[str, Any]) -> dict[str, Any]:
    """As templates know it: one text, and their own names for older and newer roles."""
    role = _ROLES.get(message["role"], message["role"])
    content = message.get("content")  # a refusal has no content, but its own field
    text = _text(message.get("refusal") if content is None else content)
    turn: dict[str, Any] = {"role": role, "content": text}
    calls = list(message.get("tool_calls") or ())
    if function := message.get("function_call"):  # as calls were sent before there were tools
        calls.append({"function": function})
    if calls:
        turn["tool_calls"] = [_called(call) for call in calls]
    for field in ("name", "tool_call_id", "reasoning_content"):
        if message.get(field):
            turn[field] = message[field]
    return turn


def _text(content: Any) -> str:
    """Parts of a message one after the other; only text can be read."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(_part(part) for part in content)


def _part(part: Mapping[str, Any]) -> str:
    """The text of a part stands under the name of its type."""
    kind = part.get("type")
    if kind not in ("text", "refusal"):
        message = (
            f"This model only reads text; it cannot read a content part of type {str(kind)[:40]!r}."
        )
        raise invalid(message, "messages", "unsupported_content_type")
    if not isinstance(found := part.get(kind), str):
        seen = f"a {kind!r} that is {str(found)[:40]!r}" if kind in part else f"no {kind!r}"
        message = f"A content part of type {kind!r} has {seen}; it must be a string."
        raise invalid(message, "messages", "invalid_type")
    return found


def _called(call: Mapping[str, Any]) -> dict[str, Any]:
    """Templates want arguments as an object, the API sends them as JSON; or as the model wrote
    them, where it was none."""
    given = call.get("function") or {}
    if not isinstance(given, Mapping):
        message = f"The 'function' of a tool call is {str(given)[:40]!r}, but it must be an object."
        raise invalid(message, "messages", "invalid_type")
    function = dict(given)
    written = function.get("arguments") or "{}"
    if not isinstance(written, str):
        message = (
            f"The 'arguments' of a tool call are {str(written)[:40]!r}, but they must be a string."
        )
        raise invalid(message, "messages", "invalid_type")
    try:
        function["arguments"] = json.loads(written)
    except (ValueError, RecursionError):  # the last: nested too deep
        function["arguments"] = written
    return {"type": "function", "id": call.get("id"), "function": function}
