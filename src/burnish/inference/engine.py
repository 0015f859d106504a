"""The engine: one base model, its adapters, and the thread that computes all answers."""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import torch

from burnish.errors import ModelError
from burnish.inference.errors import RequestError, overloaded, shutting_down
from burnish.inference.lora import AdapterPool
from burnish.inference.runner import open_runner
from burnish.inference.scheduler import ActiveRequest, EngineLimits, Scheduler
from burnish.inference.stream import AnswerStream, Detokenizer, StopConditions
from burnish.inference.types import GenerationRequest
from burnish.models.adapt import has_adapter
from burnish.models.language_model import LanguageModel
from burnish.models.stop_tokens import stop_tokens


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """For metrics: running and waiting answers, and tokens since the start.

    `cached` are those of the prompted tokens that were taken from other rows.
    """

    running: int
    waiting: int
    prompted: int
    cached: int
    generated: int


class Backend(Protocol):
    """What generates answers: an engine in this process, or a server elsewhere."""

    @property
    def context(self) -> int:
        """The model's context: tokens of a prompt and its answer together."""
        ...

    @property
    def max_requests(self) -> int:
        """The largest number of answers that one request may ask for, since no more can wait."""
        ...

    def submit(self, request: GenerationRequest) -> AnswerStream:
        """Queue a request."""
        ...

    def counters(self) -> EngineCounters:
        """Return the current counters."""
        ...

    def close(self, seconds: float | None = None) -> None:
        """Finish the submitted requests, for at most `seconds`."""
        ...


class Engine:
    """Computes the answers of all submitted requests together, and streams each to its client.

    Args:
        model: the base, without an adapter of its own; the engine alone uses it until `close`.
        limits: rows, memory, queue.

    Raises:
        ModelError: the model has an adapter on it, or does not compute as it does alone.
    """

    def __init__(self, model: LanguageModel, limits: EngineLimits | None = None) -> None:
        if has_adapter(model.module):
            raise ModelError(
                f"{model.name} already has an adapter loaded",
                "load the base model, and pass the adapter as a folder",
                code="model_has_adapter",
                model=model.name,
            )
        limits = limits or EngineLimits()
        model.module.eval()
        self.model, self.limits = model, limits
        self.context = min(model.context_length, limits.cache_tokens)
        self.max_requests = limits.max_waiting
        self.stops = stop_tokens(model.module, model.tokenizer)
        self._runner = open_runner(model.network, AdapterPool(model.module, limits.max_adapters))
        self._scheduler = Scheduler(self._runner, limits)
        self._inbox: deque[ActiveRequest] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._ended: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> AnswerStream:
        """Queue a request from any thread, without blocking.

        Raises:
            InferenceError: the prompt is empty or too long, a token is not in the vocabulary, the
                queue is full, or the engine is closing.
        """
        check(request, self.context, self._runner.network.config.vocab_size)
        ends = StopConditions(
            self.stops | request.sampling.ends, self.context - len(request.prompt)
        )
        answer = Detokenizer(request.sampling, self.model.tokenizer, ends)
        row = ActiveRequest(request, answer, AnswerStream(), list(request.prompt))
        with self._changed:
            if self._closing:
                raise shutting_down()
            if len(self._inbox) + len(self._scheduler.waiting) >= self.limits.max_waiting:
                raise overloaded()
            self._inbox.append(row)
            self._changed.notify_all()
        return row.pieces

    def counters(self) -> EngineCounters:
        """Return the current counters."""
        counts = self._scheduler.counts
        return EngineCounters(
            running=len(self._scheduler.rows),
            waiting=len(self._inbox) + len(self._scheduler.waiting),
            prompted=counts.prompted,
            cached=counts.cached,
            generated=counts.generated,
        )

    def close(self, seconds: float | None = None) -> None:
        """Reject new requests, finish the submitted ones, and stop.

        Those that are not finished after `seconds` end with an error; None waits for all.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._ended = shutting_down()
            self._thread.join()
        self._runner.close()

    def _run(self) -> None:
        with torch.inference_mode():
            while self._wait_for_work():
                try:
                    self._scheduler.step()
                except Exception as error:  # ours; clients get it, and the next ones are served
                    self._scheduler.fail(error)
                if self._ended is not None:
                    self._scheduler.fail(self._ended)

    def _wait_for_work(self) -> bool:
        """Waits for something to compute; False when it is closed and all is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._inbox or self._scheduler.busy or self._closing)
            self._scheduler.waiting.extend(self._inbox)
            self._inbox.clear()
            return self._scheduler.busy


def check(request: GenerationRequest, context: int, vocabulary: int) -> None:
    """Check a request against the model's context and vocabulary.

    Raises:
        RequestError: the prompt is empty or too long, or a token is not in the vocabulary.
    """
    count = len(request.prompt)
    if not request.prompt:
        raise RequestError("The prompt is empty.", "empty_prompt", "prompt")
    if count + max(0, min(request.sampling.max_tokens, 1)) > context:
        raise RequestError(
            f"This model's maximum context length is {context} tokens. However, your "
            f"messages resulted in {count} tokens. Please reduce the length of the messages.",
            "context_length_exceeded",
            "messages",
        )
    for name, tokens in (("prompt", request.prompt), ("logit_bias", request.sampling.bias)):
        if not all(0 <= token < vocabulary for token in tokens):
            raise RequestError(
                f"Token ids must be between 0 and {vocabulary - 1}.", "invalid_token", name
            )
