"""Replay: conversations that the base wrote itself, learnt beside the task so that it is not lost.

No data is needed. An instruction-tuned model that is given its chat template up to the user's turn
writes what users ask (Magpie: Xu et al. 2024, arXiv 2406.08464, section 2), and its own answers,
drawn at temperature 1, are then learnt: at the base their expected gradient is zero, and away from
it they pull back with the gradient of KL(base || model) (self-synthesized rehearsal: Huang et al.
2024, arXiv 2403.01244).
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from burnish.chat import Example, Message
from burnish.data.render import render_prompt
from burnish.errors import ModelError
from burnish.models.branches import Network, Row
from burnish.models.decoding import Decoder
from burnish.models.language_model import LanguageModel
from burnish.models.verbs import Sampling
from burnish.run_directory import write_atomic

# Tokens of a question, and of the part of its answer that is learnt.
_QUESTION, _ANSWER = 40, 40
_AT_ONCE = 32
# What stands for the user's words where the chat template is cut.
_MARK = "@@user@@"
# A model that writes no questions must not be asked for ever.
_DRAWS = 8


@dataclass(frozen=True, slots=True)
class Replayed:
    """A conversation of the base with itself; an unfinished answer is learnt without a stop."""

    id: str
    question: str
    answer: str
    tokens: tuple[int, ...]
    learnt: int  # tokens at the end that are the answer

    @property
    def row(self) -> Row:
        """As it is learnt."""
        read = len(self.tokens) - self.learnt
        return Row(list(self.tokens), [0.0] * read + [1.0] * self.learnt)

    @property
    def example(self) -> Example:
        """As it is compared with what judges."""
        messages = (Message("user", self.question), Message("assistant", self.answer))
        return Example(self.id, messages)


def replayed(model: LanguageModel, count: int, seed: int, cache: Path) -> list[Replayed]:
    """`count` conversations, written once for a model and kept in the folder `cache`.

    Raises:
        ModelError: the model has no chat template to begin from, or writes no questions.
    """
    path = cache / f"{model.source_sha256[:16]}-{count}-{seed}.jsonl"
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return [Replayed(**row | {"tokens": tuple(row["tokens"])}) for row in rows]
    with model.network.frozen():
        questions = _questions(model, count, seed)
        found = _answered(model, questions, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in found))
    return found


def _questions(model: LanguageModel, count: int, seed: int) -> list[str]:
    """Different ones that end, in the order in which they were drawn."""
    found: dict[str, None] = {}
    start = _before_the_user(model.tokenizer)
    for drawn in range(_DRAWS * (1 + count // _AT_ONCE)):
        sampling = Sampling(max_new_tokens=_QUESTION, temperature=1.0, seed=(seed << 16) + drawn)
        decoder = Decoder(Network(model.module), model.tokenizer, sampling)
        (answers,) = decoder.answers([start], each=_AT_ONCE)
        for answer in answers:
            text = " ".join(answer.text.split())
            if answer.finished and re.search(r"\w{2,}\W+\w{2,}", text):
                found[text] = None
        if len(found) >= count:
            return list(found)[:count]
    raise ModelError(
        f"{model.name} wrote {len(found)} questions of the {count} that replay.rows asks for",
        f"set replay.rows to {len(found)}",
    )


def _answered(model: LanguageModel, questions: list[str], seed: int) -> list[Replayed]:
    sampling = Sampling(max_new_tokens=_ANSWER, temperature=1.0, seed=seed)
    prompts = [render_prompt((Message("user", q),), model.tokenizer) for q in questions]
    answers = Decoder(Network(model.module), model.tokenizer, sampling).answers(prompts)
    return [
        Replayed(
            f"replay-{number:04}",
            question,
            answer.text,
            (*prompt, *answer.tokens),
            len(answer.tokens),
        )
        for number, (question, prompt, (answer,)) in enumerate(
            zip(questions, prompts, answers, strict=True)
        )
    ]


def _before_the_user(tokenizer: Any) -> list[int]:
    """The chat template's tokens up to the user's first word."""
    if not tokenizer.chat_template:
        raise ModelError(
            "replay begins from the chat template, and this model has none", "set replay.rows to 0"
        )
    text = tokenizer.apply_chat_template([{"role": "user", "content": _MARK}], tokenize=False)
    before = text.partition(_MARK)[0]
    return list(tokenizer(before, add_special_tokens=False)["input_ids"])


def examples_of(rows: list[Replayed]) -> Iterator[Example]:
    """As the run directory keeps them."""
    return (row.example for row in rows)
