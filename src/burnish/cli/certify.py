"""Compare a run's model with any other: what it gained, what it lost, inside the run's budgets.

Example: burnish certify runs/support-routing --against runs/support-routing-2
"""

from typing import Annotated

import typer

from burnish.cli.options import Json, decision_exit, print_verdict


def command(
    run: Annotated[str, typer.Argument(help="a run folder")],
    against: Annotated[str, typer.Option(help="another run's folder, or a model by name")],
    as_json: Json = False,
) -> None:
    from burnish import pipeline

    directory = pipeline.compare(run, against, quiet=as_json)
    pipeline.report(directory)
    print_verdict(directory, as_json=as_json)
    decision_exit(directory)
