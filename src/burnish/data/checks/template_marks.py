"""Finds markers of chat templates in the text of rows, which the model's template would repeat."""

import re
from collections.abc import Iterable
from typing import Any

from burnish.conversation import Example
from burnish.data.chat_templates import next_speaker_index, speaker_prefixes
from burnish.data.checks.dataset import finding_if_any
from burnish.errors import quantity
from burnish.runs.directory import Finding

_NAMES = (
    # ChatML, Phi, Kimi
    r"im_start|im_end|im_sep|im_user|im_assistant|im_system|im_middle|endoftext|endofprompt"
    r"|system|user|assistant|end|tool|observation"
    # Llama 3 and 4
    r"|begin_of_text|end_of_text|(?:start|end)_header_id|header_(?:start|end)|eot_id|eom_id|eot"
    r"|python_tag"
    # Harmony
    r"|start|message|channel|return|call|constrain"
    # Command, Granite, Gemma
    r"|[A-Z_]+_TOKEN|(?:start|end)_of_role|turn"
)
_MARK = re.compile(
    rf"<\|(?:{_NAMES})\|>"
    r"|<｜[^｜<>\s]{1,40}｜>"  # DeepSeek, Hunyuan
    r"|<(?:start|end)_of_turn>|<\|turn>|<turn\|>|<bos>|<eos>"
    r"|\[/?INST\]|<</?SYS>>|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS)\]|\[TOOL_CALLS\]"
    r"|\[gMASK\]|<sop>|\[\|(?:system|user|assistant|endofturn)\|\]"
    r"|\A\s*<s>|</s>\s*\Z"
)
# Templates of plain words: a single one of them may be a heading.
_WORDS = (
    ("### Instruction:", "### Response:"),
    ("### Human:", "### Assistant:"),
    ("### User:", "### Assistant:"),
    ("### Question:", "### Answer:"),
    ("USER: ", " ASSISTANT:"),
    ("Human:", "\nAssistant:"),
    ("Human:", "\nAI:"),
    ("User:", "\nAssistant:"),
    ("<human>:", "<bot>:"),
)


def chat_template_marks(examples: Iterable[Example], split: str) -> list[Finding]:
    """Finds rows whose text contains chat template markers, such as <|im_start|>."""
    marked = [(example, mark) for example in examples if (mark := _mark_of(example))]
    documents = [pair for pair in marked if pair[0].messages[0].role == "document"]
    turns = [pair for pair in marked if pair[0].messages[0].role != "document"]
    findings = []
    for rows, problem, remedy in (
        (
            turns,
            "with markers of a chat template (the first is {})",
            "keep only the text of each turn; the model's own template is added around it",
        ),
        (
            documents,
            "of plain text with markers of a chat template (the first is {}), so questions and "
            "markers are trained on like answers",
            "write the turns as messages; the model's own template is added around them",
        ),
    ):
        mark = rows[0][1] if rows else ""
        message = f"{split} has {quantity(len(rows), 'row')} {problem.format(mark)}"
        examples = [example for example, _ in rows]
        findings += finding_if_any("template", "warning", message, examples, remedy)
    return findings


def speaker_lines(examples: Iterable[Example], tokenizer: Any) -> list[Finding]:
    """Finds answers with a line such as "user:", at which a model without a chat template would
    end its answer."""
    if not speaker_prefixes(tokenizer):
        return []
    rows = [
        example
        for example in examples
        for turn in example.messages
        if turn.role == "assistant" and turn.learnt and next_speaker_index(turn.content) is not None
    ]
    has = quantity(len(rows), "answer has", "answers have")
    message = (
        f"{has} a line that begins like a turn (user:, assistant:, system: or tool:); the model "
        "has no chat template, so its answers end before such a line, in evaluation and when it is "
        "served"
    )
    remedy = "rephrase these lines, or use a model with a chat template"
    return finding_if_any("speaker", "warning", message, rows, remedy)


def _mark_of(example: Example) -> str | None:
    texts = [turn.content for turn in example.messages] + [example.rejected or ""]
    return next((mark for text in texts if (mark := first_mark(text))), None)


def first_mark(text: str) -> str | None:
    """The first chat template marker in a text; None if there is none."""
    if mark := _MARK.search(text):
        return mark[0].strip()
    for asks, answers in _WORDS:
        at = text.find(asks)
        if at >= 0 and text.find(answers, at) >= 0:
            return asks.strip()
    return None
