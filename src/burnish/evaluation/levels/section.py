"""A section of the suite `levels`: a program that writes items at several levels of difficulty.

The answer of an item is right by construction. Items are drawn by a seed and never run out, so no
model can have learnt them by heart. To add a section, write a module with a `LevelSection` and list
it in `levels.registry`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

from burnish.conversation import Conversation, Message
from burnish.evaluation.tasks import CheckedItem, ChoiceItem

Item = ChoiceItem | CheckedItem


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a section.

    Attributes:
        description: what its items ask, for example `two steps, numbers up to 100`.
        tokens: an upper bound of the tokens of a prompt with its answer, chat template included.
        answer_tokens: tokens after which a generated reply is cut off; 0 for scored items.
    """

    description: str
    tokens: int
    answer_tokens: int = 0


@dataclass(frozen=True, slots=True)
class LevelSection:
    """A generator of items at levels 1, 2, 3, ..., from easy to hard.

    Attributes:
        name: letters and underscores, for example `word_problems`.
        kind: `scored`: the model's likeliest choice is graded (ChoiceItem); `generated`: the model
            writes a reply, which a program checks (CheckedItem). All levels are of one kind.
        levels: at least four levels; the first one is number 1.
        make: writes an item of a level with random numbers; the item's id is filled in later.
            It may use nothing random but the given `Random`, and no order of a set.
    """

    name: str
    kind: Literal["scored", "generated"]
    levels: tuple[Level, ...]
    make: Callable[[int, Random], Item]

    def item(self, level: int, seed: int) -> Item:
        """Return the item of a level (from 1) with this seed: always the same one."""
        item = self.make(level, Random(f"{self.name} {level} {seed}"))
        return replace(item, id=f"{self.name}-{level}-{seed}")


def choice_item(
    question: Conversation | str, right: str, wrong: Sequence[str], rng: Random
) -> ChoiceItem:
    """An item with choices in random order; a text question becomes a user turn.

    Raises:
        ValueError: two choices are equal.
    """
    choices = [right, *wrong]
    if len(set(choices)) < len(choices):
        raise ValueError(f"the choices {choices} are not all different")
    rng.shuffle(choices)
    return ChoiceItem("", _turns(question), tuple(choices), choices.index(right))


def continuation_item(text: str, right: str, wrong: Sequence[str], rng: Random) -> ChoiceItem:
    """An item whose choices continue a plain text, without a chat template.

    Choices start with a space where the text goes on with a word.
    """
    item = choice_item(text, right, wrong, rng)
    return replace(item, context=text)


def completion_item(text: str, right: str, wrong: Sequence[str], rng: Random) -> ChoiceItem:
    """A plain text whose choices are words or numbers that follow it after a space."""
    return continuation_item(text, f" {right}", [f" {choice}" for choice in wrong], rng)


def checked_item(question: Conversation | str, **check: Any) -> CheckedItem:
    """An item whose reply has to pass all the checks; see `evaluation.reply_checks`."""
    return CheckedItem("", _turns(question), check)


def conversation(turns: Sequence[tuple[str, str]], question: str) -> Conversation:
    """Return turns of a user and the replies to them, and a last question without a reply."""
    messages: list[Message] = []
    for asked, reply in turns:
        messages += [Message("user", asked), Message("assistant", reply)]
    return (*messages, Message("user", question))


def _turns(question: Conversation | str) -> Conversation:
    return (Message("user", question),) if isinstance(question, str) else question
