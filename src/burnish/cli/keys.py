"""Create, list and revoke API keys; a server that other machines can reach requires keys.

Once the first key exists, every request needs a key, even after all keys are revoked. After
`burnish keys off`, requests from the server's own machine need no key until the next key is made.

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
    "every key is revoked, and every request still needs a key: make one with `burnish keys make "
    "NAME`, or allow local requests without a key with `burnish keys off`"
)


def command(
    action: Annotated[
        Literal["make", "list", "revoke", "off"],
        typer.Argument(help="make, list or revoke keys, or turn them off"),
    ],
    name: Annotated[
        str | None, typer.Argument(help="name of the new key, or id of the key to revoke")
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="scope: infer, tune or admin (repeatable)")
    ] = None,
    requests: Annotated[int | None, typer.Option(help="limit of requests per minute")] = None,
    tokens: Annotated[int | None, typer.Option(help="limit of tokens per minute")] = None,
    project: Annotated[
        str | None,
        typer.Option(help="project the key is restricted to (default: whole organization)"),
    ] = None,
    folder: Folder = SERVED,
    database: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    from burnish.serving.state import keys
    from burnish.serving.state.installation import Settings, open_service

    if action in ("make", "revoke") and not name:
        raise UserError(
            f"`burnish keys {action}` needs a {'name' if action == 'make' else 'key id'}",
            f"write `burnish keys {action} {'NAME' if action == 'make' else 'ID'}`",
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
            if first:  # on stderr, because scripts read stdout
                write("from now on every request needs a key, including local ones", error=True)
        elif action == "revoke":
            keys.revoke(session, "cli", name or "")
            if not keys.any_active(session) and keys.required(session):
                write(_LOCKED, error=True)
        elif action == "off":
            keys.turn_off(session, "cli")
            write(_OPEN, error=True)
        else:
            _list(keys.listed(session), console, as_json=as_json)
            # On stderr, because scripts read stdout.
            write(_REQUIRED if keys.required(session) else _OPEN, error=True)
    service.close()


def _list(rows: Sequence[object], console: Terminal, *, as_json: bool) -> None:
    fields = ("id", "name", "scopes", "project", "requests", "tokens", "created_at", "revoked_at")
    keys = [{field: getattr(row, field) for field in fields} for row in rows]
    if as_json:
        print(json.dumps(keys))
        return
    for key in keys:
        state = "revoked" if key["revoked_at"] else ", ".join(key["scopes"])
        project = f"  project {key['project']}" if key["project"] else ""
        console.print(f"{key['id']}  {key['name']}  {state}{project}", markup=False)
