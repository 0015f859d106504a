"""The sample that is graded, and templates that insert its values.

A template is text with `{{ item.x }}` or `{{ sample.output_text }}`; a path may continue with
`.name` and `[0]`. Values are inserted once: braces inside a value are left unchanged.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

Flag = Literal[
    "formula_parse_error",
    "invalid_variable_error",
    "model_grader_parse_error",
    "model_grader_server_error",
    "other_error",
    "python_grader_runtime_error",
    "python_grader_server_error",
    "sample_parse_error",
]
FLAGS: tuple[Flag, ...] = get_args(Flag)
SAMPLE = ("output_text", "output_json", "output_tools", "choices")

# Characters of a template, before and after filling in: more than any model's context here.
LONGEST = 1 << 20
_SHOWN = 200  # characters of an invalid path in a message
_PATH = re.compile(r"(item|sample)((?:\.[\w-]+|\[\d+\])*)")
_STEP = re.compile(r"\.([\w-]+)|\[(\d+)\]")


class GradingError(Exception):
    """An answer could not be graded; `flag` is the API's name for the reason.

    `kind` is the limit that stopped a program (timeout, memory, output, crash, cancelled), or
    `length` if a text is too long to be graded.
    """

    def __init__(self, flag: Flag, message: str, kind: str | None = None) -> None:
        # A lone surrogate cannot be sent as UTF-8.
        message = message.encode(errors="backslashreplace").decode()
        super().__init__(message)
        self.flag, self.message, self.kind = flag, message, kind


class Sample:
    """A model's answer and the row that it answers.

    Args:
        text: the answer.
        item: the row's fields, by name.
        tools: its tool calls, in the format of the chat API.
    """

    def __init__(
        self, text: str, item: Mapping[str, Any], tools: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.text, self.item, self.tools = text, item, tools

    @cached_property
    def as_dict(self) -> dict[str, Any]:
        """The `sample` argument of Python graders; `output_json` is None if it is not JSON."""
        tools = list(self.tools)
        message = {"role": "assistant", "content": self.text, "tool_calls": tools}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        parsed = self._parsed
        return {
            "output_text": self.text,
            "output_json": parsed[0] if parsed else None,
            "output_tools": tools,
            "choices": [choice],
        }

    @cached_property
    def _parsed(self) -> tuple[Any] | None:
        try:
            return (json.loads(self.text),)
        except (ValueError, RecursionError):
            return None

    def value(self, path: str) -> Any:
        """Return the value at a path such as `item.names[0]`.

        Raises:
            GradingError: the path does not exist, or needs JSON and the answer is not JSON.
        """
        matched = _PATH.fullmatch(path)
        assert matched is not None
        space, rest = matched.groups()
        if rest.startswith(".output_json") and space == "sample" and self._parsed is None:
            raise GradingError(
                "sample_parse_error",
                f"{path} needs a JSON answer, but the answer is not valid JSON",
            )
        value: Any = self.item if space == "item" else self.as_dict
        for name, index in _STEP.findall(rest):
            try:
                value = value[name] if name else value[int(index)]
            except (KeyError, IndexError, TypeError):
                raise GradingError("invalid_variable_error", f"{path} does not exist") from None
        return value

    def fill(self, template: str, room: int = LONGEST) -> str:
        """Fill in a template, to at most `room` characters; values other than text become JSON.

        Raises:
            GradingError: a value does not exist, or the result is too long.
        """
        pieces, end, size = [], 0, 0
        for start, quote, after in [*_quotes(template), (len(template), "", len(template))]:
            pieces.append(template[end:start])
            pieces.append(_written(self.value(quote)) if quote else "")
            end, size = after, size + len(pieces[-2]) + len(pieces[-1])
            if size > room:
                reason = f"the filled-in templates have more than {LONGEST} characters"
                raise GradingError("other_error", reason, "length")
        return "".join(pieces)


def _quotes(template: str) -> Iterator[tuple[int, str, int]]:
    """Yield the start of `{{`, the path, and the end of `}}`, in linear time."""
    end = 0
    while (start := template.find("{{", end)) >= 0 and (close := template.find("}}", start)) >= 0:
        end = close + 2
        yield start, template[start + 2 : close].strip(), end


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _checked(template: str) -> str:
    if len(template) > LONGEST:
        raise PydanticCustomError(
            "template_too_long",
            "has {count} characters, more than the limit of {limit}",
            {"count": len(template), "limit": LONGEST},
        )
    for _, quote, _ in _quotes(template):
        matched = _PATH.fullmatch(quote)
        if matched is None:
            shown = quote if len(quote) < _SHOWN else f"{quote[:_SHOWN]}..."
            raise PydanticCustomError(
                "not_a_path",
                "{shown} is not a path such as item.x or sample.output_text",
                {"shown": repr(shown)},
            )
        first = _STEP.match(matched[2])
        if matched[1] == "sample" and (first is None or first[1] not in SAMPLE):
            raise PydanticCustomError(
                "unknown_path",
                "{shown} is not one of {known}",
                {"shown": repr(quote), "known": f"sample.{', sample.'.join(SAMPLE)}"},
            )
    return template


Template = Annotated[str, AfterValidator(_checked)]
