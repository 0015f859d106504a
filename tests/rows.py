"""Rows and items that a tiny model learns and is asked in seconds."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_LABELS = (("tent", "red"), ("parcel", "green"))


def labelled(pairs: int) -> list[dict[str, str]]:
    """A red and a green request for each number."""
    return [
        {"text": f"{word} number {i} please", "label": label}
        for i in range(pairs)
        for word, label in _LABELS
    ]


def chats(count: int) -> bytes:
    """The same as a file of OpenAI's supervised rows."""
    turns = [
        [{"role": "user", "content": row["text"]}, {"role": "assistant", "content": row["label"]}]
        for row in labelled(count // 2)
    ]
    return b"".join(json.dumps({"messages": row}).encode() + b"\n" for row in turns)


def choices(count: int) -> list[dict[str, Any]]:
    """Items of a general suite."""
    return [
        {"question": f"The parcel {i} is", "choices": [" here", " torn"], "answer": i % 2}
        for i in range(count)
    ]


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
