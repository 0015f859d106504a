"""Rows that were rendered already are told, whichever family's template it was."""

import copy
from typing import Any

import pytest

from burnish.conversation import Example, Message
from burnish.data.checks.template_marks import chat_template_marks, first_mark, speaker_lines

RENDERED = {
    "ChatML": "<|im_start|>user\nq<|im_end|>",
    "Llama 2": "<s>[INST] <<SYS>> s <</SYS>> q [/INST] a </s>",
    "Llama 3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|>",
    "Llama 4": "<|header_start|>user<|header_end|>\n\nq<|eot|>",
    "Gemma": "<start_of_turn>user\nq<end_of_turn>",
    "Mistral": "[SYSTEM_PROMPT]s[/SYSTEM_PROMPT]",
    "Mistral's tools": "[AVAILABLE_TOOLS] [] [/AVAILABLE_TOOLS]",
    "Phi 3": "<|user|>\nq<|end|>\n<|assistant|>",
    "Phi 4": "<|im_start|>user<|im_sep|>q",
    "DeepSeek": "<｜begin▁of▁sentence｜><｜User｜>q<｜Assistant｜>a<｜end▁of▁sentence｜>",
    "GLM": "[gMASK]<sop><|user|>\nq",
    "Harmony": "<|start|>user<|message|>q",
    "Harmony's channels": "<|channel|>final<|message|>a<|return|>",
    "Command": "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>q<|END_OF_TURN_TOKEN|>",
    "Granite": "<|start_of_role|>user<|end_of_role|>q",
    "Alpaca": "Below is a task.\n\n### Instruction:\nq\n\n### Response:\na",
    "Guanaco": "### Human: q### Assistant: a",
    "Vicuna": "USER: q ASSISTANT: a</s>",
    "HH": "\n\nHuman: q\n\nAssistant: a",
    "speakers": "User: q\nAssistant: a",
    "Human and AI": "Human: q\nAI: a",
    "Together": "<human>: q\n<bot>: a",
    "question and answer": "### Question:\nq\n### Answer:\na",
    "an end": "some text</s>",
}


@pytest.mark.parametrize("family", RENDERED)
def test_marks_of_every_family(family: str) -> None:
    text = RENDERED[family]
    assert first_mark(text)
    document = Example("d", (Message("document", text),), source="f:1")
    turns = Example("t", (Message("user", text), Message("assistant", "a")), source="f:2")
    of_turns, of_documents = chat_template_marks([document, turns], "train")
    assert (of_turns.where, of_documents.where) == (("f:2",), ("f:1",))
    assert {of_turns.severity, of_documents.severity} == {"warning"}
    assert "keep only the text of each turn" in of_turns.message
    assert "write the turns as messages" in of_documents.message


@pytest.mark.parametrize(
    "text",
    [
        "is a <|b|> or <c> in [1]",
        "if a <| b then |> c",
        "### Response: is a heading",
        "the <s>old</s> price",
        "User: who? Assistant: me",
    ],
)
def test_other_text_has_none(text: str) -> None:
    assert first_mark(text) is None


def test_a_rejected_answer_is_looked_at() -> None:
    turns = (Message("user", "q"), Message("assistant", "a"))
    assert chat_template_marks([Example("p", turns, rejected="b<|eot_id|>")], "train")


def test_lines_at_which_a_model_without_a_template_stops(tiny_tokenizer: Any) -> None:
    answers = ("yes\nuser: may come in", "the user: x", "assistant: yes", "a\nUser: x", "b")
    rows = [
        Example(f"{n}", (Message("user", "user: q"), Message("assistant", answer)), source=f"f:{n}")
        for n, answer in enumerate(answers)
    ]
    masked = (Message("user", "q"), Message("assistant", answers[0], 0), Message("assistant", "c"))
    rows += [
        Example("m", masked, source="f:9"),
        Example("d", (Message("document", "a\nuser: b"),), source="f:10"),
    ]
    assert speaker_lines(rows, tiny_tokenizer) == []
    plain = copy.deepcopy(tiny_tokenizer)
    plain.chat_template = None
    (finding,) = speaker_lines(rows, plain)
    assert (finding.severity, finding.count, finding.where) == ("warning", 2, ("f:0", "f:2"))
    assert "use a model with a chat template" in finding.message
