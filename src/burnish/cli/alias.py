"""Point an alias to a tuned model; without an argument, list the aliases.

The model must have the verdict release and a parity certificate without a difference. --force
skips both checks, and the audit log records it.

Example: burnish alias support=ft:smollm2-135m:local:support:8kq2ZxYw
"""

import json
from dataclasses import replace
from typing import Annotated

import typer

from burnish.cli.options import SERVED, DatabaseUrl, Folder, Json, service_in
from burnish.errors import UserError
from burnish.terminal import write


def command(
    alias: Annotated[str | None, typer.Argument(help="NAME=MODEL; NAME= removes the alias")] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="allow a model that was not released or failed the parity check"
        ),
    ] = False,
    folder: Folder = SERVED,
    database: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    from burnish.serving.catalog.alias import point
    from burnish.serving.state import models

    name, equals, target = (alias or "").partition("=")
    if alias is not None and not (name and equals):
        raise UserError(
            f"the alias {alias!r} does not name a model",
            "write NAME=MODEL, or NAME= to remove the alias",
            code="no_model",
            value=alias,
        )
    service = service_in(folder, database)
    ours = replace(service, database=service.database.as_actor("cli"))
    if target:
        warning = point(ours, name, target, force=force)
        if warning:
            write(f"burnish: {warning}", error=True)
    elif name:
        models.drop_alias(ours.database, name)
    rows = models.aliases(service.database)
    service.close()
    if as_json:
        print(json.dumps([{"name": row.name, "model": row.target} for row in rows]))
        return
    for row in rows:
        forced = "  (forced)" if row.forced else ""
        write(f"{row.name}  {row.target}{forced}")
