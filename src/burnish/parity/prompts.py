"""The prompts of a parity check: held-out rows of the run, and general ones in many languages."""

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

# Tokenizers and templates differ most often in scripts, digits, white space and symbols.
_GENERAL = {
    "english": "What is the capital of France, and how far is it from Berlin?",
    "german": "Schreibe einen Satz über den Regen in Köln.",
    "chinese": "请用一句话介绍长城。",
    "arabic": "اكتب جملة قصيرة عن البحر.",
    "signs": "Copy this line:\n\tnaïve café – 3.14159 × 1,000 = {x: [1, 22, 333]} 🙂  <b>ok</b>",
}
_OWN = 4
# Tokens per answer: enough to get past the first words, few enough to take only seconds.
ANSWER = 16
# Only this many rows are searched for prompts that are short enough to run in seconds.
_LOOKED_AT = 400
_LONGEST = 512
_MOST = 100


def choose_prompts(directory: RunDirectory, tokenizer: Any, context: int) -> list[Prompt]:
    """Choose some of the run's held-out prompts, spread over the file, and add the general ones.

    Prompts that leave no room for an answer in the model's `context` (tokens) are left out.
    """
    longest = min(_LONGEST, context - ANSWER)

    def fits(prompt: Conversation) -> bool:
        return len(render_prompt(prompt, tokenizer)) <= longest

    rows: list[Example] = []
    for split in ("validation", "test", "train"):
        candidates = (row for row in islice(directory.stream(split), _LOOKED_AT) if _is_prompt(row))
        rows = rows or [row for row in candidates if fits(row.prompt)]
    spread = [rows[index * len(rows) // _OWN] for index in range(min(_OWN, len(rows)))]
    own = [(row.id, row.prompt) for row in {row.id: row for row in spread}.values()]
    general = [(name, (Message("user", text),)) for name, text in _GENERAL.items()]
    return own + [(name, prompt) for name, prompt in general if fits(prompt)]


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompts from a file: rows in any training format, or one prompt per line (`.txt`).

    Raises:
        DataError: the file is missing, or one of its rows cannot be read.
    """
    if path.suffix == ".txt":
        return _lines(path)
    converter = Converter({}, None, None)
    prompts = []
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
            prompts.append((example.id, example.prompt))
    return _require_prompts(prompts, path)


def _lines(path: Path) -> list[Prompt]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read {path}",
            "choose an existing text file in UTF-8",
            code="file_missing" if isinstance(error, FileNotFoundError) else "file_unreadable",
            path=str(path),
        ) from error
    texts = [line for line in lines if line.strip()][:_MOST]
    return _require_prompts(
        [(f"line-{n}", (Message("user", text),)) for n, text in enumerate(texts, 1)], path
    )


def _require_prompts(prompts: list[Prompt], path: Path) -> list[Prompt]:
    if not prompts:
        raise DataError(
            f"{path} contains no prompts",
            "write one row or one line per prompt",
            code="no_prompts",
            path=str(path),
        )
    return prompts


def _is_prompt(row: Example) -> bool:
    """Documents have no prompt, and tool results need ids that some servers require."""
    return bool(row.prompt) and not any(turn.role == "tool" for turn in row.prompt)
