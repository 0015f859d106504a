"""The database: migrations, opening at once, what is said of one that cannot be opened."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text

from burnish.serving.state import database as state
from burnish.serving.state.database import Database
from burnish.serving.state.tables import AliasRow, Table
from tests.refused import refused

OPEN = """
import sys
from burnish.serving.state.database import Database
sys.stdin.read(1)
Database(sys.argv[1]).close()
"""


SECOND = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    op.add_column("aliases", sa.Column("note", sa.Text(), server_default="new"))
"""


@contextmanager
def opened(url: str) -> Iterator[Database]:
    with closing(Database(url)) as database:
        yield database


def test_migrations_give_the_tables(url: str) -> None:
    with opened(url) as database, database.reading() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_an_older_database_is_migrated_and_keeps_its_rows(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one migration so far, so the test brings a second one."""
    with opened(url) as database, database.writing() as session:
        session.add(AliasRow(name="a", target="b", created_at=1))
    later = tmp_path / "migrations"
    shutil.copytree(state._MIGRATIONS, later, ignore=shutil.ignore_patterns("__pycache__"))
    (later / "versions" / "v0002_notes.py").write_text(SECOND)
    monkeypatch.setattr(state, "_MIGRATIONS", later)
    with opened(url) as database, database.reading() as session:
        assert session.execute(text("SELECT name, note FROM aliases")).all() == [("a", "new")]


def test_processes_may_open_a_new_database_at_once(url: str) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", OPEN, url], stdin=subprocess.PIPE) for _ in range(4)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write(b"x")
        process.stdin.close()
    assert [process.wait() for process in processes] == [0] * 4
    with opened(url) as database, database.reading() as session:
        assert session.scalar(text("SELECT count(*) FROM alembic_version")) == 1


def test_what_is_raised_undoes_a_write(url: str) -> None:
    def fail(database: Database) -> None:
        with database.writing() as session:
            session.add(AliasRow(name="a", target="b", created_at=1))
            session.flush()
            raise KeyError

    with opened(url) as database:
        with pytest.raises(KeyError):
            fail(database)
        with database.reading() as session:
            assert session.scalar(select(AliasRow.name)) is None
        assert database.is_sqlite == url.startswith("sqlite")


def test_sqlite_is_in_wal_mode_and_keeps_references(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'a.db'}"
    with opened(url) as database, database.reading() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(text("PRAGMA foreign_keys")) == 1


def test_a_database_of_a_later_version_is_left_alone(url: str) -> None:
    with opened(url) as database, database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with refused("database_not_opened"):
        Database(url)


@pytest.mark.parametrize(
    ("wrong", "code", "values"),
    [
        ("mysql://host/name", "unknown_database", {"database": "mysql"}),
        ("sqlite://", "database_without_file", {}),
        ("state.db", "not_a_database_url", {"url": "state.db"}),
        ("postgresql://127.0.0.1:1/name", "database_not_opened", {}),
    ],
)
def test_a_wrong_url_is_the_user_s(wrong: str, code: str, values: dict[str, str]) -> None:
    with refused(code, **values):
        Database(wrong)
