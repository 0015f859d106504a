"""Checks on the rows: something is learnt in each, and every answer ends with a stop token."""

from collections.abc import Sequence
from typing import Any

from burnish.conversation import Example
from burnish.models.branches import Row
from burnish.models.stop_tokens import stop_token_setting, stop_tokens
from burnish.preflight.base import Check, Subject, not_applicable, rows_in
from burnish.training.objectives.base import Objective

# Rendering is the price of looking at answers before the objective prepared them.
_ROWS_AT_MOST = 2000


def check_every_row_trains(subject: Subject) -> Check:
    """Every item of the run has a token, or a decision, that the loss sees."""
    name, items = "something is learnt", subject.items
    if type(subject.loop.objective).collect is not Objective.collect:
        return not_applicable(name, "what is learnt is sampled at each step")
    empty = [index for index, item in enumerate(items) if not item.learnt]
    figure = f"{len(items) - len(empty)} of {len(items)} rows"
    if not empty:
        return Check(name, True, figure, float(len(empty)))
    rows = rows_in(items[empty[0]])
    start = subject.model.tokenizer.decode(list(rows[0].tokens)[:12]) if rows else ""
    where = _where(subject.examples, items, empty[0])
    seen = f"nothing is learnt from {where} ({start!r})"
    remedy = "give it an assistant turn with a weight above 0, or take it out"
    fields = {"row": where, "start": start}
    return Check(name, False, figure, float(len(empty)), seen, remedy, "nothing_learnt", fields)


def check_stop_token_trained(subject: Subject) -> Check:
    """The last learnt token of each answer is one that the model stops at."""
    name = "the stop token is learnt"
    if not subject.writes:
        return not_applicable(name, "the model has a head and writes no text")
    examples = [e for e in _spread(subject.examples) if e.messages[0].role != "document"]
    if not examples:
        return not_applicable(name, "documents have no answers that end")
    objective, tokenizer = subject.loop.objective, subject.model.tokenizer
    items = objective.items(examples, tokenizer, subject.max_length)
    answers = [
        (index, row, place)
        for index, item in enumerate(items)
        for row in rows_in(item)
        for place in _ends(row)
    ]
    if not answers:
        return not_applicable(name, "no tokens of the rows themselves are learnt")
    stops = stop_tokens(subject.network.model, tokenizer)
    endless = [found for found in answers if found[1].tokens[found[2]] not in stops]
    figure = f"{len(answers) - len(endless)} of {len(answers)} answers"
    if not endless:
        return Check(name, True, figure, 0.0)
    index, row, place = endless[0]
    listed = ", ".join(subject.text(stop) for stop in sorted(stops))
    where = _where(examples, items, index)
    seen = (
        f"the answer of {where} ends at token {place} with "
        f"{subject.text(row.tokens[place])}, at which {subject.model.name} does not stop "
        f"(it stops at {listed or 'nothing'})"
    )
    named = stop_token_setting(row.tokens[place], tokenizer)
    remedy = (
        f"write `model_settings: {{stop_tokens: [{named}]}}` in the recipe (with --set: "
        f'"model_settings.stop_tokens=[{named}]"), so that it stops there in training, evaluation, '
        "serving and exports"
    )
    fields = {"row": where, "place": place, "stop_token": named}
    return Check(name, False, figure, float(len(endless)), seen, remedy, "answer_not_ended", fields)


def _ends(row: Row) -> list[int]:
    """The last place of each unbroken run of learnt tokens."""
    weights = [*row.weights, 0.0]
    return [t for t in range(len(row.tokens)) if weights[t] and not weights[t + 1]]


def _spread(examples: Sequence[Example]) -> Sequence[Example]:
    step = max(1, len(examples) // _ROWS_AT_MOST)
    return examples[::step]


def _where(examples: Sequence[Example], items: Sequence[Any], index: int) -> str:
    """File and line where every example became one item, else the item's number."""
    if len(items) != len(examples):
        return f"row {index + 1}"
    return examples[index].source or examples[index].id
