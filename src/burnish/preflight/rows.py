"""Checks on the rows: every row has trained tokens, and every answer ends with a stop token."""

from collections.abc import Sequence
from typing import Any

from burnish.conversation import Example
from burnish.errors import quantity
from burnish.models.branches import Row
from burnish.models.stop_tokens import stop_token_setting, stop_tokens
from burnish.preflight.base import Check, Subject, not_applicable, rows_in
from burnish.training.objectives.base import Objective

# Rows that are rendered again, because the check needs answers as they are before `prepare`.
_ROWS_AT_MOST = 2000


def check_every_row_trains(subject: Subject) -> Check:
    """Checks that the loss of every training row depends on at least one token or label."""
    name, items = "every row is trained on", subject.items
    if type(subject.loop.objective).collect is not Objective.collect:
        return not_applicable(name, "the objective samples its training data at each step")
    empty = [index for index, item in enumerate(items) if not item.learnt]
    figure = f"{len(items) - len(empty)} of {quantity(len(items), 'row')}"
    if not empty:
        return Check(name, True, figure, float(len(empty)))
    rows = rows_in(items[empty[0]])
    start = subject.model.tokenizer.decode(list(rows[0].tokens)[:12]) if rows else ""
    where = _where(subject.examples, items, empty[0])
    seen = f"no token of {where} ({start!r}) is trained on"
    remedy = "add an assistant turn with a weight above 0 to the row, or remove the row"
    fields = {"row": where, "start": start}
    return Check(name, False, figure, float(len(empty)), seen, remedy, "nothing_learnt", fields)


def check_stop_token_trained(subject: Subject) -> Check:
    """Checks that the last trained token of each answer is a stop token of the model."""
    name = "the stop token is trained on"
    if not subject.writes:
        return not_applicable(name, "a model with a head does not generate text")
    examples = [e for e in _spread(subject.examples) if e.messages[0].role != "document"]
    if not examples:
        return not_applicable(name, "documents have no answers")
    objective, tokenizer = subject.loop.objective, subject.model.tokenizer
    items = objective.items(examples, tokenizer, subject.max_length)
    answers = [
        (index, row, place)
        for index, item in enumerate(items)
        for row in rows_in(item)
        for place in _ends(row)
    ]
    if not answers:
        return not_applicable(name, "no tokens of the rows are trained on")
    stops = stop_tokens(subject.network.model, tokenizer)
    endless = [answer for answer in answers if answer[1].tokens[answer[2]] not in stops]
    figure = f"{len(answers) - len(endless)} of {quantity(len(answers), 'answer')}"
    if not endless:
        return Check(name, True, figure, 0.0)
    index, row, place = endless[0]
    listed = ", ".join(subject.text(stop) for stop in sorted(stops))
    where = _where(examples, items, index)
    seen = (
        f"the answer of {where} ends at token {place} with {subject.text(row.tokens[place])}, "
        f"which is not a stop token of {subject.model.name} (stop tokens: {listed or 'none'})"
    )
    named = stop_token_setting(row.tokens[place], tokenizer)
    remedy = (
        f"write `model_settings: {{stop_tokens: [{named}]}}` in the recipe (with --set: "
        f'"model_settings.stop_tokens=[{named}]"), so that the model stops there in training, '
        "evaluation, serving and exports"
    )
    fields = {"row": where, "place": place, "stop_token": named}
    return Check(name, False, figure, float(len(endless)), seen, remedy, "answer_not_ended", fields)


def _ends(row: Row) -> list[int]:
    """Returns the last index of each unbroken run of trained tokens."""
    weights = [*row.weights, 0.0]
    return [t for t in range(len(row.tokens)) if weights[t] and not weights[t + 1]]


def _spread(examples: Sequence[Example]) -> Sequence[Example]:
    step = max(1, len(examples) // _ROWS_AT_MOST)
    return examples[::step]


def _where(examples: Sequence[Example], items: Sequence[Any], index: int) -> str:
    """Returns the file and line of an item if each example is one item, or the item's number."""
    if len(items) != len(examples):
        return f"row {index + 1}"
    return examples[index].source or examples[index].id
