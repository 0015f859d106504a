"""Permissions: which projects may use a checkpoint besides its own."""

import time
from collections.abc import Sequence

from sqlalchemy import select

from burnish.serving.api.errors import model_not_found, not_found
from burnish.serving.state.database import Database
from burnish.serving.state.models import find
from burnish.serving.state.names import new_id
from burnish.serving.state.paging import Cursor, Page, page
from burnish.serving.state.tables import PermissionRow


def grant(database: Database, checkpoint: str, projects: Sequence[str]) -> list[PermissionRow]:
    """A permission for each project; one that has it already keeps it.

    Raises:
        ApiError: 404, there is no such model or checkpoint.
    """
    _check(database, checkpoint)
    with database.writing("permissions") as session:
        held = session.scalars(
            select(PermissionRow).where(
                PermissionRow.checkpoint == checkpoint, PermissionRow.project_id.in_(projects)
            )
        )
        rows = {row.project_id: row for row in held}
        for project in projects:
            if project not in rows:
                rows[project] = _permission(checkpoint, project)
                session.add(rows[project])
        return [rows[project] for project in dict.fromkeys(projects)]


def listed(
    database: Database, checkpoint: str, cursor: Cursor, project: str | None = None
) -> Page[PermissionRow]:
    """
    Raises:
        ApiError: 404, there is no such model or checkpoint.
    """
    _check(database, checkpoint)
    asked = select(PermissionRow).where(PermissionRow.checkpoint == checkpoint)
    if project is not None:
        asked = asked.where(PermissionRow.project_id == project)
    with database.reading() as session:
        return page(session, PermissionRow, asked, cursor)


def revoke(database: Database, checkpoint: str, name: str) -> None:
    """
    Raises:
        ApiError: 404, the checkpoint has no such permission.
    """
    with database.writing() as session:
        row = session.scalar(
            select(PermissionRow).where(
                PermissionRow.id == name, PermissionRow.checkpoint == checkpoint
            )
        )
        if row is None:
            raise not_found("checkpoint permission", name, "permission_id")
        session.delete(row)


def _check(database: Database, checkpoint: str) -> None:
    if find(database, checkpoint) is None:
        raise model_not_found(checkpoint)


def _permission(checkpoint: str, project: str) -> PermissionRow:
    return PermissionRow(
        id=new_id("cp_"),
        checkpoint=checkpoint,
        project_id=project,
        created_at=int(time.time()),
    )
