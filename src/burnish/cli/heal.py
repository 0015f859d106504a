"""Try ways to reduce forgetting, one at a time, then decide again.

Takes a run, or an adapter that another tool trained. Such an adapter needs rows of its task.

Example: burnish heal runs/support-routing --minutes 30
Example: burnish heal my-adapter --data rows.jsonl --model smollm2-135m
"""

from typing import Annotated

import typer

from burnish.cli.options import Json, decision_exit, going_on, print_verdict


def command(
    run: Annotated[str, typer.Argument(help="a run folder, or an adapter in PEFT format")],
    minutes: Annotated[float, typer.Option(help="total time limit in minutes")] = 30.0,
    data: Annotated[str | None, typer.Option(help="for an imported adapter: task data")] = None,
    model: Annotated[
        str | None, typer.Option(help="for an imported adapter: base model (default: smollm2-135m)")
    ] = None,
    name: Annotated[str | None, typer.Option(help="for an imported adapter: run name")] = None,
    as_json: Json = False,
) -> None:
    from burnish.healing.heal import check_no_adapter_options
    from burnish.pipeline import verbs
    from burnish.pipeline.adopt_adapter import is_foreign
    from burnish.runs.directory import RunDirectory

    if model is not None and not is_foreign(run, data):
        check_no_adapter_options(RunDirectory.open(run), {"model": model})
    named = {"model": model} if model is not None else {}
    with going_on(quiet=as_json):
        directory = verbs.heal(run, minutes, data=data, name=name, quiet=as_json, **named)
    verbs.report(directory)
    print_verdict(directory, as_json=as_json)
    decision_exit(directory)
