"""Progress bars for long work, in a terminal and in a notebook; silent where nobody looks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from burnish.terminal import Terminal

Advance = Callable[[int], None]


class Bars:
    """Bars one under another; `say` prints a line above them. All of it goes to stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Terminal(stderr=True, quiet=quiet, highlight=False, emoji=False)

    def say(self, text: str) -> None:
        self.console.print(text)

    @contextmanager
    def items(self, description: str, total: int) -> Iterator[Advance]:
        """A bar that counts finished items."""
        with self._progress() as progress:
            bar = progress.add_task(description, total=total, detail="")
            yield lambda count: progress.advance(bar, count)

    @contextmanager
    def training(self, steps: int) -> Iterator[Callable[[str, dict[str, Any]], None]]:
        """A bar that follows the loop's events: loss, learnt tokens a second, time left."""
        with self._progress() as progress:
            bar = progress.add_task("training", total=steps, detail="")
            said: dict[str, str] = {}

            def listen(phase: str, values: dict[str, Any]) -> None:
                if phase == "validation":  # after the last step no other event would show it
                    said["validation"] = f" · val {values['loss']:.3f}"
                if phase == "train":
                    said["loss"] = f"loss {values['loss']:.3f}"
                    said["rate"] = f" · {values['learnt_tokens_per_second']:.0f} tok/s"
                    progress.update(bar, completed=values["step"])
                parts = (said.get(key, "") for key in ("loss", "validation", "rate"))
                progress.update(bar, detail="".join(parts))

            yield listen

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("[bold]{task.description:<12}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TextColumn("·"),
            TimeRemainingColumn(),
            console=self.console,
        )
