"""The database: SQLite in WAL mode or PostgreSQL, migrated when it is opened."""

import copy
import json
import math
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    create_engine,
    event,
    make_url,
    text,
    true,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session

from burnish.errors import UserError
from burnish.serving.state.disk import is_full, remove_other_access

_MIGRATIONS = Path(__file__).parent / "migrations"
# How long one process waits for another's write, in seconds.
_PATIENCE = 60
# What SQLite says while others write.
_OTHERS_WRITE = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")
_DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
}


class Database:
    """All rows, shared by the server and its workers.

    Rows that a session gave may be read after it ended; nothing is loaded behind one's back.

    Args:
        url: `sqlite:///FILE` or `postgresql://...`.

    Attributes:
        actor: in whose name it is written, for the audit log; see `as_actor`.
        project: whose files, uploads and jobs are seen; None: all of the organization.

    Raises:
        UserError: the URL names no such database, or it cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.actor = "local"
        self.project: str | None = None
        self._engine = _engine(_parsed(url))
        self._writing = self._engine.execution_options(writes=True)
        try:
            with self._writing.begin() as connection:
                _hold(connection, "migrations")
                _migrate(connection)
        except (SQLAlchemyError, CommandError) as error:
            self._engine.dispose()
            what = " ".join(str(error).split("\n", 1)[0].split())
            raise UserError(
                f"the database {self._engine.url!r} cannot be opened ({what})",
                "free space on its disk"
                if is_full(error)
                else "check its URL, its server and your permissions",
                code="disk_full" if is_full(error) else "database_not_opened",
                database=repr(self._engine.url),
                reason=what,
            ) from error

    def as_actor(self, actor: str, project: str | None = None) -> "Database":
        """Return the same database for another actor: a key's id, `cli` or a worker's name.

        A `project` sees its own share.
        """
        result = copy.copy(self)
        result.actor, result.project = actor, project
        return result

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is SQLite."""
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a session that reads one consistent state of the database."""
        with Session(self._engine, expire_on_commit=False, autoflush=False) as session:
            session.info["project"] = self.project
            yield session

    @contextmanager
    def writing(self, hold: str | None = None) -> Iterator[Session]:
        """Open a session that is committed at the end, and rolled back on an exception.

        `hold` names a part of the state that no other process writes meanwhile. SQLite lets only
        one write at all, so there it is held anyway; a transaction that read first and wrote later
        would fail instead of waiting its turn.
        """
        with Session(self._writing, expire_on_commit=False) as session, session.begin():
            session.info.update(actor=self.actor, project=self.project)
            if hold:
                _hold(session.connection(), hold)
            yield session

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def visible(session: Session, table: Any) -> ColumnElement[bool]:
    """Return the condition for the rows that the session's project may see."""
    project = session.info["project"]
    return true() if project is None else table.project == project


def _parsed(url: str) -> URL:
    try:
        found = make_url(url)
    except ArgumentError as error:
        raise UserError(
            f"{url!r} is not a database URL",
            "use sqlite:///FILE",
            code="not_a_database_url",
            url=url,
        ) from error
    driver = _DRIVERS.get(found.drivername.split("+")[0])
    if driver is None:
        raise UserError(
            f"the database URL uses {found.drivername}, which is not supported",
            "use sqlite:///FILE or postgresql://USER@HOST/NAME",
            code="unknown_database",
            database=found.drivername,
        )
    if driver == "sqlite" and not found.database:
        raise UserError(
            "the database URL does not name a file, so no data would be stored",
            "use sqlite:///FILE",
            code="database_without_file",
        )
    return found.set(drivername=driver)


def _engine(url: URL) -> Engine:
    if not url.drivername.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, json_serializer=_json)
    path = Path(str(url.database))
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):  # SQLite copies the first's
        remove_other_access(path.with_name(name))
    engine = create_engine(url, connect_args={"timeout": _PATIENCE}, json_serializer=_json)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _json(value: Any) -> str:
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    """Replace NaN and infinity by null, since JSON cannot represent them."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _prepare(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin` says, not at a guess
    connection.execute("PRAGMA foreign_keys=ON")
    _change_to_wal(connection)


def _change_to_wal(connection: sqlite3.Connection) -> None:
    """SQLite does not wait for others here, however long its timeout is."""
    ends = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            others = error.sqlite_errorname.startswith(_OTHERS_WRITE)
            if not others or time.monotonic() > ends:
                raise
            time.sleep(0.05)


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _hold(connection: Connection, name: str) -> None:
    """Until the transaction ends; SQLite's whole file is held already."""
    if connection.dialect.name == "postgresql":
        number = zlib.crc32(f"burnish {name}".encode())
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    attributes: dict[str, Any] = config.attributes
    attributes["connection"] = connection
    command.upgrade(config, "head")
