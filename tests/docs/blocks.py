"""The blocks of code and the commands that the README and the pages of the site show."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "bench" / "README.md",
    *sorted((ROOT / "recipes").rglob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
_FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block; `title` is the name of the file that it shows, if it has one."""

    page: str
    line: int
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def asks_a_server(self) -> bool:
        return self.language == "python" and ("openai" in self.text or "client" in self.text)

    @property
    def reads_a_run(self) -> bool:
        return self.language == "python" and "burnish.run(" in self.text


def _blocks(path: Path) -> list[Block]:
    text, page = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
    return [
        Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found[1],
            "".join(re.findall(r'title="(.+)"', found[2])),
            found[3],
        )
        for found in _FENCE.finditer(text)
    ]


BLOCKS = [block for path in PAGES for block in _blocks(path)]


def shown(language: str) -> list[Block]:
    """The blocks in a language, in the order of their pages."""
    return [block for block in BLOCKS if block.language == language]


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a block for the shell; assignments before it are left out."""
    found = []
    for line in block.text.splitlines():
        for command in re.split(r"\s&&\s", line):
            words = shlex.split(command, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                del words[0]
            if words:
                found.append(words)
    return found


def inline() -> list[tuple[str, str]]:
    """Page and text of each piece of code within a sentence or a table."""
    found = []
    for path in PAGES:
        text = _FENCE.sub("", path.read_text(encoding="utf-8"))
        page = str(path.relative_to(ROOT))
        found += [(page, code.replace("\\|", "|")) for code in _INLINE.findall(text)]
    return found
