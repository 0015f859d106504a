"""What everybody is asked: rows that the run held out, and general prompts in several languages."""

from itertools import islice
from pathlib import Path
from typing import Any

from burnish.conversation import Conversation, Example, Message
from burnish.data.readers.read_rows import BadRow, read_rows
from burnish.data.recognise import Converter
from burnish.data.render import render_prompt
from burnish.errors import DataError
from burnish.runs.directory import RunDirectory

Prompt = tuple[str, Conversation]

# Scripts, digits, white space and signs are where tokenizers and templates come apart.
_GENERAL = {
    "english": "What is the capital of France, and how far is it from Berlin?",
    "german": "Schreibe einen Satz über den Regen in Köln.",
    "chinese": "请用一句话介绍长城。",
    "arabic": "اكتب جملة قصيرة عن البحر.",
    "signs": "Copy this line:\n\tnaïve café – 3.14159 × 1,000 = {x: [1, 22, 333]} 🙂  <b>ok</b>",
}
_OWN = 4
# Tokens of an answer: enough to leave the first words, few enough for seconds.
ANSWER = 16
# Rows are looked through up to here for such as are short enough to be asked in seconds.
_LOOKED_AT = 400
_LONGEST = 512
_MOST = 100


def chosen(directory: RunDirectory, tokenizer: Any, context: int) -> list[Prompt]:
    """Some of the run's own held-out prompts, spread over the file, then the general ones.

    Prompts that leave no room for an answer in the model's `context` are left out.
    """
    longest = min(_LONGEST, context - ANSWER)

    def fits(prompt: Conversation) -> bool:
        return len(render_prompt(prompt, tokenizer)) <= longest

    rows: list[Example] = []
    for split in ("validation", "test", "train"):
        asked = (row for row in islice(directory.stream(split), _LOOKED_AT) if _is_prompt(row))
        rows = rows or [row for row in asked if fits(row.prompt)]
    spread = [rows[place * len(rows) // _OWN] for place in range(min(_OWN, len(rows)))]
    own = [(row.id, row.prompt) for row in {row.id: row for row in spread}.values()]
    general = [(name, (Message("user", text),)) for name, text in _GENERAL.items()]
    return own + [(name, prompt) for name, prompt in general if fits(prompt)]


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file: rows as training data has them, or a text a line (`.txt`).

    Raises:
        DataError: the file is missing, or a row of it cannot be read.
    """
    if path.suffix == ".txt":
        return _lines(path)
    converter = Converter({}, None, None)
    found = []
    for row in islice(read_rows(path), _MOST):
        example = row if isinstance(row, BadRow) else converter.convert(row)
        if isinstance(example, BadRow):
            raise DataError(
                f"{example.source} {example.reason}",
                example.remedy,
                code=example.code,
                **{**example.fields, "source": example.source},
            )
        if example.prompt:
            found.append((example.id, example.prompt))
    return _some(found, path)


def _lines(path: Path) -> list[Prompt]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read",
            "name a text file in UTF-8",
            code="file_missing" if isinstance(error, FileNotFoundError) else "unreadable",
            path=str(path),
        ) from error
    texts = [line for line in lines if line.strip()][:_MOST]
    return _some([(f"line-{n}", (Message("user", text),)) for n, text in enumerate(texts, 1)], path)


def _some(prompts: list[Prompt], path: Path) -> list[Prompt]:
    if not prompts:
        raise DataError(
            f"{path} has no prompts",
            "give it a row or a line for each",
            code="no_prompts",
            path=str(path),
        )
    return prompts


def _is_prompt(row: Example) -> bool:
    """A document has none, and answers of tools need ids that other servers ask for."""
    return bool(row.prompt) and not any(turn.role == "tool" for turn in row.prompt)
