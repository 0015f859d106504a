"""What is graded: an answer with its item, and the templates that quote them.

A template is text with `{{ item.x }}` or `{{ sample.output_text }}`; a path goes on with `.name`
and `[0]`. Values are put in once: braces inside a value stay as they are.
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

# Characters of a template, and of what it becomes: more than any model here reads at once.
LONGEST = 1 << 20
_SHOWN = 200  # characters of a path that is none
_PATH = re.compile(r"(item|sample)((?:\.[\w-]+|\[\d+\])*)")
_STEP = re.compile(r"\.([\w-]+)|\[(\d+)\]")


class GradingError(Exception):
    """One answer that could not be graded; `flag` is the API's name for the reason.

    `kind` is a word for what stopped a program (timeout, memory, output, crash, cancelled), or
    `length` where a text is too long to be graded.
    """

    def __init__(self, flag: Flag, message: str, kind: str | None = None) -> None:
        # A lone surrogate cannot be sent as UTF-8.
        message = message.encode(errors="backslashreplace").decode()
        super().__init__(message)
        self.flag, self.message, self.kind = flag, message, kind


class Sample:
    """An answer of the model and the row that it answers.

    Args:
        text: the answer.
        item: the row's fields, by name.
        tools: its tool calls, in the shape of the chat API.
    """

    def __init__(
        self, text: str, item: Mapping[str, Any], tools: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.text, self.item, self.tools = text, item, tools

    @cached_property
    def as_dict(self) -> dict[str, Any]:
        """What programs read as `sample`; `output_json` is None of an answer that is no JSON."""
        tools = list(self.tools)
        message = {"role": "assistant", "content": self.text, "tool_calls": tools}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        found = self._parsed
        return {
            "output_text": self.text,
            "output_json": found[0] if found else None,
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
        """What a path such as `item.names[0]` leads to.

        Raises:
            GradingError: it leads nowhere, or into an answer that is no JSON.
        """
        matched = _PATH.fullmatch(path)
        assert matched is not None
        space, rest = matched.groups()
        if rest.startswith(".output_json") and space == "sample" and self._parsed is None:
            raise GradingError("sample_parse_error", f"{path} is asked for; the sample is no JSON")
        found: Any = self.item if space == "item" else self.as_dict
        for name, place in _STEP.findall(rest):
            try:
                found = found[name] if name else found[int(place)]
            except (KeyError, IndexError, TypeError):
                raise GradingError("invalid_variable_error", f"{path} is not there") from None
        return found

    def fill(self, template: str, room: int = LONGEST) -> str:
        """The template with its values, `room` characters at most; what is no text is written as
        JSON.

        Raises:
            GradingError: a value is not there, or the whole is too long.
        """
        pieces, end, size = [], 0, 0
        for start, quote, after in [*_quotes(template), (len(template), "", len(template))]:
            pieces.append(template[end:start])
            pieces.append(_written(self.value(quote)) if quote else "")
            end, size = after, size + len(pieces[-2]) + len(pieces[-1])
            if size > room:
                said = f"the templates have more than {LONGEST} characters with their values"
                raise GradingError("other_error", said, "length")
        return "".join(pieces)


def _quotes(template: str) -> Iterator[tuple[int, str, int]]:
    """Where `{{` begins, the path, and where `}}` ends; a search for both at once would look from
    each `{{` to the end."""
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
            "has {count} characters, and {limit} are allowed",
            {"count": len(template), "limit": LONGEST},
        )
    for _, quote, _ in _quotes(template):
        matched = _PATH.fullmatch(quote)
        if matched is None:
            shown = quote if len(quote) < _SHOWN else f"{quote[:_SHOWN]}..."
            raise PydanticCustomError(
                "not_a_path",
                "{shown} is no path such as item.x or sample.output_text",
                {"shown": repr(shown)},
            )
        first = _STEP.match(matched[2])
        if matched[1] == "sample" and (first is None or first[1] not in SAMPLE):
            raise PydanticCustomError(
                "unknown_path",
                "{shown} is none of {known}",
                {"shown": repr(quote), "known": f"sample.{', sample.'.join(SAMPLE)}"},
            )
    return template


Template = Annotated[str, AfterValidator(_checked)]
