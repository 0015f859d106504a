"""Replay: general conversations, read beside the task so that the model forgets less.

They are rows of the user's own, or the base writes them: then no data is needed. An
instruction-tuned model that is given its chat template up to the user's turn writes what users ask
(Magpie: Xu et al. 2024, arXiv 2406.08464, section 2), and its own answers, drawn at temperature 1,
are then learnt or held to. Learnt, at the base their expected gradient is zero, and away from it
they pull back with the gradient of KL(base || model) (self-synthesized rehearsal: Huang et al.
2024, arXiv 2403.01244); held to, `training/anchor.py` takes that divergence itself, with no noise
of the drawing.
"""

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from burnish.conversation import Example, Message
from burnish.data.chat_templates import has_template, stop_tokens_hash, template_for
from burnish.data.load import load_rows
from burnish.data.render import render_all, render_prompt
from burnish.errors import DataError, ModelError, RecipeError
from burnish.models.branches import Network, Row, common_length
from burnish.models.cache import cache_folder
from burnish.models.from_run import Opened
from burnish.models.generate import Decoder
from burnish.models.interface import Sampling
from burnish.models.language_model import LanguageModel
from burnish.progress import Advance, counted, counts_to
from burnish.recipe.objectives import SETTINGS
from burnish.recipe.schema import Recipe
from burnish.runs.atomic import write_atomic
from burnish.runs.directory import RunDirectory
from burnish.runs.json_lines import from_json

# Tokens of a question, and of the part of its answer that is learnt.
_QUESTION, _ANSWER = 32, 32
_AT_ONCE = 32
# Rows of a file that become tokens together.
_RENDERED = 256
# At temperature 1 a small model's questions lose their thread; the answers need it to be unbiased.
_SOBER = 0.7
# Characters of the shortest question.
_SHORTEST = 8
# What stands for the user's words where the chat template is cut.
_MARK = "@@user@@"
# How a question begins in the languages that are written most on the web after English.
_BEGINNINGS = (
    "¿Cómo ", "Was ist ", "Pourquoi ", "Como ", "Che cos'è ", "Как ", "Wat is ", "Jak ",
    "なぜ", "什么是", "왜 ", "كيف ", "Apa ", "Nasıl ", "Tại sao ", "क्या ",
)  # fmt: skip
# A model of whose questions fewer than one in so many can be used is asked no more.
_DRAWS = 8


@dataclass(frozen=True, slots=True)
class Replayed:
    """A conversation of the base with itself; an unfinished answer is learnt without a stop."""

    id: str
    question: str
    answer: str
    tokens: tuple[int, ...]
    fixed: int  # tokens at the beginning that are the template's
    learnt: int  # tokens at the end that are the answer

    @property
    def row(self) -> Row:
        """As it is learnt."""
        read = len(self.tokens) - self.learnt
        return Row(list(self.tokens), [0.0] * read + [1.0] * self.learnt)

    @property
    def whole(self) -> Row:
        """As it is held: whatever follows what all conversations begin with."""
        held = [0.0] * self.fixed + [1.0] * (len(self.tokens) - self.fixed)
        return Row(list(self.tokens), held)

    @property
    def example(self) -> Example:
        """As it is compared with what judges."""
        messages = (Message("user", self.question), Message("assistant", self.answer))
        return Example(self.id, messages)


@dataclass(frozen=True, slots=True)
class Own:
    """A general row of the user's own.

    Attributes:
        example: as it is compared with what judges.
        row: as it is learnt.
    """

    example: Example
    row: Row

    @property
    def whole(self) -> Row:
        """As it is held: whatever follows the first token."""
        return Row(self.row.tokens, [0.0] + [1.0] * (self.row.size - 1))


def own_rows(
    path: Path, tokenizer: Any, count: int, seed: int, max_length: int | None
) -> list[Own]:
    """`count` rows of a file, drawn by `seed` from those of at most `max_length` tokens.

    Raises:
        DataError: the file cannot be used, or has fewer rows.
    """
    examples = load_rows(path)
    random.Random(seed).shuffle(examples)
    found: list[Own] = []
    # Of a million rows only as many become tokens as are needed.
    for start in range(0, len(examples), _RENDERED):
        part = examples[start : start + _RENDERED]
        # Of a conversation in branches the last is learnt: it repeats all earlier answers.
        rendered = {row.id: row for row in render_all(part, tokenizer, max_length)[0]}
        found += [
            Own(one, Row(rendered[one.id].tokens, rendered[one.id].weights))
            for one in part
            if one.id in rendered
        ]
        if len(found) >= count:
            return found[:count]
    raise DataError(
        f"{path} has {len(found)} different rows that fit, and replay.rows asks for {count}",
        f"set replay.rows to {len(found)}, or name a file with more",
        code="too_few_rows",
        path=str(path),
        count=len(found),
        expected=count,
    )


def replayed(model: LanguageModel, count: int, seed: int, cache: Path) -> list[Replayed]:
    """`count` conversations, written once for a model and kept in the folder `cache`.

    Raises:
        ModelError: the model has no chat template to begin from, or writes no questions.
    """
    ends = stop_tokens_hash(model.tokenizer)
    path = cache / f"{model.source_sha256[:16]}{ends and f'-{ends}'}-{count}-{seed}.jsonl"
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        return [from_json(Replayed, json.loads(line)) for line in lines]
    with model.network.frozen(), counted("conversations", 2 * count) as advance:
        questions = _questions(model, count, seed, advance)
        found = _answered(model, questions, seed)
        advance(count)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in found))
    return found


def _questions(model: LanguageModel, count: int, seed: int, advance: Advance) -> list[str]:
    """Different ones that end, in the order in which they were drawn; one in four is not English.

    Left alone, a model asks in the language that it was tuned on most, and then it forgets the
    others: so some questions are begun for it.
    """
    start = _before_the_user(model.tokenizer)
    begun = [
        [*start, *model.tokenizer(words, add_special_tokens=False)["input_ids"]]
        for words in _BEGINNINGS
    ]
    others = count // 4
    found = _drawn(model, [start], [""], count - others, seed)
    advance(len(found))
    found += _drawn(model, begun, _BEGINNINGS, others, seed + 1)
    advance(others)
    return found


def _drawn(
    model: LanguageModel,
    starts: Sequence[list[int]],
    words: Sequence[str],
    count: int,
    seed: int,
) -> list[str]:
    """`count` different questions that begin with `starts`, which `words` spell."""
    found: dict[str, None] = {}
    each = max(1, _AT_ONCE // len(starts))
    drawn = 0
    while len(found) < count and drawn < _DRAWS * (1 + len(found) // (each * len(starts))):
        sampling = Sampling(max_new_tokens=_QUESTION, temperature=_SOBER, seed=(seed << 16) + drawn)
        decoder = Decoder(Network(model.module), model.tokenizer, sampling)
        answers = decoder.answers(starts, each=each)
        drawn += 1
        for turn in range(each):  # in turn, so that all beginnings are there
            for before, given in zip(words, answers, strict=True):
                text = " ".join((before + given[turn].text).split())
                # One that was begun may be cut: other languages need more tokens.
                ends = bool(before) or given[turn].finished
                if ends and len(text) >= _SHORTEST and re.search(r"\w{2,}", text):
                    found[text] = None
    if len(found) < count:
        raise ModelError(
            f"{model.name} wrote {len(found)} questions of the {count} to be replayed",
            "set replay.rows to less, or name general rows of your own as replay.data",
            code="too_few_questions",
            model=model.name,
            count=len(found),
            expected=count,
        )
    return list(found)[:count]


def _answered(model: LanguageModel, questions: list[str], seed: int) -> list[Replayed]:
    sampling = Sampling(max_new_tokens=_ANSWER, temperature=1.0, seed=seed)
    start = _before_the_user(model.tokenizer)
    prompts = [render_prompt((Message("user", q),), model.tokenizer) for q in questions]
    answers = Decoder(Network(model.module), model.tokenizer, sampling).answers(prompts)
    return [
        Replayed(
            f"replay-{number:04}",
            question,
            answer.text,
            (*prompt, *answer.tokens),
            common_length(start, prompt),
            len(answer.tokens),
        )
        for number, (question, prompt, (answer,)) in enumerate(
            zip(questions, prompts, answers, strict=True)
        )
    ]


def _before_the_user(tokenizer: Any) -> list[int]:
    """The chat template's tokens up to the user's first word."""
    if not has_template(tokenizer):
        raise ModelError(
            "replay begins from the chat template, and this model has none",
            "set replay.rows to 0",
            code="no_chat_template",
        )
    turns = [{"role": "user", "content": _MARK}]
    template = template_for(tokenizer)
    text = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
    before = text.partition(_MARK)[0]
    return list(tokenizer(before, add_special_tokens=False)["input_ids"])


def examples_of(rows: Iterable[Replayed | Own]) -> Iterator[Example]:
    """As the run directory keeps them."""
    return (row.example for row in rows)


@counts_to("replay conversations")
def replay_rows(directory: RunDirectory, recipe: Recipe, model: Opened) -> Sequence[Replayed | Own]:
    """What is read beside the task, by the user or by the base; kept with the run's data."""
    given = recipe.replay
    if not given.rows:
        return []
    kinds = [
        name
        for name, settings in SETTINGS.items()
        if (settings.rows.replies if given.mode == "text" else settings.can_anchor)
    ]
    if recipe.objective not in kinds or not isinstance(model, LanguageModel):
        if given.rows == "auto":
            directory.write_split("replay", ())
            return []
        raise RecipeError(
            f"replay.rows is {given.rows} and replay.mode {given.mode}, which "
            f"objective {recipe.objective} cannot read beside its own",
            f"set replay.rows to 0, or objective to one of {', '.join(kinds)}",
            code="replay_unsupported",
            key="replay.rows",
            value=given.rows,
            objective=recipe.objective,
        )
    found: Sequence[Replayed | Own]
    if given.data:
        longest = recipe.training.max_length
        found = own_rows(given.data, model.tokenizer, given.count, recipe.seed, longest)
    else:
        found = _written(recipe, model)
    directory.write_split("replay", examples_of(found))
    return found


def _written(recipe: Recipe, model: LanguageModel) -> Sequence[Replayed]:
    """By the base. With `auto` runs of all seeds share them, and a base that cannot is let off."""
    given, cache = recipe.replay, cache_folder() / "replay"
    if given.rows != "auto":
        return replayed(model, given.rows, recipe.seed, cache)
    try:
        return replayed(model, given.count, 0, cache)
    except ModelError:
        return []
