"""Tools of a chat: what a request offers and demands, and the calls as a reply tells them.

Scripts written before tools ask for `functions`, and are answered with a `function_call`: one tool
at most, otherwise the same.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from burnish.serving.api.errors import invalid
from burnish.serving.api.fields import Body, said
from burnish.serving.prompts import Call, tool_calls

_MOST = 128


class _Given(Body):
    """What a template writes one field after the other, so it is shown as it was given: a model
    should read a tool as it stood in the rows that it learnt from."""

    _given: dict[str, Any] = PrivateAttr()

    @model_validator(mode="wrap")
    @classmethod
    def _as_given(cls, value: Any, accept: Callable[[Any], Self]) -> Self:
        found = accept(value)
        found._given = value
        return found

    @property
    def shown(self) -> dict[str, Any]:
        """As it was given, without what is null."""
        return {name: value for name, value in self._given.items() if value is not None}


class Function(_Given):
    """A function that the model may want called."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Given):
    """A tool; functions are all there is."""

    type: Literal["function"]
    function: Function

    @property
    def shown(self) -> dict[str, Any]:
        return super().shown | {"function": self.function.shown}


class NamedFunction(Body):
    """Which function must be called."""

    name: str


class NamedTool(Body):
    """The one tool that must be called."""

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


class Offer(Body):
    """What of a request speaks of tools."""

    tools: Annotated[list[Tool], Field(max_length=_MOST)] | None = None
    tool_choice: _Choice | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[Function], Field(min_length=1, max_length=_MOST)] | None = None
    function_call: _OlderChoice | None = None

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools that the model is shown."""
        if "none" in (self.tool_choice, self.function_call):
            return []
        older = [{"type": "function", "function": one.shown} for one in self.functions or ()]
        return [tool.shown for tool in self.tools or ()] or older

    @property
    def demanded(self) -> list[dict[str, Any]]:
        """The functions of which one must be called; empty where none must.

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
        """Whether the client wants no two calls at once."""
        return self.parallel_tool_calls is False or self.functions is not None

    def check_offer(self) -> None:
        """
        Raises:
            ApiError: a choice without its tools, or both ways to offer them.
        """
        if self.tools and self.functions:
            raise invalid("'functions' and 'tools' are not allowed together.", "functions")
        for name in ("tool_choice", "parallel_tool_calls"):
            if getattr(self, name) not in (None, "none") and not self.tools:
                raise invalid(f"'{name}' is only allowed when 'tools' are specified.", name)
        if self.function_call not in (None, "none") and not self.functions:
            reason = "'function_call' is only allowed when 'functions' are specified."
            raise invalid(reason, "function_call")

    def parted(self, text: str, end: str) -> tuple[str, list[Call], str]:
        """What a reply says beside its calls, the calls that the client wants, and why it ended.

        A reply that must call says nothing else, whatever cut it.
        """
        if not (offered := self.offered):
            return text, [], end
        names = {tool["function"]["name"] for tool in offered}
        rest, calls, cut = tool_calls(text, names, limited=end == "length")
        if calls and not (cut and end == "length"):
            end = "function_call" if self.functions else "tool_calls"
        return "" if self.demanded else rest, calls[:1] if self.one_call else calls, end

    def told(self, calls: Sequence[Call], *, streamed: bool = False) -> dict[str, Any]:
        """A message's fields with these calls, at least one; a stream numbers them."""
        if self.functions:
            return {"function_call": {"name": calls[0].name, "arguments": calls[0].arguments}}
        places = [{"index": place} if streamed else {} for place in range(len(calls))]
        return {"tool_calls": [p | _call(c) for p, c in zip(places, calls, strict=True)]}


def _named(name: str, functions: list[dict[str, Any]], param: str) -> list[dict[str, Any]]:
    found = [function for function in functions if function["name"] == name]
    if not found:
        offered = "functions" if param == "function_call" else "tools"
        choice = param.replace("_", " ").capitalize()
        raise invalid(f"{choice} {name!r} is none of the {offered}.", param)
    return found


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
