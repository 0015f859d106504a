"""The log: JSON Lines of named fields, and no text that a client sent or a model wrote unless
recording is on."""

import json
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

LOGGER = logging.getLogger("burnish.serving")
# What may stand in a line; any other value that is handed over is left out.
FIELDS = (
    "request_id", "method", "route", "status", "seconds", "first_token", "key_id",
    "prompt_tokens", "cached_tokens", "generated_tokens", "job_id", "worker", "repeated"
)  # fmt: skip
# Lines of one place in the code that are written one by one; after them the 10th, the 100th, ...
_FIRST = 5
# Seconds of quiet after which a place begins to be counted again.
_QUIET = 60.0


class JsonLines(logging.Formatter):
    """One record, one line: time, level, event, the known fields, and where an error arose.

    An error is told by its type, its reason and its place: its message may quote a prompt. So may
    what a library says, of which the name of its logger is told.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        line: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": record.getMessage() if record.name.startswith(LOGGER.name) else record.name,
        }
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if hasattr(record, "texts"):
            line["texts"] = record.texts
        if record.exc_info and record.exc_info[1] is not None:
            line |= _place(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


class Repeats(logging.Filter):
    """Lets through the first lines of each place in the code, and then fewer and fewer, with how
    many there were: what goes wrong a thousand times a second must not fill the disk.

    Lines of requests and jobs, which `note` and its like write, are all let through.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write the record; adds the number of repetitions."""
        if record.name == LOGGER.name:
            return True
        now, place = self._clock(), (record.name, record.pathname, record.lineno)
        last, count = self._seen.get(place, (now, 0))
        count = 1 if now - last > _QUIET else count + 1
        self._seen[place] = now, count
        if count > _FIRST:
            record.repeated = count
        return count <= _FIRST or f"{count}".rstrip("0") == "1"


def write_to(stream: TextIO) -> None:
    """Write the server's log to a stream, and to no other place."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    handler.addFilter(Repeats())
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


def write_all_to(stream: TextIO) -> None:
    """Write the server's log and warnings of libraries to a stream."""
    write_to(stream)
    root = logging.getLogger()
    root.handlers[:] = LOGGER.handlers
    root.setLevel(logging.WARNING)


def note(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Write one log line; only the fields in `FIELDS` are written."""
    LOGGER.log(level, "%s", event, extra={k: v for k, v in fields.items() if k in FIELDS})


def texts(request_id: str, said: Mapping[str, Any]) -> None:
    """Write one log line with the prompt and the answers of a request, if recording is on."""
    LOGGER.info("recorded", extra={"request_id": request_id, "texts": dict(said)})


def failed(event: str, error: BaseException, **fields: Any) -> None:
    """Write one log line about an error in the server's own code."""
    given = {name: value for name, value in fields.items() if name in FIELDS}
    LOGGER.error("%s", event, exc_info=error, extra=given)


def _place(error: BaseException) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error": type(error).__name__, **_why(error), "where": places}


def _why(error: BaseException) -> dict[str, str]:
    """The reason as the system or the database's driver names it, such as a full disk."""
    own = getattr(error, "orig", None) or error  # SQLAlchemy holds what the driver raised
    result = (getattr(own, name, None) for name in ("strerror", "sqlite_errorname", "sqlstate"))
    reason = next(filter(None, result), None)
    return {"why": str(reason)} if reason else {}
