"""Tools of a chat: what a request offers and demands, and the calls as a reply tells them.

Scripts written before tools ask for `functions`, and are answered with a `function_call`: one tool
at most, otherwise the same.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from burnish.data.call_formats import HERMES, CallFormat
from burnish.inference.tool_calls import Call, parse_tool_calls
from burnish.serving.errors import conflicting, invalid
from burnish.serving.schemas.sampling import Array, Body, said

_MOST = 128


class _Given(Body):
    """What a template writes one field after the other, so it is shown as it was given: a model
    should read a tool as it stood in the rows that it learnt from."""

    _given: dict[str, Any] = PrivateAttr()

    @model_validator(mode="wrap")
    @classmethod
    def _as_given(cls, value: Any, accept: Callable[[Any], Self]) -> Self:
        result = accept(value)
        result._given = value
        return result

    @property
    def shown(self) -> dict[str, Any]:
        """The object as the client sent it, without null values."""
        return {name: value for name, value in self._given.items() if value is not None}


class Function(_Given):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Given):
    """A tool; functions are the only type."""

    type: Literal["function"]
    function: Function

    @property
    def shown(self) -> dict[str, Any]:
        """The tool as the client sent it, without null values."""
        return super().shown | {"function": self.function.shown}


class NamedFunction(Body):
    """The name of the function that must be called."""

    name: str


class NamedTool(Body):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


_ONE = "{'type': 'function', 'function': {'name': ...}}"
_Choice = Annotated[
    Literal["none", "auto", "required"] | NamedTool,
    said(f"'none', 'auto', 'required' or {_ONE}"),
]
_OlderChoice = Annotated[
    Literal["none", "auto"] | NamedFunction, said("'none', 'auto' or {'name': ...}")
]


class ToolOptions(Body):
    """The parameters of a request that concern tools."""

    tools: Annotated[Array[Tool], Field(max_length=_MOST)] | None = None
    tool_choice: _Choice | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[Array[Function], Field(min_length=1, max_length=_MOST)] | None = None
    function_call: _OlderChoice | None = None

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools that the chat template shows to the model."""
        if "none" in (self.tool_choice, self.function_call):
            return []
        older = [{"type": "function", "function": one.shown} for one in self.functions or ()]
        return [tool.shown for tool in self.tools or ()] or older

    @property
    def required_functions(self) -> list[dict[str, Any]]:
        """The functions of which the model must call one; empty if a call is optional.

        Raises:
            ApiError: a function is named that is not offered.
        """
        functions = [tool["function"] for tool in self.offered]
        if isinstance(self.tool_choice, NamedTool):
            return _named(self.tool_choice.function.name, functions, "tool_choice")
        if isinstance(self.function_call, NamedFunction):
            return _named(self.function_call.name, functions, "function_call")
        return functions if self.tool_choice == "required" else []

    @property
    def one_call(self) -> bool:
        """Whether the reply may contain at most one call."""
        return self.parallel_tool_calls is False or self.functions is not None

    def check_tools(self) -> None:
        """Reject a choice without tools, and `tools` together with `functions`.

        Raises:
            ApiError: a choice without its tools, or both ways to offer them.
        """
        if self.tools and self.functions:
            raise conflicting("'functions' and 'tools' are not allowed together.", "functions")
        for name in ("tool_choice", "parallel_tool_calls"):
            if getattr(self, name) not in (None, "none") and not self.tools:
                reason = f"'{name}' is only allowed when 'tools' are specified."
                raise conflicting(reason, name)
        if self.function_call not in (None, "none") and not self.functions:
            reason = "'function_call' is only allowed when 'functions' are specified."
            raise conflicting(reason, "function_call")

    def split_calls(
        self, text: str, end: str, call_format: CallFormat = HERMES
    ) -> tuple[str, list[Call], str]:
        """Split a reply into its text, its tool calls in the form of the model's family, and its
        finish reason.

        A reply that must call says nothing else, whatever cut it.
        """
        if not (offered := self.offered):
            return text, [], end
        names = {tool["function"]["name"] for tool in offered}
        rest, calls, cut = parse_tool_calls(
            text, names, limited=end == "length", call_format=call_format, tools=offered
        )
        wanted = calls[:1] if self.one_call else calls
        if wanted and wanted[-1].whole and not (cut and end == "length"):
            end = "function_call" if self.functions else "tool_calls"
        return "" if self.required_functions else rest, wanted, end

    def told(self, calls: Sequence[Call]) -> dict[str, Any]:
        """Return the message fields for these calls, of which there must be at least one."""
        told = [{"name": call.name, "arguments": call.arguments} for call in calls]
        if self.functions:
            return {"function_call": told[0]}
        return {"tool_calls": [_begun() | {"function": function} for function in told]}

    def new_call_deltas(self, calls: Sequence[Call], told: list[int]) -> Iterator[dict[str, Any]]:
        """Yield the stream deltas for calls: first each call's name, then its arguments as they
        grow.

        `told` holds how much of each call's arguments was told before, and is brought up to date.
        """
        for place, call in enumerate(calls):
            if place == len(told):
                told.append(0)
                begun = {"name": call.name, "arguments": ""}
                yield self._part(place, begun, _begun())
            if more := call.arguments[told[place] :]:
                told[place] += len(more)
                yield self._part(place, {"arguments": more}, {})

    def _part(self, place: int, function: dict[str, str], begun: dict[str, Any]) -> dict[str, Any]:
        if self.functions:
            return {"function_call": function}
        return {"tool_calls": [{"index": place} | begun | {"function": function}]}


def _begun() -> dict[str, Any]:
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"}


def _named(name: str, functions: list[dict[str, Any]], param: str) -> list[dict[str, Any]]:
    result = [function for function in functions if function["name"] == name]
    if not result:
        offered = "functions" if param == "function_call" else "tools"
        choice = param.replace("_", " ").capitalize()
        raise invalid(f"{choice} {name!r} is not one of the {offered}.", param, "unknown_tool")
    return result
