"""Permissions: which projects may use a tuned model or a checkpoint besides their own.

A tuned model and its checkpoints are of the project whose key made the job. Keys of the
organization, which have no project, may use all of them; a key of another project may use those
that name its project in a permission of their own. A model's permission is not its checkpoints'.
"""

import time
from collections.abc import Sequence

from sqlalchemy import ColumnElement, exists, or_, select, true

from burnish.serving.errors import model_not_found, not_found
from burnish.serving.state import audit, paging
from burnish.serving.state.database import Database
from burnish.serving.state.ids import new_id
from burnish.serving.state.models import find
from burnish.serving.state.paging import Cursor, Page, page
from burnish.serving.state.tables import JobRow, ModelRow, PermissionRow


def grant(database: Database, checkpoint: str, projects: Sequence[str]) -> list[PermissionRow]:
    """Grant a permission to each project; a project that has one keeps it.

    Raises:
        ApiError: 404, there is no such model or checkpoint.
    """
    checkpoint = _own_name(database, checkpoint)
    with database.writing("permissions") as session:
        held = session.scalars(
            select(PermissionRow).where(
                PermissionRow.checkpoint == checkpoint, PermissionRow.project_id.in_(projects)
            )
        )
        rows = {row.project_id: row for row in held}
        new = [project for project in dict.fromkeys(projects) if project not in rows]
        for project in new:
            rows[project] = _permission(checkpoint, project)
            session.add(rows[project])
        for project in new:
            told = {"checkpoint": checkpoint, "project": project}
            audit.note(session, "permission.grant", rows[project].id, **told)
        return [rows[project] for project in dict.fromkeys(projects)]


def listed(
    database: Database, checkpoint: str, cursor: Cursor, project: str | None = None
) -> Page[PermissionRow]:
    """Return a page of the permissions of a model or checkpoint.

    Raises:
        ApiError: 404, there is no such model or checkpoint.
    """
    checkpoint = _own_name(database, checkpoint)
    query = select(PermissionRow).where(PermissionRow.checkpoint == checkpoint)
    if project is not None:
        query = query.where(PermissionRow.project_id == project)
    with database.reading() as session:
        return page(session, PermissionRow, query, cursor)


def revoke(database: Database, checkpoint: str, name: str) -> None:
    """Revoke a permission.

    Raises:
        ApiError: 404, there is no such model or checkpoint, or it has no such permission.
    """
    checkpoint = _own_name(database, checkpoint)
    with database.writing() as session:
        row = session.scalar(
            select(PermissionRow).where(
                PermissionRow.id == name, PermissionRow.checkpoint == checkpoint
            )
        )
        if row is None:
            raise not_found("checkpoint permission", name, "permission_id")
        paging.delete(session, row)
        told = {"checkpoint": checkpoint, "project": row.project_id}
        audit.note(session, "permission.revoke", name, **told)


def may_use(database: Database, model: ModelRow, project: str | None) -> bool:
    """Whether keys of a project may use the model; None is the organization."""
    return _holds(database, model, usable(project))


def owns(database: Database, model: ModelRow, project: str | None) -> bool:
    """Whether a key of the project created the model's job; the organization owns all models."""
    return _holds(database, model, true() if project is None else _made(project))


def usable(project: str | None) -> ColumnElement[bool]:
    """Return the condition for models that the project may use."""
    if project is None:
        return true()
    shared = exists().where(
        PermissionRow.checkpoint == ModelRow.name, PermissionRow.project_id == project
    )
    return or_(_made(project), shared)


def _made(project: str) -> ColumnElement[bool]:
    return exists().where(JobRow.id == ModelRow.job_id, JobRow.project == project)


def _holds(database: Database, model: ModelRow, condition: ColumnElement[bool]) -> bool:
    query = select(ModelRow.seq).where(ModelRow.seq == model.seq, condition)
    with database.reading() as session:
        return session.scalar(query) is not None


def _own_name(database: Database, checkpoint: str) -> str:
    """An alias's permission is that of what it stands for, and stays there when it moves."""
    result = find(database, checkpoint)
    if result is None:
        raise model_not_found(checkpoint)
    return result.name


def _permission(checkpoint: str, project: str) -> PermissionRow:
    return PermissionRow(
        id=new_id("cp_"),
        checkpoint=checkpoint,
        project_id=project,
        created_at=int(time.time()),
    )
