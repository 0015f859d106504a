"""Make, list and revoke API keys; a server that others can reach needs them.

From the first key on every request needs one, also when all are revoked. `burnish keys off` lets
the server's own machine in without a key again, until the next key is made.

Example: burnish keys make support-bot --scope infer --requests 60
"""

import json
from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from burnish.cli.options import SERVED, DatabaseUrl, Folder, Json, service_in
from burnish.errors import UserError
from burnish.terminal import Terminal, write

_REQUIRED = "keys are on: every request needs a key"
_OPEN = "keys are off: requests from the server's own machine need no key"
_LOCKED = (
    "no key is left, and every request still needs one: make one with `burnish keys make NAME`, "
    "or let the server's own machine in without a key with `burnish keys off`"
)


def command(
    action: Annotated[Literal["make", "list", "revoke", "off"], typer.Argument(help="what to do")],
    name: Annotated[str | None, typer.Argument(help="of a new key, or the id to revoke")] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="infer, tune or admin, as often as needed")
    ] = None,
    requests: Annotated[int | None, typer.Option(help="a minute")] = None,
    tokens: Annotated[int | None, typer.Option(help="a minute")] = None,
    project: Annotated[
        str | None, typer.Option(help="that the key is of; else the organization's")
    ] = None,
    folder: Folder = SERVED,
    database: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    from burnish.serving.state import keys
    from burnish.serving.state.installation import Settings, open_service

    if action in ("make", "revoke") and not name:
        raise UserError(
            f"`burnish keys {action}` has no name",
            "name the key",
            code="no_name",
            action=action,
        )
    made = action == "make"  # also before the server's first start
    service = open_service(Settings(folder), database) if made else service_in(folder, database)
    console = Terminal(highlight=False, soft_wrap=True)  # a secret that is broken is no secret
    with service.database.writing() as session:
        if made:
            scopes, first = scope or ["infer", "tune"], not keys.required(session)
            key, secret = keys.make(session, "cli", name or "", scopes, requests, tokens)
            if project is not None:
                keys.restrict_to_project(session, "cli", key.id, project)
            shown = {"id": key.id, "scopes": sorted(key.scopes), "secret": secret}
            if as_json:
                print(json.dumps(shown))
            else:
                console.print(f"{key.id}  {', '.join(sorted(key.scopes))}", markup=False)
                console.print(f"{secret}  (shown once)", markup=False)
            if first:  # beside what a script reads
                said = "from now on the server asks for a key, on its own machine too"
                write(said, error=True)
        elif action == "revoke":
            keys.revoke(session, "cli", name or "")
            if not keys.any_active(session) and keys.required(session):
                write(_LOCKED, error=True)
        elif action == "off":
            keys.turn_off(session, "cli")
            write(_OPEN, error=True)
        else:
            _list(keys.listed(session), console, as_json=as_json)
            # Beside what a script reads.
            write(_REQUIRED if keys.required(session) else _OPEN, error=True)
    service.close()


def _list(rows: Sequence[object], console: Terminal, *, as_json: bool) -> None:
    fields = ("id", "name", "scopes", "project", "requests", "tokens", "created_at", "revoked_at")
    found = [{field: getattr(row, field) for field in fields} for row in rows]
    if as_json:
        print(json.dumps(found))
        return
    for one in found:
        state = "revoked" if one["revoked_at"] else ", ".join(one["scopes"])
        where = f"  of {one['project']}" if one["project"] else ""
        console.print(f"{one['id']}  {one['name']}  {state}{where}", markup=False)
