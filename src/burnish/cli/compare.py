"""Compare a run's model with any other: what it gained, what it lost, inside the run's budgets.

Example: burnish compare runs/support-routing --against runs/support-routing-2
Example: burnish compare runs/support-routing --against http://127.0.0.1:8000/v1 --served-name ours
"""

from typing import Annotated

import typer

from burnish.cli.options import Json, decision_exit, print_verdict
from burnish.errors import UserError


def command(
    run: Annotated[str, typer.Argument(help="a run folder")],
    against: Annotated[
        str, typer.Option(help="another run's folder, a model by name, or a server's URL (.../v1)")
    ],
    served_name: Annotated[
        str | None, typer.Option(help="what the server calls the model; else as the base model")
    ] = None,
    as_json: Json = False,
) -> None:
    from burnish.pipeline import verbs

    if served_name is not None and not against.startswith(("http://", "https://")):
        raise UserError(
            f"--served-name is {served_name}, but --against {against} is no server's URL",
            "leave it out",
            code="not_a_server",
            key="against",
            value=against,
            served_name=served_name,
        )
    directory = verbs.compare(run, against, served_name=served_name, quiet=as_json)
    verbs.report(directory)
    print_verdict(directory, as_json=as_json)
    decision_exit(directory)
