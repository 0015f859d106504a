"""Tuned models and their checkpoints by name, and aliases, which stand for one of them."""

import time

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from burnish.errors import UserError
from burnish.models.registry import BUILT_IN
from burnish.serving.errors import invalid, model_not_found
from burnish.serving.state import audit
from burnish.serving.state.database import Database
from burnish.serving.state.paging import Cursor, Page, page
from burnish.serving.state.tables import AliasRow, ModelRow


def add_once(session: Session, model: ModelRow) -> None:
    """Write a model unless its name exists; a job that runs again creates the same models."""
    if session.scalar(select(ModelRow.seq).where(ModelRow.name == model.name)) is None:
        session.add(model)
        told = {"job": model.job_id} | ({"verdict": model.decision} if model.decision else {})
        audit.note(session, "model.create", model.name, **told)


def find(database: Database, name: str) -> ModelRow | None:
    """Return the model or checkpoint with this name or alias, unless it was deleted."""
    result = known(database, name)
    return result if result and not result.deleted else None


def known(database: Database, name: str) -> ModelRow | None:
    """Return the model with this name or alias, even if it was deleted."""
    with database.reading() as session:
        alias = session.get(AliasRow, name)
        own = alias.target if alias else name
        return session.scalar(select(ModelRow).where(ModelRow.name == own))


def listed(database: Database, *usable: ColumnElement[bool]) -> list[tuple[str, ModelRow]]:
    """Return the names and models for which the conditions hold.

    First finished models, the oldest first, then aliases; checkpoints are listed by their job.
    """
    shown = (ModelRow.deleted.is_(False), *usable)
    own = select(ModelRow.name, ModelRow).where(ModelRow.step.is_(None), *shown)
    other = select(AliasRow.name, ModelRow).join(ModelRow, ModelRow.name == AliasRow.target)
    with database.reading() as session:
        return [
            (name, model)
            for query in (own.order_by(ModelRow.seq), other.where(*shown).order_by(AliasRow.name))
            for name, model in session.execute(query)
        ]


def checkpoints(database: Database, job_id: str, cursor: Cursor) -> Page[ModelRow]:
    """Return a page of a job's checkpoints, the newest first."""
    query = select(ModelRow).where(
        ModelRow.job_id == job_id, ModelRow.step.is_not(None), ModelRow.deleted.is_(False)
    )
    with database.reading() as session:
        return page(session, ModelRow, query, cursor, "checkpoint_id")


def delete(database: Database, name: str) -> None:
    """Take a model out of service by its own name, which is never used again.

    Raises:
        ApiError: there is no such model, or an alias stands for it.
    """
    with database.writing() as session:
        model = _living(session, name)
        if model is None:
            raise model_not_found(name)
        alias = session.scalar(select(AliasRow.name).where(AliasRow.target == name))
        if alias is not None:
            raise invalid(
                f"The alias {alias!r} points to {name}; point it to another model first.",
                "model",
                "model_has_alias",
            )
        model.deleted = True
        audit.note(session, "model.delete", name)


def alias(
    database: Database,
    name: str,
    target: str,
    *,
    force: bool = False,
    difference: str | None = None,
) -> AliasRow:
    """Point the alias `name` to a released model, from the next request on.

    Args:
        database: of the server.
        name: the alias.
        target: the model's own name.
        force: also where it is not released, or differs.
        difference: how the served weights differ from those that were judged, if they do.

    Raises:
        UserError: there is no such model, it is not released or differs and `force` is off, or the
            name is that of a model.
    """
    with database.writing() as session:
        model = _living(session, target)
        if model is None:
            raise UserError(
                f"the tuned model {target!r} does not exist",
                "use the full name of a tuned model",
                code="unknown_model",
                model=target,
            )
        if name.startswith("ft:") or _is_base(session, name):
            kind = "tuned" if name.startswith("ft:") else "base"
            raise UserError(
                f"{name!r} is the name of a {kind} model",
                "choose another alias",
                code="name_is_model",
                name=name,
                kind=kind,
            )
        if not force:
            _check_released(model, difference)
        forced = model.decision != "release" or difference is not None
        row = AliasRow(name=name, target=target, created_at=int(time.time()), forced=forced)
        row = session.merge(row)
        told = {"model": target, "verdict": model.decision}
        audit.note(session, "alias.force" if forced else "alias.move", name, **told)
        return row


def _check_released(model: ModelRow, difference: str | None) -> None:
    if model.decision != "release":
        decision = model.decision or "none yet"
        raise UserError(
            f"{model.name} is not released (verdict: {decision})",
            "choose a released model, or use --force",
            code="not_released",
            model=model.name,
            decision=model.decision,
        )
    if difference is not None:
        raise UserError(
            f"{model.name} differs from the model that was evaluated ({difference})",
            "fix the difference and run `burnish parity` again, or use --force",
            code="parity_differs",
            model=model.name,
            difference=difference,
        )


def aliases(database: Database) -> list[AliasRow]:
    """Return all aliases in the order of their names."""
    with database.reading() as session:
        return list(session.scalars(select(AliasRow).order_by(AliasRow.name)))


def drop_alias(database: Database, name: str) -> None:
    """Delete an alias.

    Raises:
        UserError: there is no such alias.
    """
    with database.writing() as session:
        row = session.get(AliasRow, name)
        if row is None:
            raise UserError(
                f"the alias {name!r} does not exist",
                "list all aliases with `burnish alias`",
                code="unknown_alias",
                alias=name,
            )
        session.delete(row)
        audit.note(session, "alias.remove", name, model=row.target)


def _is_base(session: Session, name: str) -> bool:
    """Whether the name is built in, or that of a model that was tuned: it would hide the alias."""
    query = select(ModelRow.seq).where(ModelRow.base == name).limit(1)
    return name in BUILT_IN or session.scalar(query) is not None


def _living(session: Session, name: str) -> ModelRow | None:
    query = select(ModelRow).where(ModelRow.name == name, ModelRow.deleted.is_(False))
    return session.scalar(query)
