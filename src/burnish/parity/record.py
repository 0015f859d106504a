"""Parity as a run directory keeps it: what the reference said, and how far others are from it.

`parity.json` holds

    reference    voice: `memory`, the model as it was measured or trained, before it was let go,
                 or `reloaded`, where nobody kept that. weights: hash of the tuned weights that
                 were saved then. precision: where and in what it computed. said: for each prompt
                 its id, messages and tools, the token ids of the rendered prompt and of the greedy
                 answer (a stop token included), and of each answer token the log-probability in
                 nats and its lead: by how much it was likelier than any other.
    comparisons  for each other voice (`reloaded`, `merged`, `gguf`, `endpoint`; `memory` where it
                 is missing) its name, the tolerance in nats, why it is missing (null: it is not),
                 and for each prompt: prompt_equal, whether the token ids of the rendered prompt
                 are the same (null: it does not tell them), and prompt_at, the first that is not
                 (null: none, or not told); answer_at, the first place where its own greedy answer
                 is another (null: none), and the reference's lead there; compared, of how many
                 answer tokens the log-probabilities are known, and largest, how far they are
                 apart at most.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from burnish.conversation import Conversation, Message
from burnish.errors import RunError
from burnish.runs.directory import write_atomic

Voice = Literal["memory", "reloaded", "merged", "gguf", "endpoint"]
FILE = "parity.json"
_WORDS: dict[Voice, str] = {
    "memory": "the model in memory",
    "reloaded": "the reloaded weights",
    "merged": "the merged weights",
    "gguf": "the GGUF file",
    "endpoint": "the endpoint",
}


@dataclass(frozen=True, slots=True)
class Said:
    """What the reference said to one prompt; see the module for units."""

    id: str
    messages: tuple[tuple[str, str], ...]
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    logprobs: tuple[float, ...]
    leads: tuple[float, ...]
    tools: str = ""  # as `Message` has them; earlier versions kept none

    @property
    def conversation(self) -> Conversation:
        """The prompt as it was asked."""
        turns = [Message(role, content) for role, content in self.messages]  # type: ignore[arg-type]
        return (replace(turns[0], tools=self.tools), *turns[1:])

    @property
    def body(self) -> dict[str, Any]:
        """The prompt as the API takes it."""
        messages = [{"role": role, "content": content} for role, content in self.messages]
        return {"messages": messages} | ({"tools": json.loads(self.tools)} if self.tools else {})


@dataclass(frozen=True, slots=True)
class Reference:
    """What all others are compared with."""

    voice: Voice
    weights: str
    precision: str
    said: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a voice is from the reference on one prompt; see the module for the values."""

    id: str
    prompt_equal: bool | None
    prompt_at: int | None
    answer_at: int | None
    lead: float | None
    compared: int
    largest: float | None

    def reason(self, tolerance: float) -> str | None:
        """What cannot be rounding, in words; None where all of it can.

        Another greedy token is rounding only where the reference hardly preferred its own: each of
        the two log-probabilities may be off by the tolerance.
        """
        if self.prompt_equal is False:
            at = "" if self.prompt_at is None else f" from token {self.prompt_at + 1} on"
            return f"the rendered prompt {self.id} has other tokens{at}"
        if self.largest is not None and self.largest > tolerance:
            return (
                f"a log-probability of the answer to {self.id} differs by {self.largest:.2g} nats, "
                f"more than {tolerance:g}"
            )
        if self.answer_at is not None and (self.lead is None or self.lead > 2 * tolerance):
            return f"the answer to {self.id} is another from token {self.answer_at + 1} on"
        return None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One voice against the reference; `missing` says why it was not asked."""

    voice: Voice
    name: str
    tolerance: float
    differences: tuple[Difference, ...] = ()
    missing: str | None = None

    @property
    def reason(self) -> str | None:
        """The first thing that cannot be rounding; None where the two agree, or one is missing."""
        found = (difference.reason(self.tolerance) for difference in self.differences)
        return next((reason for reason in found if reason), None)

    @property
    def largest(self) -> float | None:
        """Of all answer tokens; None where no log-probability is known."""
        known = [d.largest for d in self.differences if d.largest is not None]
        return max(known, default=None)

    @property
    def answers_equal(self) -> int:
        """Prompts whose greedy answers are the same."""
        return sum(difference.answer_at is None for difference in self.differences)

    @property
    def prompts_equal(self) -> int | None:
        """Prompts whose tokens are the same; None where the voice tells none."""
        told = [d.prompt_equal for d in self.differences if d.prompt_equal is not None]
        return sum(told) if told else None

    @property
    def words(self) -> str:
        named = f" {self.name}" if self.voice in ("gguf", "endpoint") else ""
        return _WORDS[self.voice] + named


@dataclass(frozen=True, slots=True)
class Parity:
    """The certificate: the reference, and everything that was compared with it."""

    reference: Reference
    comparisons: tuple[Comparison, ...] = ()

    @property
    def difference(self) -> str | None:
        """The first difference that cannot be rounding, as a sentence without its full stop."""
        for one in self.comparisons:
            if one.reason is not None:
                said = f"{one.words} and {_WORDS[self.reference.voice]} differ: {one.reason}"
                return said[0].upper() + said[1:]
        return None

    @property
    def sentence(self) -> str:
        """All of it in one sentence."""
        if self.difference is not None:
            return f"{self.difference}."
        asked = [one for one in self.comparisons if one.missing is None]
        if not asked:
            return "Nothing was compared."
        named = ", ".join([_WORDS[self.reference.voice], *(one.words for one in asked)])
        count = len(self.reference.said)
        largest = max((one.largest for one in asked if one.largest is not None), default=None)
        known = (
            "their log-probabilities are not told"
            if largest is None
            else f"their log-probabilities are at most {largest:.1g} nats apart"
        )
        otherwise = [
            f"{one.words} answers {count - one.answers_equal} otherwise, within rounding"
            for one in asked
            if one.answers_equal < count
        ]
        agree = f"agree on {count} prompts" if otherwise else f"say the same to {count} prompts"
        return "; ".join([f"{named[0].upper()}{named[1:]} {agree}", *otherwise, f"{known}."])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_parity(folder: Path) -> Parity | None:
    """The certificate of the run in a folder; None where it has none.

    Raises:
        RunError: the file is no certificate.
    """
    path = folder / FILE
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        said = [Said(**_tuples(one)) for one in row["reference"]["said"]]
        return Parity(
            Reference(**row["reference"] | {"said": tuple(said)}),
            tuple(map(_comparison, row["comparisons"])),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is no certificate of parity",
            "delete it and run `burnish parity` again",
            code="not_a_certificate",
            path=str(path),
        ) from error


def write_parity(folder: Path, parity: Parity) -> None:
    """Writes `parity.json` whole, in place of an earlier one."""
    text = json.dumps(parity.as_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / FILE, text + "\n")


def _comparison(row: dict[str, Any]) -> Comparison:
    differences = tuple(Difference(**one) for one in row["differences"])
    return Comparison(**row | {"differences": differences})


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {key: _tuple(value) for key, value in row.items()}


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
