"""Evaluate the base model and the tuned model of a run on the same rows, and decide.

Example: burnish evaluate runs/support-routing
"""

from typing import Annotated

import typer

from burnish.cli.options import Json, decision_exit, going_on, print_verdict
from burnish.progress import phase


def command(
    run: Annotated[str, typer.Argument(help="a run folder")],
    as_json: Json = False,
) -> None:
    with going_on(quiet=as_json):
        with phase("starting"):
            from burnish.pipeline import verbs

        directory = verbs.evaluate(run, quiet=as_json)
        verbs.report(directory)
    print_verdict(directory, as_json=as_json)
    decision_exit(directory)
