"""Show that every form of a run's model says the same: in memory, reloaded, merged, GGUF, served.

The same prompts are asked of all; token ids of the prompt, greedy answer and log-probabilities are
compared with those of the model in memory, as the run kept them. The result is kept in the run's
parity.json, and a difference that rounding does not explain blocks an alias.

Example: burnish parity runs/support-routing --url http://127.0.0.1:8000/v1 --model support
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from burnish.cli.options import PATH, Json
from burnish.errors import UserError
from burnish.terminal import Terminal, write

if TYPE_CHECKING:
    from burnish.parity.record import Comparison, Parity


def command(
    run: Annotated[str, typer.Argument(help="a run folder")],
    url: Annotated[
        str | None, typer.Option(help="also a server (.../v1); its key: OPENAI_API_KEY")
    ] = None,
    model: Annotated[str | None, typer.Option(help="what the server calls the model")] = None,
    gguf: Annotated[
        Path | None, typer.Option(**PATH, help="also a GGUF file, by llama.cpp")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(**PATH, help="ask these (rows, or .txt: a line each); nothing is kept"),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="nats that server and GGUF file may be off")
    ] = None,
    as_json: Json = False,
) -> None:
    from burnish.parity.compare import OtherForms, check_parity
    from burnish.runs.directory import RunDirectory

    if url is not None and model is None:
        raise UserError(
            f"--url is {url} and no model is named",
            "name it with --model",
            code="model_not_named",
            url=url,
        )
    if url is None and model is not None:
        raise UserError(
            f"--model is {model} and no server is named",
            "name it with --url",
            code="server_not_named",
            model=model,
        )
    others = OtherForms(url, model or "", gguf, tolerance)
    parity = check_parity(RunDirectory.open(run), others, prompts)
    if as_json:
        print(json.dumps(parity.as_dict() | {"run": run, "difference": parity.difference}))
    else:
        _print(run, parity, url)
    raise typer.Exit(1 if parity.difference else 0)


def _print(run: str, parity: "Parity", url: str | None) -> None:
    console = Terminal(highlight=False, emoji=False)  # `:cat:` may stand in a model's name
    console.width = max(console.width, 110)
    console.print(_table(parity))
    colour = "red" if parity.difference else "green"
    console.print(f"[{colour}]{'differs' if parity.difference else 'agrees'}[/]")
    console.print(f"  {parity.sentence}", markup=False)
    for one in parity.comparisons:
        if one.missing:
            console.print(f"  {one.words} was not asked: {one.missing}", markup=False)
    if parity.difference:
        write("next   export or load again what differs, then ask again")
    elif url is None:
        write(f"next   burnish parity {run} --url http://HOST:PORT/v1 --model NAME")
    else:
        write("next   burnish alias NAME=MODEL")


def _table(parity: "Parity") -> Table:
    reference = parity.reference
    title = f"{len(reference.answers)} prompts against {reference.form} ({reference.precision})"
    table = Table(title=title)
    for column in ("voice", "prompt tokens", "answers", "first at", "apart", "allowed", ""):
        table.add_column(column)
    for one in parity.comparisons:
        if one.missing is None:
            table.add_row(*_cells(one))
    return table


def _cells(one: "Comparison") -> list[str]:
    count = len(one.differences)
    told = one.prompts_equal
    first = min(
        (d.answer_differs_at + 1 for d in one.differences if d.answer_differs_at is not None),
        default=None,
    )
    return [
        one.words,
        "not told" if told is None else f"{told} of {count} equal",
        f"{one.answers_equal} of {count} equal",
        "–" if first is None else f"token {first}",
        "not told" if one.largest is None else f"{one.largest:.1e} nats",
        f"{one.tolerance:g}",
        "[red]differs[/]" if one.reason else "[green]agrees[/]",
    ]
