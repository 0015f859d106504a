"""Compare the model of a run with another model under the budgets of the run.

Both models answer the run's test rows and its general suite. The verdict says whether the run's
model gained on the task and stayed within every budget.

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
        str,
        typer.Option(help="folder of another run, name of a model, or URL of a server (.../v1)"),
    ],
    served_name: Annotated[
        str | None, typer.Option(help="model name on the server (default: the base model's name)")
    ] = None,
    as_json: Json = False,
) -> None:
    from burnish.pipeline import verbs

    if served_name is not None and not against.startswith(("http://", "https://")):
        raise UserError(
            f"--served-name is {served_name}, but --against {against} is not the URL of a server",
            "leave out --served-name",
            code="not_a_server",
            key="against",
            value=against,
            served_name=served_name,
        )
    directory = verbs.compare(run, against, served_name=served_name, quiet=as_json)
    verbs.report(directory)
    print_verdict(directory, as_json=as_json)
    decision_exit(directory)
