"""Whether a model reads what a suite asks: an item that is too long is told by name."""

from collections.abc import Sequence
from typing import Any

from burnish.data.render import render_prompt
from burnish.errors import DataError
from burnish.evaluation.tasks import CheckedItem, ChoiceItem, Opening, Task
from burnish.models.interface import Choice
from burnish.models.tokenize import tokenize_choice

_SHOWN = 60


def check_lengths(tasks: Sequence[Task], tokenizer: Any, longest: int) -> None:
    """Whether every item fits into the tokens that a model reads at once.

    Raises:
        DataError: one does not.
    """
    for task in tasks:
        for item in getattr(task, "items", ()):
            if (count := _tokens(item, tokenizer)) > longest:
                question = (
                    item.question if isinstance(item, ChoiceItem) else item.prompt[-1].content
                )
                raise DataError(
                    f"item {item.id} of {task.name} ({question[:_SHOWN]!r}) has {count:,} tokens, "
                    f"and the model reads {longest:,} at once",
                    "shorten it, or choose a model that reads more",
                    code="too_many_tokens",
                    item=item.id,
                    task=task.name,
                    tokens=count,
                    limit=longest,
                )


def _tokens(item: ChoiceItem | CheckedItem | Opening, tokenizer: Any) -> int:
    if isinstance(item, CheckedItem):  # the reply's first token needs a place, too
        return len(render_prompt(item.prompt, tokenizer)) + 1
    if isinstance(item, Opening):
        context, choices = tokenize_choice(Choice(item.prompt, (item.reply,)), tokenizer)
    else:
        context, choices = tokenize_choice(Choice(item.context, item.choices), tokenizer)
    return len(context) + max(map(len, choices))
