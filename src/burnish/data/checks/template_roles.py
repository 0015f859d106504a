"""What the chat template decides for all rows: whether answers think, where system text goes."""

from collections.abc import Sequence
from dataclasses import replace

from burnish.conversation import Example
from burnish.data.template_form import TemplateForm
from burnish.data.template_text import with_thought_apart
from burnish.errors import quantity
from burnish.runs.directory import Finding


def with_thoughts_apart(examples: Sequence[Example], form: TemplateForm) -> list[Example]:
    """The rows with the `<think>` block of each answer as its reasoning, where the template writes
    thoughts."""
    if not form.thinks:
        return list(examples)
    return [
        replace(one, messages=tuple(with_thought_apart(turn, form) for turn in one.messages))
        for one in examples
    ]


def answers_think(
    examples: Sequence[Example], form: TemplateForm, *, shown: bool
) -> tuple[bool | None, list[Finding]]:
    """Whether prompts ask for answers that begin with a thought, as most answers of the rows do.

    None where the template decides, because it knows no thoughts or the rows have no answers.

    Args:
        examples: the rows to train on.
        form: of the model's chat template.
        shown: False for objectives that use only the text of an answer.
    """
    turns = [
        turn
        for example in examples
        for turn in example.messages
        if turn.role == "assistant" and turn.learnt
    ]
    if not form.thinks or not turns:
        return None, []
    count = sum(1 for turn in turns if turn.reasoning) if shown and form.reasoning else 0
    thinks = 2 * count > len(turns)
    if count in (0, len(turns)):
        each = "each" if count else "none"
        seen = f"{each} of {quantity(len(turns), 'answer')} has a thought before it"
    else:
        have = quantity(count, f"of {len(turns)} answers has", f"of {len(turns)} answers have")
        seen = f"{have} a thought before {'it' if count == 1 else 'them'}"
    prompts = "with a thought" if thinks else "without a thought"
    message = f"{seen}, so evaluation, chat and serving ask for answers {prompts}"
    return thinks, [Finding("thinking", "info", message, count)]


def moved_system_text(examples: Sequence[Example], form: TemplateForm) -> list[Finding]:
    """A finding if rows have system turns and the model has no system role."""
    if form.has_system:
        return []
    count = sum(1 for one in examples if any(turn.role == "system" for turn in one.messages))
    message = (
        f"the model has no system role, so the system text of {quantity(count, 'row')} goes before "
        "the first user turn, in training and serving alike"
    )
    return [Finding("system text", "info", message, count)] if count else []
