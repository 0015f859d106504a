"""How long every list call takes with 100,000 jobs and 1,000,000 events in the database.

    python bench/serve_lists.py [--jobs 100000] [--events 1000000] [--url postgresql://...]

The rows are written straight into the tables, then a real `burnish serve` is asked over HTTP: the
first page, one in the middle with `after`, and each filter, at the route's default limit and at the
largest. On SQLite, and on PostgreSQL where a URL of an empty database is given. One job in a
hundred has 10 times the events of the others, the last one thousands; every job has a file of its
own; `--models` of them left a tuned model, and the first one `--checkpoints`. `/v1/models` has no
pages, as OpenAI's has none, so its time grows with the models; it is also asked with the key of a
project, which may use few of them. The largest time of the calls is held against 50 ms. The
processor's time is the server's own, without PostgreSQL's: where other work runs beside, it says
more than the clock.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2
import psutil
from interrupt import tiny_model
from serve_programs import burnish, free_port, serving
from sqlalchemy import insert, text

from burnish.serving.state.installation import Service, Settings, open_service
from burnish.serving.state.keys import make as make_key
from burnish.serving.state.keys import restrict_to_project
from burnish.serving.state.tables import (
    EventRow,
    FileRow,
    JobRow,
    MetaRow,
    ModelRow,
    PermissionRow,
)

AIM = 0.050
BEGAN = 1_750_000_000
_METHOD = {
    "type": "supervised",
    "supervised": {
        "hyperparameters": {
            "n_epochs": "auto",
            "batch_size": "auto",
            "learning_rate_multiplier": "auto",
        }
    },
}
_CHECKPOINT = "ft:tiny:local::00000000:ckpt-step-1"


@dataclass(frozen=True, slots=True)
class Call:
    """One call, timed: seconds of the median and of the slowest, the server's processor's seconds
    in the mean, and how many rows it gave."""

    name: str
    median: float
    slowest: float
    processor: float
    rows: int


def job_id(number: int) -> str:
    return f"ftjob-{number:024d}"


def job_rows(count: int) -> Iterator[dict[str, Any]]:
    """Three in four succeeded, the newest wait; one in ten has metadata, one in a thousand rare."""
    statuses = ("succeeded", "succeeded", "succeeded", "failed")
    for n in range(count):
        meta = {"team": f"team-{n % 20}", "run": f"run-{n}"} if n % 10 == 0 else None
        waits = n >= count - min(100, count // 10)
        yield {
            "id": job_id(n),
            "model": "tiny",
            "status": "queued" if waits else statuses[n % 4],
            "training_file": f"file-{n:024d}",
            "method": _METHOD,
            "seed": n,
            "created_at": BEGAN + n,
            "meta": meta,
            "suffix": None,
            "validation_file": None,
            "wish": "",
            "result_files": [],
        }


def event_rows(jobs: int, events: int) -> Iterator[dict[str, Any]]:
    """As workers write them: the jobs' steps one after the other."""
    each = events / (jobs + 9 * -(-jobs // 100))
    written = 0
    for n in range(jobs):
        goal = min(events, round(written + each * (10 if n % 100 == 0 else 1)))
        for step in range(goal - written if n < jobs - 1 else events - written):
            yield {
                "id": f"ftevent-{written:024d}",
                "job_id": job_id(n),
                "created_at": BEGAN + written,
                "level": "info",
                "message": f"Step {step + 1}: training loss=1.25",
                "type": "metrics",
                "data": {"step": step + 1, "train_loss": 1.25, "train_accuracy": 0.5},
                "place": f"train {step + 1}",
            }
            written += 1


def file_rows(count: int) -> Iterator[dict[str, Any]]:
    for n in range(count):
        yield {
            "id": f"file-{n:024d}",
            "purpose": "fine-tune" if n % 3 else "fine-tune-results",
            "filename": f"rows-{n}.jsonl",
            "bytes": 1000 + n,
            "sha256": f"{n:064x}",
            "created_at": BEGAN + n,
        }


def model_rows(count: int, checkpoints: int) -> Iterator[dict[str, Any]]:
    for n in range(count):
        row = {"name": f"ft:tiny:local::{n:08d}", "job_id": job_id(n), "step": None}
        yield row | {"checkpoint_id": None, "metrics": None} | _model(n, "release")
    for step in range(1, checkpoints + 1):
        row = {"name": f"ft:tiny:local::00000000:ckpt-step-{step}", "job_id": job_id(0)}
        own = {"step": step, "checkpoint_id": f"ftckpt_{step:024d}", "metrics": {"step": step}}
        yield row | own | _model(step, None)


def _model(n: int, decision: str | None) -> dict[str, Any]:
    shared = {"base": "tiny", "folder": f"jobs/{job_id(n)}/run/adapter", "deleted": False}
    return shared | {"created_at": BEGAN + n, "decision": decision}


def permission_rows(count: int) -> Iterator[dict[str, Any]]:
    for n in range(count):
        row = {"id": f"cp_{n:024d}", "checkpoint": _CHECKPOINT, "project_id": f"proj-{n}"}
        yield row | {"created_at": BEGAN + n}


def fill(service: Service, given: argparse.Namespace) -> None:
    """Writes all rows, ten thousand a transaction."""
    metas = (
        {"key": key, "value": value, "job_seq": n + 1}
        for n, row in enumerate(job_rows(given.jobs))
        for key, value in (row["meta"] or {}).items()
    )
    for table, rows in (
        (FileRow, file_rows(given.jobs)),
        (JobRow, job_rows(given.jobs)),
        (MetaRow, metas),
        (EventRow, event_rows(given.jobs, given.events)),
        (ModelRow, model_rows(given.models, given.checkpoints)),
        (PermissionRow, permission_rows(given.checkpoints)),
    ):
        for some in _batches(rows):
            with service.database.writing() as session:
                session.execute(insert(table), some)
    if not service.database.is_sqlite:  # by itself it would within a minute; plans hang on it
        with service.database.writing() as session:
            session.execute(text("ANALYZE"))


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while some := list(islice(rows, 10_000)):
        yield some


def calls(given: argparse.Namespace) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Each list route by a name, with what is asked of it."""
    middle, jobs = given.jobs // 2, "/fine_tuning/jobs"
    busy = f"{jobs}/{job_id(middle // 100 * 100)}/events"
    first, last = (f"{jobs}/{job_id(number)}" for number in (0, given.jobs - 1))
    after = {"after": job_id(middle)}
    team = {"metadata[team]": "team-0"}
    rights = f"/fine_tuning/checkpoints/{_CHECKPOINT}/permissions"
    half = given.checkpoints // 2
    return {
        "jobs": (jobs, {}),
        "jobs, middle": (jobs, after),
        "jobs, 100 of the middle": (jobs, after | {"limit": 100}),
        "jobs, one key": (jobs, team),
        "jobs, one key, middle": (jobs, team | after),
        "jobs, two keys": (jobs, team | {"metadata[run]": "run-0"}),
        "jobs, a key nobody has": (jobs, {"metadata[none]": "none"}),
        "jobs without metadata, middle": (jobs, after | {"metadata": "null"}),
        "events": (busy, {}),
        "events, 100": (busy, {"limit": 100}),
        "events, middle": (f"{first}/events", {"after": f"ftevent-{20:024d}"}),
        "checkpoints": (f"{first}/checkpoints", {}),
        "checkpoints, middle": (f"{first}/checkpoints", {"after": f"ftckpt_{half:024d}"}),
        "permissions": (rights, {}),
        "permissions, middle": (rights, {"after": f"cp_{half:024d}"}),
        "permissions of a project": (rights, {"project_id": "proj-1"}),
        "files, 100": ("/files", {"limit": 100}),
        "files, 100 of the middle": ("/files", {"limit": 100, "after": f"file-{middle:024d}"}),
        "files, 100 of a purpose": ("/files", {"limit": 100, "purpose": "fine-tune"}),
        "files, 100 oldest first": ("/files", {"limit": 100, "order": "asc"}),
        "models": ("/models", {}),
        "largest: jobs, 1,000": (jobs, after | {"limit": 1000}),
        "largest: events, 1,000": (f"{last}/events", {"limit": 1000}),
        "largest: checkpoints, 1,000": (f"{first}/checkpoints", {"limit": 1000}),
        "largest: permissions, 100": (rights, {"limit": 100}),
        "largest: files, 10,000 (the default)": ("/files", {}),
    }


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks a server so many times for the same."""

    client: httpx2.Client
    process: psutil.Process
    repeats: int

    def timed(self, name: str, path: str, query: Mapping[str, Any], secret: str) -> Call:
        shown = {"authorization": f"Bearer {secret}"}
        seconds, before = [], 0.0
        for n in range(self.repeats + 1):
            started = time.perf_counter()
            answer = self.client.get(path, params=query, headers=shown)
            seconds.append(time.perf_counter() - started)
            if answer.status_code != 200:
                raise RuntimeError(f"{name}: {answer.status_code} {answer.text}")
            if n == 0:  # it opens a connection and reads what is not in memory
                seconds, before = [], self._processor()
        own = (self._processor() - before) / self.repeats
        rows = len(answer.json()["data"])
        return Call(name, statistics.median(seconds), max(seconds), own, rows)

    def _processor(self) -> float:
        spent = self.process.cpu_times()
        return spent.user + spent.system


def secrets_of(service: Service) -> tuple[str, str]:
    """A key of the organization and one of a project."""
    with service.database.writing() as session:
        _, whole = make_key(session, "bench", "whole", ["admin"])
        key, one = make_key(session, "bench", "one", ["infer"])
        restrict_to_project(session, "bench", key.id, "proj-1")
    return whole, one


def measure(url: str | None, given: argparse.Namespace, folder: Path) -> list[Call]:
    """Fills a database, serves it, and times each call."""
    data, port = folder / "data", free_port()
    source = tiny_model(folder / "model")
    service = open_service(Settings(data, models={"tiny": str(source)}), url)
    started = time.perf_counter()
    fill(service, given)
    whole, one = secrets_of(service)
    kind = "SQLite" if service.database.is_sqlite else "PostgreSQL"
    service.close()
    print(f"\n{kind}: filled in {time.perf_counter() - started:.0f} s", flush=True)
    more = ["--model", f"tiny={source}", *(["--database", url] if url else [])]
    with (
        serving(burnish(data, port, *more), port, folder / "log") as server,
        httpx2.Client(base_url=server.url, timeout=60) as client,
    ):
        asker = Asker(client, psutil.Process(server.process.pid), given.repeats)
        found = [
            asker.timed(name, path, query, whole) for name, (path, query) in calls(given).items()
        ]
        found.append(asker.timed("models, key of a project", "/models", {}, one))
    report(found)
    return found


def report(found: list[Call]) -> None:
    print("| list | rows | median, ms | slowest, ms | processor, ms | aim 50 ms |")
    print("|---|---:|---:|---:|---:|---:|")
    for call in found:
        judged = "met" if call.slowest <= AIM else "missed"
        figures = (1000 * figure for figure in (call.median, call.slowest, call.processor))
        median, slowest, own = (f"{figure:.1f}" for figure in figures)
        print(f"| {call.name} | {call.rows} | {median} | {slowest} | {own} | {judged} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--checkpoints", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--url", help="of an empty PostgreSQL database, measured too")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    given = parser.parse_args()
    found = {}
    for name, url in (("sqlite", None), ("postgresql", given.url)):
        if name == "sqlite" or url:
            with tempfile.TemporaryDirectory(prefix="burnish-lists-") as spare:
                calls_of = measure(url, given, Path(spare))
            found[name] = [asdict(call) for call in calls_of]
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
