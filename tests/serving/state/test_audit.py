"""The chain of the audit log: what breaks it, and many writers at once."""

import json
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, delete, event, func, insert, select, text, update
from sqlalchemy.orm import Session

from burnish.serving.state import audit
from burnish.serving.state.tables import AliasRow, AuditRow, Table


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path / 'state.db'}")

    @event.listens_for(made, "connect")
    def careful(connection: object, _: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")  # type: ignore[attr-defined]
        connection.execute("PRAGMA busy_timeout=30000")  # type: ignore[attr-defined]

    Table.metadata.create_all(made)
    yield made
    made.dispose()


def fill(engine: Engine, lines: int) -> None:
    for number in range(lines):
        with Session(engine) as session:
            audit.append(session, "key_1", "job.create", f"job-{number}", {"n": number, "x": 0.1})
            session.commit()


def verified(engine: Engine, head: str | None = None) -> int | None:
    with Session(engine) as session:
        return audit.verify(session, head)


def test_a_chain_that_nobody_touched(engine: Engine) -> None:
    assert verified(engine) is None
    fill(engine, 5)
    assert verified(engine) is None
    with Session(engine) as session:
        rows = list(session.scalars(select(AuditRow).order_by(AuditRow.seq)))
    assert rows[0].previous == audit.START
    assert [row.previous for row in rows[1:]] == [row.hash for row in rows[:-1]]


def test_values_come_back_as_they_were_sealed(engine: Engine) -> None:
    with Session(engine) as session:
        audit.append(session, "cli", "x", "y", {"é": [1, 2.5, None, {"b": True, "a": "\u0000"}]})
        audit.append(session, "cli", "x", "y", {1: (1, 2)})  # type: ignore[dict-item]
        session.commit()
        with pytest.raises(ValueError, match="JSON compliant"):
            audit.append(session, "cli", "x", "y", {"n": float("nan")})
    assert verified(engine) is None


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("data", {"n": 3, "x": 0.2}),
        ("actor", "key_2"),
        ("action", "job.delete"),
        ("subject", "job-9"),
        ("time", 1.0),
        ("previous", "0" * 64),
        ("hash", "1" * 64),
    ],
)
def test_a_changed_line(engine: Engine, column: str, value: object) -> None:
    fill(engine, 5)
    with Session(engine) as session:
        session.execute(update(AuditRow).where(AuditRow.seq == 4).values({column: value}))
        session.commit()
    assert verified(engine) == 4


@pytest.mark.parametrize(("gone", "broken"), [(1, 2), (3, 4)])
def test_a_missing_line(engine: Engine, gone: int, broken: int) -> None:
    fill(engine, 5)
    with Session(engine) as session:
        session.execute(delete(AuditRow).where(AuditRow.seq == gone))
        session.commit()
    assert verified(engine) == broken


def test_moved_lines(engine: Engine) -> None:
    fill(engine, 5)
    with Session(engine) as session:
        for old, new in [(2, 99), (3, 2), (99, 3)]:
            session.execute(update(AuditRow).where(AuditRow.seq == old).values(seq=new))
        session.commit()
    assert verified(engine) == 2


def test_an_end_cut_off_is_found_by_its_head(engine: Engine) -> None:
    fill(engine, 4)
    with Session(engine) as session:
        head = audit.head(session)
    fill(engine, 1)
    assert verified(engine, head) is None
    with Session(engine) as session:
        session.execute(delete(AuditRow).where(AuditRow.seq >= 4))
        session.commit()
    assert verified(engine) is None
    assert verified(engine, head) == 4


def test_a_line_lives_and_dies_with_its_change(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(AliasRow("support", "ft:a", 1))
        audit.append(session, "cli", "alias.move", "support")
        session.rollback()
    fill(engine, 1)
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(AliasRow)) == 0
        assert len(list(audit.export(session))) == 1


def test_writers_queue_up(engine: Engine) -> None:
    problems: list[Exception] = []

    def write() -> None:
        try:
            fill(engine, 25)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(AuditRow)) == 150
    assert verified(engine) is None


def test_a_long_log_needs_little_memory(engine: Engine) -> None:
    """30,000 lines of 300 bytes are 9 MB; two or three chunks of a thousand are not one."""
    previous, rows = audit.START, []
    for number in range(30_000):
        line = [float(number), "key", "job.create", f"job-{number}", {"n": "x" * 200}]
        sealed = audit._seal(previous, line)
        names = ("time", "actor", "action", "subject", "data")
        rows.append(dict(zip(names, line, strict=True)) | {"previous": previous, "hash": sealed})
        previous = sealed
    with Session(engine) as session:
        session.execute(insert(AuditRow), rows)
        session.commit()
    rows.clear()
    assert verified(engine) is None  # what is imported and cached once is no matter of the log
    tracemalloc.start()
    try:
        assert verified(engine) is None
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_export(engine: Engine) -> None:
    fill(engine, 2)
    with Session(engine) as session:
        lines = [json.loads(line) for line in audit.export(session)]
        stored = session.execute(text("SELECT hash FROM audit ORDER BY seq")).scalars().all()
    assert [line["hash"] for line in lines] == stored
    assert lines[1]["data"] == {"n": 1, "x": 0.1}
    assert lines[1]["previous"] == lines[0]["hash"]
