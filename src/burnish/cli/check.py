"""Read a data file as a run would: findings, split sizes, rows with the learnt tokens in colour.

Example: burnish check support.jsonl --model smollm2-135m --show 3
"""

import json
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from burnish.cli.options import DropBad, Json
from burnish.errors import UserError
from burnish.terminal import Terminal

_COLOURS = {"error": "red", "warning": "yellow", "info": "dim"}


def command(
    data: Annotated[str, typer.Argument(help="JSON Lines, CSV, Parquet or text file")],
    model: Annotated[
        str, typer.Option(help="whose chat template and tokens to use")
    ] = "smollm2-135m",
    objective: Annotated[
        str, typer.Option(help="what would be learnt: sft, lm, classify, tag")
    ] = "sft",
    show: Annotated[int, typer.Option(min=0, help="rows to print, learnt tokens in colour")] = 0,
    drop_bad: DropBad = False,
    as_json: Json = False,
) -> None:
    from burnish import pipeline

    if show and as_json:
        raise UserError(f"--show is {show}, but --json prints no rows", "leave one of them out")
    checked = pipeline.check(data, model, objective=objective, drop_bad=drop_bad)
    dataset = checked.dataset
    sizes = {name: len(getattr(dataset, name)) for name in ("train", "validation", "test")}
    if as_json:
        findings = [asdict(finding) for finding in checked.findings]
        print(
            json.dumps(
                {"rows": sizes, "learnt_tokens": checked.learnt_tokens(), "findings": findings}
            )
        )
        return
    console = Terminal(highlight=False, emoji=False)  # `:cat:` may stand in a label
    for finding in checked.findings:
        colour, said = _COLOURS[finding.severity], escape(finding.message)
        console.print(f"[{colour}]{finding.severity:8}[/] {said}")
    split = ", ".join(f"{name} {count}" for name, count in sizes.items())
    console.print(f"rows     {split}")
    for row in checked.rendered["train"][:show]:
        console.print(_coloured(row, pipeline.tokenizer_of(model)))
    console.print(f"next     burnish run RECIPE with data: {{train: {data}}}", markup=False)


def _coloured(row: Any, tokenizer: Any) -> Text:
    text = Text("\n")
    learnt = [weight > 0 for weight in row.weights]
    # An emoji or a Chinese character is of several tokens, none of which can be read alone.
    for yes, run in groupby(zip(learnt, row.tokens, strict=True), key=itemgetter(0)):
        tokens = [token for _, token in run]
        text.append(tokenizer.decode(tokens), style="bold green" if yes else "dim")
    return text
