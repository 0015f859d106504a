"""Measure any model on a general suite: a loaded model, or one behind an OpenAI-compatible server.

For the suite `levels`, the share of right answers is shown for every level of each section, with
95% intervals, and at the end as a table in Markdown.

Example: burnish suite levels --model smollm2-135m
Example: burnish suite levels --model http://127.0.0.1:8000/v1 --served-name qwen3-8b
"""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from burnish.cli.options import Json
from burnish.errors import UserError
from burnish.terminal import Terminal, write


def command(
    suite: Annotated[str, typer.Argument(help="levels, core, a file, or lm_eval:TASK")],
    model: Annotated[
        str, typer.Option(help="name or folder of a model, or URL of a server (.../v1)")
    ],
    served_name: Annotated[str | None, typer.Option(help="model name on the server")] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="model with the served model's tokenizer, to score choices by likelihood "
            "(default: ask for the letter of a choice)"
        ),
    ] = None,
    section: Annotated[
        list[str] | None, typer.Option(help="section to measure (repeatable; default: all)")
    ] = None,
    items: Annotated[int, typer.Option(min=2, help="items of each level")] = 40,
    context: Annotated[
        int | None, typer.Option(min=1, help="leave out levels with longer items, in tokens")
    ] = None,
    as_json: Json = False,
) -> None:
    from burnish.evaluation.levels.curve import markdown
    from burnish.evaluation.levels.edition import EDITION
    from burnish.pipeline.measure_suite import MeasuredModel, measure_suite

    measured = MeasuredModel(model, served_name, tokenizer, context)
    if not measured.is_served and (served_name or tokenizer):
        option = "--served-name" if served_name else "--tokenizer"
        raise UserError(
            f"{option} is set, but --model {model} is not the URL of a server",
            f"leave out {option}",
            code="not_a_server",
            key="model",
            value=model,
        )
    show = None if as_json else _print_curve
    curves = measure_suite(
        suite, measured, sections=section or (), items=items, quiet=as_json, on_curve=show
    )
    if as_json:
        rows = [asdict(curve) | {"falls": curve.falls} for curve in curves]
        shown = {"suite": suite, "model": served_name or model, "edition": EDITION}
        print(json.dumps(shown | {"sections": rows}))
        return
    write("\n" + markdown(served_name or model, curves))


def _print_curve(curve: Any) -> None:
    table = Table(title=f"{curve.section}, {curve.kind}", title_justify="left")
    for column in ("level", "items ask for", "n", "right", "95% interval", "chance"):
        table.add_column(column, justify="left" if column == "items ask for" else "right")
    for point in curve.points:
        table.add_row(
            str(point.level),
            point.description,
            str(point.n),
            f"{100 * point.share:.0f}%",
            f"{100 * point.low:.0f} to {100 * point.high:.0f}",
            f"{100 * point.chance:.0f}%",
        )
    for level in curve.too_long:
        table.add_row(str(level), "longer than the context", "–", "–", "–", "–")
    Terminal(highlight=False).print(table)
