"""Look for a model that forgot less, lever by lever, and decide anew.

Example: burnish heal runs/support-routing --minutes 30
Example: burnish heal my-adapter --data rows.jsonl --model smollm2-135m
"""

from typing import Annotated

import typer

from burnish.cli.options import Json, decision_exit, going_on, print_verdict


def command(
    run: Annotated[str, typer.Argument(help="a run folder, or an adapter in PEFT format")],
    minutes: Annotated[float, typer.Option(help="for all attempts together")] = 30.0,
    data: Annotated[str | None, typer.Option(help="of an adapter: rows of its task")] = None,
    model: Annotated[
        str | None, typer.Option(help="of an adapter: its model, smollm2-135m unless named")
    ] = None,
    name: Annotated[str | None, typer.Option(help="of an adapter: name of the run")] = None,
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
