"""The parity certificate of a run: the reference answers, and how far other forms differ.

`parity.json` has two keys:

    reference    the answers that all forms are compared with. `form` is `memory` (the model before
                 it was unloaded at the end of the run) or `reloaded` (if the run has no answers
                 from memory). `weights` is the hash of the tuned weights, `precision` the device
                 and data type. `answers` has for each prompt its id, messages and tools, the token
                 ids of the rendered prompt and of the greedy answer (stop token included), and for
                 each answer token its log-probability in nats and its lead: the log-probability
                 minus that of the likeliest other token.
    comparisons  one entry for each other form (`reloaded`, `merged`, `gguf`, `endpoint`, or
                 `memory` if it is missing): its name, the tolerance in nats, and `missing`, the
                 reason why the form was not compared (null if it was). For each prompt:
                 `prompt_equal`, whether the rendered prompt has the same token ids (null if the
                 form does not report them); `prompt_differs_at`, the index of the first different
                 prompt token; `answer_differs_at`, the index of the first different answer token
                 (both null if there is none); `lead`, the reference's lead at that token;
                 `compared`, the number of answer tokens whose log-probabilities are known; and
                 `largest`, their largest difference in nats.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from burnish.conversation import Conversation, Message
from burnish.errors import RunError
from burnish.runs.atomic import write_atomic
from burnish.runs.json_lines import from_json

Form = Literal["memory", "reloaded", "merged", "gguf", "endpoint"]
FILE = "parity.json"
_WORDS: dict[Form, str] = {
    "memory": "the model in memory",
    "reloaded": "the reloaded weights",
    "merged": "the merged weights",
    "gguf": "the GGUF file",
    "endpoint": "the endpoint",
}


@dataclass(frozen=True, slots=True)
class ReferenceAnswer:
    """The reference's answer to one prompt; see the module for units."""

    id: str
    messages: tuple[tuple[str, str], ...]
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    logprobs: tuple[float, ...]
    leads: tuple[float, ...]
    tools: str = ""  # JSON, as in `Message`; earlier versions did not record them

    @property
    def conversation(self) -> Conversation:
        """The prompt as a conversation."""
        turns = [Message(role, content) for role, content in self.messages]  # type: ignore[arg-type]
        return (replace(turns[0], tools=self.tools), *turns[1:])

    @property
    def body(self) -> dict[str, Any]:
        """The prompt as the body of an API request."""
        messages = [{"role": role, "content": content} for role, content in self.messages]
        return {"messages": messages} | ({"tools": json.loads(self.tools)} if self.tools else {})


@dataclass(frozen=True, slots=True)
class Reference:
    """The answers that all other forms are compared with."""

    form: Form
    weights: str
    precision: str
    answers: tuple[ReferenceAnswer, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a form differs from the reference on one prompt; see the module for the fields."""

    id: str
    prompt_equal: bool | None
    prompt_differs_at: int | None
    answer_differs_at: int | None
    lead: float | None
    compared: int
    largest: float | None

    def reason(self, tolerance: float) -> str | None:
        """Describe a difference that is too large for rounding; None if there is none.

        A different greedy token counts as rounding only if the reference hardly preferred its own:
        each of the two log-probabilities may be off by the tolerance.
        """
        if self.prompt_equal is False:
            first = self.prompt_differs_at
            start = "" if first is None else f", starting at token {first + 1}"
            return f"the rendered prompt {self.id} has different tokens{start}"
        if self.largest is not None and self.largest > tolerance:
            return (
                f"a log-probability in the answer to {self.id} differs by {self.largest:.2g} nats "
                f"(tolerance {tolerance:g})"
            )
        if self.answer_differs_at is not None and (self.lead is None or self.lead > 2 * tolerance):
            return f"the answer to {self.id} differs from token {self.answer_differs_at + 1} on"
        return None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One form compared with the reference; `missing` is the reason why it was not compared."""

    form: Form
    name: str
    tolerance: float
    differences: tuple[Difference, ...] = ()
    missing: str | None = None

    @property
    def reason(self) -> str | None:
        """The first difference too large for rounding; None if there is none."""
        reasons = (difference.reason(self.tolerance) for difference in self.differences)
        return next((reason for reason in reasons if reason), None)

    @property
    def largest(self) -> float | None:
        """The largest log-probability difference in nats; None if no log-probability is known."""
        known = [d.largest for d in self.differences if d.largest is not None]
        return max(known, default=None)

    @property
    def answers_equal(self) -> int:
        """Number of prompts with the same greedy answer."""
        return sum(difference.answer_differs_at is None for difference in self.differences)

    @property
    def prompts_equal(self) -> int | None:
        """Number of prompts rendered to the same tokens; None if the form does not report them."""
        reported = [d.prompt_equal for d in self.differences if d.prompt_equal is not None]
        return sum(reported) if reported else None

    @property
    def words(self) -> str:
        """The form in words, such as `the GGUF file model.gguf`."""
        named = f" {self.name}" if self.form in ("gguf", "endpoint") else ""
        return _WORDS[self.form] + named


@dataclass(frozen=True, slots=True)
class Parity:
    """The parity certificate: the reference, and all forms that were compared with it."""

    reference: Reference
    comparisons: tuple[Comparison, ...] = ()

    @property
    def difference(self) -> str | None:
        """The first difference too large for rounding, as a sentence without a full stop."""
        for one in self.comparisons:
            if one.reason is not None:
                text = f"{one.words} and {_WORDS[self.reference.form]} differ: {one.reason}"
                return text[0].upper() + text[1:]
        return None

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        if self.difference is not None:
            return f"{self.difference}."
        compared = [one for one in self.comparisons if one.missing is None]
        if not compared:
            return "Nothing was compared."
        *first, last = [_WORDS[self.reference.form], *(one.words for one in compared)]
        named = f"{', '.join(first)} and {last}"
        count = len(self.reference.answers)
        largest = max((one.largest for one in compared if one.largest is not None), default=None)
        known = (
            "their log-probabilities are not available"
            if largest is None
            else f"their log-probabilities differ by at most {largest:.1g} nats"
        )
        otherwise = [
            f"{count - one.answers_equal} of {count} answers of {one.words} differ within rounding"
            for one in compared
            if one.answers_equal < count
        ]
        agree = f"agree on {count} prompts" if otherwise else f"give the same {count} answers"
        return "; ".join([f"{named[0].upper()}{named[1:]} {agree}", *otherwise, f"{known}."])

    def as_dict(self) -> dict[str, Any]:
        """The certificate as JSON values, as in `parity.json`."""
        return asdict(self)


def read_parity(folder: Path) -> Parity | None:
    """Read the parity certificate of the run in a folder; None if there is none.

    Raises:
        RunError: the file is not a valid certificate.
    """
    path = folder / FILE
    try:
        return from_json(Parity, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(
            f"{path} is not a valid parity certificate",
            "delete it and run `burnish parity` again",
            code="not_a_certificate",
            path=str(path),
        ) from error


def write_parity(folder: Path, parity: Parity) -> None:
    """Write `parity.json` atomically, replacing an earlier one."""
    text = json.dumps(parity.as_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / FILE, text + "\n")
