"""Write the HTML report (report.html) and the model card (card.md) of a run.

Example: burnish report runs/support-routing
"""

import json
from typing import Annotated

import typer

from burnish.cli.options import Json
from burnish.reports.html import write_page
from burnish.reports.model_card import write_card
from burnish.runs.directory import RunDirectory
from burnish.terminal import write


def command(
    run: Annotated[str, typer.Argument(help="a run folder")],
    as_json: Json = False,
) -> None:
    directory = RunDirectory.open(run)
    page, card = write_page(directory), write_card(directory)
    if as_json:
        print(json.dumps({"page": str(page), "card": str(card)}))
        return
    write(f"report {page}\ncard   {card}")
