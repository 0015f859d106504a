"""What an answer used, told by its route and read by limits, metrics and log."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection

_PLACE = "burnish.usage"


@dataclass(slots=True)
class Usage:
    """Tokens of one request; `cached` is the part of the prompt that was not computed again.

    `first` is when the first token was ready, in seconds after the request came; None: none was.
    """

    prompt: int = 0
    cached: int = 0
    generated: int = 0
    first: float | None = None

    @property
    def tokens(self) -> int:
        return self.prompt + self.generated


def usage_of(request: HTTPConnection) -> Usage:
    """The request's own; fill it in before the answer ends."""
    return usage_in(request.scope)


def usage_in(scope: MutableMapping[str, Any]) -> Usage:
    found: Usage = scope.setdefault(_PLACE, Usage())
    return found
