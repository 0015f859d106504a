"""Check that all forms of a run's model give the same output: reloaded, merged, GGUF and served.

Every form answers the same prompts. The token ids of each prompt, the greedy answer and its
log-probabilities are compared with the reference answers, which the run saved after training. The
result is written to the run's parity.json. A difference that rounding does not explain blocks an
alias.

Example: burnish parity runs/support-routing --url http://127.0.0.1:8000/v1 --model support
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from burnish.cli.options import PATH, Json
from burnish.errors import UserError, quantity
from burnish.terminal import Terminal, write

if TYPE_CHECKING:
    from burnish.parity.record import Comparison, Parity


def command(
    run: Annotated[str, typer.Argument(help="a run folder")],
    url: Annotated[
        str | None,
        typer.Option(
            help="also compare a server (.../v1); its API key is read from OPENAI_API_KEY"
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="model name on the server")] = None,
    gguf: Annotated[
        Path | None, typer.Option(**PATH, help="also compare a GGUF file, run by llama.cpp")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            **PATH,
            help="use these prompts (rows, or a .txt file with one per line) and save nothing",
        ),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="tolerance in nats for the server and the GGUF file")
    ] = None,
    as_json: Json = False,
) -> None:
    from burnish.parity.compare import OtherForms, check_parity
    from burnish.runs.directory import RunDirectory

    if url is not None and model is None:
        raise UserError(
            f"--url is {url}, but --model is missing",
            "add --model with the model's name on the server",
            code="model_not_named",
            url=url,
        )
    if url is None and model is not None:
        raise UserError(
            f"--model is {model}, but --url is missing",
            "add --url with the address of the server",
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
    console = Terminal(highlight=False, emoji=False)  # a model's name may contain `:cat:`
    console.width = max(console.width, 110)
    console.print(_table(parity))
    colour = "red" if parity.difference else "green"
    console.print(f"[{colour}]{'differs' if parity.difference else 'agrees'}[/]")
    console.print(f"  {parity.sentence}", markup=False)
    for one in parity.comparisons:
        if one.missing:
            console.print(f"  {one.words} was not compared: {one.missing}", markup=False)
    if parity.difference:
        write("next   re-export or reload what differs, then run parity again")
    elif url is None:
        write(f"next   burnish parity {run} --url http://HOST:PORT/v1 --model NAME")
    else:
        write("next   burnish alias NAME=MODEL")


def _table(parity: "Parity") -> Table:
    reference = parity.reference
    title = f"{quantity(len(reference.answers), 'prompt')}, compared with {reference.form} "
    title += f"({reference.precision})"
    table = Table(title=title)
    for column in (
        "form",
        "prompt tokens",
        "answers",
        "first difference",
        "largest",
        "tolerance",
        "",
    ):
        table.add_column(column)
    for one in parity.comparisons:
        if one.missing is None:
            table.add_row(*_cells(one))
    return table


def _cells(one: "Comparison") -> list[str]:
    count = len(one.differences)
    equal = one.prompts_equal
    first = min(
        (d.answer_differs_at + 1 for d in one.differences if d.answer_differs_at is not None),
        default=None,
    )
    return [
        one.words,
        "not reported" if equal is None else f"{equal} of {count} equal",
        f"{one.answers_equal} of {count} equal",
        "–" if first is None else f"token {first}",
        "not reported" if one.largest is None else f"{one.largest:.1e} nats",
        f"{one.tolerance:g} nats",
        "[red]differs[/]" if one.reason else "[green]agrees[/]",
    ]
