"""Text on its way to a terminal: what would steer it is shown there and not obeyed.

Rows, labels, names of files and what models write may hold the codes that move a cursor, ring the
bell, set a title or turn the order of letters around. All that Burnish prints passes here.
"""

import re
import sys
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Control characters but for tab and line feed, marks that turn or hide text, halves of characters.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb]"
)
_PICTURES, _DELETE, _OTHER = 0x2400, "\u2421", "\ufffd"


def visible(text: str) -> str:
    """The text with a picture of one column for each character that would steer a terminal."""
    return _STEERING.sub(lambda found: _picture(found[0]), text)


def _picture(char: str) -> str:
    if char == "\x7f":
        return _DELETE
    return chr(_PICTURES + ord(char)) if char < " " else _OTHER


def write(text: str, *, end: str = "\n", error: bool = False) -> None:
    """Prints plain text, to stderr where it is an `error`."""
    stream: TextIO = sys.stderr if error else sys.stdout
    stream.write(visible(text) + end)
    stream.flush()


class Terminal(Console):
    """A console whose own styles reach the terminal, and no code out of a text does."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)
