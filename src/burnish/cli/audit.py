"""Verify or export a server's audit log, in which each line contains the hash of the line before.

Example: burnish audit verify --folder burnish-data
"""

import json
import sys
from typing import Annotated, Literal

import typer

from burnish.cli.options import SERVED, DatabaseUrl, Folder, Json, service_in
from burnish.terminal import write


def command(
    action: Annotated[
        Literal["verify", "export"], typer.Argument(help="verify the log, or print it")
    ],
    head: Annotated[
        str | None,
        typer.Option(
            help="head that an earlier verification printed, which the log must still contain"
        ),
    ] = None,
    folder: Folder = SERVED,
    database: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    from burnish.serving.state import audit

    service = service_in(folder, database)
    with service.database.reading() as session:
        if action == "export":
            sys.stdout.writelines(audit.export(session))
            return
        broken, now = audit.verify(session, head), audit.head(session)
    service.close()
    if as_json:
        print(json.dumps({"broken": broken, "head": now}))
    elif broken is None:
        write(f"audit log intact, head {now}")
    else:
        write(f"audit log line {broken} was altered or is missing", error=True)
    if broken is not None:
        raise typer.Exit(1)
