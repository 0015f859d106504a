"""Let a name stand for a tuned model; without an argument, list the names.

It moves only to a model whose verdict is release and whose certificate of parity names no
difference, unless forced; the audit log tells which it was.

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
    alias: Annotated[str | None, typer.Argument(help="NAME=MODEL; NAME= removes it")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="also where it is not released, or differs")
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
            f"{alias!r} names no model",
            "write NAME=MODEL, or NAME= to remove it",
            code="no_model",
            value=alias,
        )
    service = service_in(folder, database)
    ours = replace(service, database=service.database.as_actor("cli"))
    if target:
        said = point(ours, name, target, force=force)
        if said:
            write(f"burnish: {said}", error=True)
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
