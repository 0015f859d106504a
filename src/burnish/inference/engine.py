"""The engine: one base model, its adapters, and a thread that computes what many clients ask."""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import torch

from burnish.errors import ModelError
from burnish.inference.detokenize import Answer, Ends
from burnish.inference.errors import RequestError, overloaded, shutting_down
from burnish.inference.forward import Passes
from burnish.inference.lora import Adapters
from burnish.inference.scheduler import Batch, Limits, Running
from burnish.inference.stream import Answering
from burnish.inference.types import Ask
from burnish.models.adapt import is_adapted
from burnish.models.language_model import LanguageModel
from burnish.models.stop_tokens import stop_tokens


@dataclass(frozen=True, slots=True)
class Counters:
    """For metrics: answers that run and wait, and tokens since the start.

    `cached` are those of the prompted tokens that were taken from other rows.
    """

    running: int
    waiting: int
    prompted: int
    cached: int
    generated: int


class Backend(Protocol):
    """What computes answers: an engine here, or a server elsewhere."""

    @property
    def context(self) -> int:
        """Tokens of a prompt and its answer together."""
        ...

    @property
    def most(self) -> int:
        """Answers that one request may ask for: no more could wait together."""
        ...

    def submit(self, ask: Ask) -> Answering:
        """Queues an answer."""
        ...

    def counters(self) -> Counters:
        """What is now, and what was since the start."""
        ...

    def close(self, seconds: float | None = None) -> None:
        """Finishes what is asked for, for so long."""
        ...


class Engine:
    """Computes answers together as they are asked for, each streamed to whoever asked.

    Args:
        model: the base, without an adapter of its own; the engine alone uses it until `close`.
        limits: rows, memory, queue.

    Raises:
        ModelError: the model has an adapter on it, or cannot compute rows side by side.
    """

    def __init__(self, model: LanguageModel, limits: Limits | None = None) -> None:
        if is_adapted(model.module):
            raise ModelError(
                f"{model.name} has an adapter on it",
                "load the base, and name adapters by folder",
                code="model_has_adapter",
                model=model.name,
            )
        limits = limits or Limits()
        model.module.eval()
        self.model, self.limits = model, limits
        self.context = min(model.context_length, limits.places)
        self.most = limits.waiting
        self.stops = stop_tokens(model.module, model.tokenizer)
        self._passes = Passes(model.network, Adapters(model.module, limits.adapters))
        self._batch = Batch(self._passes, limits)
        self._inbox: deque[Running] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._ended: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, ask: Ask) -> Answering:
        """Queues an answer; from any thread, never waiting.

        Raises:
            InferenceError: the prompt is empty or too long, a token is none of the model's, the
                queue is full, or the engine is closing.
        """
        check(ask, self.context, self._passes.network.config.vocab_size)
        ends = Ends(self.stops | ask.draw.ends, self.context - len(ask.prompt))
        answer = Answer(ask.draw, self.model.tokenizer, ends)
        row = Running(ask, answer, Answering(), list(ask.prompt))
        with self._changed:
            if self._closing:
                raise shutting_down()
            if len(self._inbox) + len(self._batch.waiting) >= self.limits.waiting:
                raise overloaded()
            self._inbox.append(row)
            self._changed.notify_all()
        return row.pieces

    def counters(self) -> Counters:
        """What is now, and what was since the start."""
        counts = self._batch.counts
        return Counters(
            running=len(self._batch.rows),
            waiting=len(self._inbox) + len(self._batch.waiting),
            prompted=counts.prompted,
            cached=counts.cached,
            generated=counts.generated,
        )

    def close(self, seconds: float | None = None) -> None:
        """Refuses new answers, finishes those that are asked for, and stops.

        Those that are not finished after `seconds` end with an error; None waits for all.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._ended = shutting_down()
            self._thread.join()
        self._passes.close()

    def _run(self) -> None:
        with torch.inference_mode():
            while self._gather():
                try:
                    self._batch.turn()
                except Exception as error:  # ours; clients get it, and the next ones are served
                    self._batch.fail(error)
                if self._ended is not None:
                    self._batch.fail(self._ended)

    def _gather(self) -> bool:
        """Waits for something to compute; False when it is closed and all is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._inbox or self._batch.busy or self._closing)
            self._batch.waiting.extend(self._inbox)
            self._inbox.clear()
            return self._batch.busy


def check(ask: Ask, context: int, vocabulary: int) -> None:
    """
    Raises:
        RequestError: the prompt is empty or too long, or a token is none of the model's.
    """
    count = len(ask.prompt)
    if not ask.prompt:
        raise RequestError("The prompt is empty.", "empty_prompt", "prompt")
    if count + max(0, min(ask.draw.max_tokens, 1)) > context:
        raise RequestError(
            f"This model's maximum context length is {context} tokens. However, your "
            f"messages resulted in {count} tokens. Please reduce the length of the messages.",
            "context_length_exceeded",
            "messages",
        )
    for name, tokens in (("prompt", ask.prompt), ("logit_bias", ask.draw.bias)):
        if not all(0 <= token < vocabulary for token in tokens):
            raise RequestError(f"Token ids go from 0 to {vocabulary - 1}.", "invalid_token", name)
