"""Checks that the items of a suite fit into a model's context."""

from collections.abc import Sequence
from typing import Any

from burnish.data.render import render_prompt
from burnish.errors import DataError
from burnish.evaluation.tasks import (
    BiasTask,
    CheckedItem,
    CheckedTask,
    ChoiceItem,
    ChooseTask,
    DivergenceTask,
    Opening,
    Task,
)
from burnish.models.interface import Choice
from burnish.models.tokenize import tokenize_choice

_SHOWN = 60
# Tasks whose items are read whole; of the others the model reads what fits.
_ALL_READ = (ChooseTask, BiasTask, CheckedTask, DivergenceTask)


def check_lengths(tasks: Sequence[Task], tokenizer: Any, longest: int) -> None:
    """Check that every item fits into a context of `longest` tokens.

    Raises:
        DataError: an item is too long.
    """
    for task in tasks:
        for item in task.items if isinstance(task, _ALL_READ) else ():
            if (count := _tokens(item, tokenizer)) > longest:
                question = (
                    item.question if isinstance(item, ChoiceItem) else item.prompt[-1].content
                )
                raise DataError(
                    f"item {item.id} of {task.name} ({question[:_SHOWN]!r}) has {count:,} tokens, "
                    f"more than the model's context of {longest:,}",
                    "shorten it, or choose a model with a longer context",
                    code="too_many_tokens",
                    item=item.id,
                    task=task.name,
                    tokens=count,
                    limit=longest,
                )


def _tokens(item: ChoiceItem | CheckedItem | Opening, tokenizer: Any) -> int:
    if isinstance(item, CheckedItem):  # the first token of the reply needs room, too
        return len(render_prompt(item.prompt, tokenizer)) + 1
    if isinstance(item, Opening):
        context, choices = tokenize_choice(Choice(item.prompt, (item.reply,)), tokenizer)
    else:
        context, choices = tokenize_choice(Choice(item.context, item.choices), tokenizer)
    return len(context) + max(map(len, choices))
