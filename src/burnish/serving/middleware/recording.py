"""Texts of prompts and answers, which reach the log only where recording is on."""

from collections.abc import MutableMapping, Sequence
from typing import Any

from fastapi import Request

from burnish.inference.types import Generation

_PLACE = "burnish.recorded"


def record(request: Request, prompt: Any, answers: Sequence[Generation]) -> None:
    """Keeps what was asked and what is answered; `answers` may still grow."""
    if request.app.state.service.settings.record:
        request.scope[_PLACE] = (prompt, answers)


def recorded(scope: MutableMapping[str, Any]) -> dict[str, Any] | None:
    """What a request's line of texts holds; None where there is none."""
    if _PLACE not in scope:
        return None
    prompt, answers = scope[_PLACE]
    return {"prompt": prompt, "answers": [answer.text for answer in answers]}
