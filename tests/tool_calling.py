"""Rows of OpenAI's format that call tools, and a template that writes calls as Qwen2.5 does."""

import json
from typing import Any

# Qwen2.5's, with a shorter introduction.
TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>system\nTools:' }}{%- for tool in tools %}"
    "{{- '\n' + (tool | tojson) }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'assistant' and message.tool_calls %}{{- '<|im_start|>assistant' }}"
    "{%- if message.content %}{{- '\n' + message.content }}{%- endif %}"
    "{%- for call in message.tool_calls %}{%- set call = call.function %}"
    '{{- \'\n<tool_call>\n{"name": "\' + call.name + \'", "arguments": \' }}'
    "{{- call.arguments | tojson }}{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- elif message.role == 'tool' %}{{- '<|im_start|>user\n<tool_response>\n' }}"
    "{{- message.content }}{{- '\n</tool_response><|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\n' + message.content }}"
    "{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
FIND: dict[str, Any] = {
    "type": "function",
    "function": {"name": "find", "parameters": {"type": "object"}},
}


def calling(**arguments: Any) -> dict[str, Any]:
    function = {"name": "find", "arguments": json.dumps(arguments)}
    return {"id": "call_1", "type": "function", "function": function}


def row(question: str, content: str | None, *calls: dict[str, Any]) -> dict[str, Any]:
    """A question that is answered by calls."""
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": content, "tool_calls": list(calls)},
    ]
    return {"messages": turns, "tools": [FIND]}
