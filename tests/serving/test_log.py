"""What the log tells of an error."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from burnish.serving import log


def line_of(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    stream = io.StringIO()
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(log.LOGGER, name, getattr(log.LOGGER, name))
    monkeypatch.setattr(log.LOGGER, "handlers", [])
    log.write_to(stream)
    log.failed("error", error)
    found: dict[str, Any] = json.loads(stream.getvalue())
    return found


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="No space") as met:
        Path("/dev/full").write_bytes(b"my secret")
    line = line_of(met.value, monkeypatch)
    assert (line["error"], line["why"]) == ("OSError", "No space left on device")


def test_a_full_database_is_told_without_what_was_to_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with create_engine("sqlite://").connect() as connection:
        connection.execute(text("CREATE TABLE kept (said TEXT)"))
        connection.execute(text("PRAGMA max_page_count = 3"))
        with pytest.raises(OperationalError) as met:
            connection.execute(text("INSERT INTO kept VALUES (:said)"), {"said": "secret" * 9999})
    line = line_of(met.value, monkeypatch)
    assert (line["error"], line["why"]) == ("OperationalError", "SQLITE_FULL")
    assert "secret" not in json.dumps(line)


def test_the_words_of_an_error_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "secret" not in json.dumps(line_of(OSError("my secret"), monkeypatch))
