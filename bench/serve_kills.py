"""Kills server and workers at random while jobs run; nothing may be lost or done twice.

    python bench/serve_kills.py [--kills 200] [--jobs 60] [--workers 2] [--every 5]

First one job of each kind runs undisturbed. Then a client uploads a file for each job and submits
it, while the server or a worker, whichever chance says, is killed (SIGKILL) and started again; the
job's own process dies with its worker. A client whose answer was lost looks whether the file or the
job is there before it asks again. At the end each file that was acknowledged must have its bytes,
each job have been made once and have succeeded with one model and two result files, its events be
in order without a gap or a double, and its weights, verdict and metrics equal those of the
undisturbed job of its kind, bit for bit. Jobs of one kind have the same rows and seed.
"""

import argparse
import contextlib
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import openai
from interrupt import tensors, tiny_model
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob
from serve_programs import HOST, Served, free_port, started, wait_until_healthy

Found = TypeVar("Found")
MODEL = "tiny"
KINDS = 4
_LONGEST = 3600.0  # seconds for what is left after the last kill
_LEASE = 3.0


@dataclass
class Installation:
    """A folder with its server and workers, each begun again when it is gone."""

    folder: Path
    workers: int
    port: int = field(default_factory=free_port)
    running: dict[str, Served] = field(default_factory=dict)

    @property
    def roles(self) -> list[str]:
        return ["server", *(f"worker {number}" for number in range(self.workers))]

    def keep_up(self) -> None:
        """Starts what does not run."""
        for role in self.roles:
            if role not in self.running or self.running[role].process.poll() is not None:
                self.running[role] = self._start(role)

    def kill(self, role: str) -> None:
        self.running[role].kill()

    def close(self) -> None:
        for served in self.running.values():
            served.kill()

    def job_folder(self, job: str) -> Path:
        return self.folder / "data" / "jobs" / job / "run"

    def _start(self, role: str) -> Served:
        suite = self.folder / "suite.jsonl"
        recipe = {
            "evaluate.general": [str(suite)],
            "evaluate.max_new_tokens": 4,
            "training.preflight": False,
            "training.checkpoints": 12,
            "replay.rows": 0,
        }
        settings: dict[str, Any] = {
            "folder": str(self.folder / "data"),
            "models": {MODEL: str(self.folder / "model")},
            "recipe": recipe,
            "lease": _LEASE,
        }
        if role == "server":
            settings["port"] = self.port
        program = str(Path(__file__).with_name("serve_role.py"))
        command = [sys.executable, program, role.split()[0], json.dumps(settings)]
        return started(command, self.port, self.folder / f"{role}.log", threads=1)


class Client:
    """Asks until it is answered, and makes nothing twice."""

    def __init__(self, port: int) -> None:
        url = f"http://{HOST}:{port}/v1"
        self.api = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=30)
        self.lost = 0  # answers that never came

    def until_answered(self, ask: Callable[[], Found]) -> Found:
        while True:
            with contextlib.suppress(openai.APIConnectionError):
                return ask()
            self.lost += 1
            time.sleep(0.1)

    def upload(self, name: str, rows: bytes) -> FileObject:
        def ask() -> FileObject:
            there = [
                file for file in self.api.files.list(purpose="fine-tune") if file.filename == name
            ]
            return (
                there[0] if there else self.api.files.create(file=(name, rows), purpose="fine-tune")
            )

        return self.until_answered(ask)

    def submit(self, number: int, file: str) -> FineTuningJob:
        jobs = self.api.fine_tuning.jobs

        def ask() -> FineTuningJob:
            named = {"number": str(number)}
            there = list(jobs.list(metadata=named))
            settings: Any = {"n_epochs": 3, "batch_size": 4}
            return (
                there[0]
                if there
                else jobs.create(
                    model=MODEL,
                    training_file=file,
                    method={"type": "supervised", "supervised": {"hyperparameters": settings}},
                    seed=number % KINDS,
                    metadata=named,
                )
            )

        return self.until_answered(ask)

    def jobs(self) -> list[FineTuningJob]:
        return self.until_answered(lambda: list(self.api.fine_tuning.jobs.list(limit=100)))

    def said(self, job: str) -> list[Any]:
        """Its events, the oldest first."""
        events = self.api.fine_tuning.jobs.list_events
        return self.until_answered(lambda: list(events(job, limit=100)))[::-1]

    def text(self, file: str) -> bytes:
        return self.until_answered(lambda: self.api.files.content(file).content)


def rows_of(kind: int) -> bytes:
    turns = [
        [{"role": "user", "content": f"{word} number {n + 7 * kind} please"},
         {"role": "assistant", "content": label}]
        for n in range(20)
        for word, label in (("tent", "red"), ("parcel", "green"))
    ]  # fmt: skip
    return b"".join(json.dumps({"messages": turn}).encode() + b"\n" for turn in turns)


def submit_all(client: Client, count: int, pause: float, made: dict[int, tuple[str, str]]) -> None:
    """Job and file of each number, with a pause after each."""
    for number in range(count):
        file = client.upload(f"rows-{number}.jsonl", rows_of(number % KINDS))
        made[number] = (client.submit(number, file.id).id, file.id)
        time.sleep(pause)


@contextlib.contextmanager
def installed(folder: Path, workers: int) -> Iterator[tuple[Installation, Client]]:
    """An empty installation that runs."""
    folder.mkdir()
    items = [
        {"question": f"The parcel {n} is", "choices": [" here", " torn"], "answer": n % 2}
        for n in range(8)
    ]
    (folder / "suite.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    tiny_model(folder / "model")
    found = Installation(folder, workers)
    try:
        found.keep_up()
        wait_until_healthy(found.running["server"])
        yield found, Client(found.port)
    finally:
        found.close()


def wait_for_end(here: Installation, client: Client) -> None:
    ends = time.monotonic() + _LONGEST
    while any(job.finished_at is None for job in client.jobs()):
        here.keep_up()
        if time.monotonic() > ends:
            raise SystemExit(f"jobs did not end in {_LONGEST:.0f} s; see {here.folder}")
        time.sleep(0.5)


def results(here: Installation, client: Client, job: str) -> dict[str, Any]:
    """What a finished job left, to be compared bit for bit."""
    files = client.until_answered(lambda: client.api.fine_tuning.jobs.retrieve(job)).result_files
    run = here.job_folder(job)
    return {"weights": tensors(run / "adapter")} | {
        f"result file {place}": client.text(file) for place, file in enumerate(files)
    }


def undisturbed(folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The results of one job of each kind that nobody stopped."""
    made: dict[int, tuple[str, str]] = {}
    with installed(folder, given.workers) as (here, client):
        began = time.perf_counter()
        submit_all(client, KINDS, 0, made)
        wait_for_end(here, client)
        print(f"{KINDS} jobs undisturbed: {time.perf_counter() - began:.1f} s", flush=True)
        return [results(here, client, made[kind][0]) for kind in range(KINDS)]


def disturb(here: Installation, client: Client, given: argparse.Namespace) -> Counter[str]:
    """Kills until enough have fallen, or all jobs have ended; which role how often."""
    chance, fallen = random.Random(given.seed), Counter[str]()
    while fallen.total() < given.kills:
        time.sleep(chance.uniform(0, 2 * given.every))
        role = chance.choice(here.roles)
        here.kill(role)
        fallen[role] += 1
        here.keep_up()
        if fallen.total() % 10 == 0:
            jobs = client.jobs()
            ended = sum(job.finished_at is not None for job in jobs)
            print(f"{fallen.total()} kills, {len(jobs)} jobs, {ended} ended", flush=True)
            if ended == given.jobs:
                break
    return fallen


def faults(
    here: Installation,
    client: Client,
    made: dict[int, tuple[str, str]],
    plain: list[dict[str, Any]],
) -> list[str]:
    """Everything that was lost, done twice or came out otherwise."""
    found, jobs = [], client.jobs()
    numbers = Counter(int((job.metadata or {})["number"]) for job in jobs)
    found += [f"job {n} was made {numbers[n]} times" for n in made if numbers[n] != 1]
    found += [
        f"job {job.id} {job.status}: {job.error}" for job in jobs if job.status != "succeeded"
    ]
    names = Counter(job.fine_tuned_model for job in jobs)
    found += [f"model {name} of {count} jobs" for name, count in names.items() if count > 1]
    served = [m.id for m in client.api.models.list() if m.id.startswith("ft:")]
    if sorted(served) != sorted(str(name) for name in names):
        found.append(f"{len(served)} models are served, {len(names)} were made")
    kept = Counter(file.purpose for file in client.api.files.list())
    if kept != {"fine-tune": len(made), "fine-tune-results": 2 * len(made)}:
        found.append(f"files: {dict(kept)}")
    for number, (job, file) in made.items():
        if client.text(file) != rows_of(number % KINDS):
            found.append(f"file {file} has other bytes")
        found += [f"job {job}: {fault}" for fault in order_faults(job, client.said(job))]
        ours = results(here, client, job)
        for name, value in plain[number % KINDS].items():
            if ours.get(name) != value:
                found.append(f"job {job}: other {name}")
    return found


def order_faults(job: str, events: list[Any]) -> list[str]:
    """Gaps, doubles and disorder among the events of a job."""
    said = [event.message for event in events]
    found = [f"told {n} times: {text}" for text, n in Counter(said).items() if n > 1]
    steps = [event.data["step"] for event in events if event.type == "metrics"]
    total = events and next((e.data["total_steps"] for e in events if e.type == "metrics"), 0)
    if steps != list(range(1, int(total or 0) + 1)):
        found.append(f"steps {steps} of {total}")
    if said[:1] != [f"Created fine-tuning job: {job}"]:
        found.append(f"begins with {said[:1]}")
    if said[-1:] != ["The job has successfully completed"]:
        found.append(f"ends with {said[-1:]}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=5, help="seconds between kills, on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="kept; else a temporary one")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="burnish-kills-"))
    folder.mkdir(exist_ok=True)
    plain = undisturbed(folder / "undisturbed", given)
    made: dict[int, tuple[str, str]] = {}
    began = time.perf_counter()
    with installed(folder / "killed", given.workers) as (here, client):
        pause = given.every * given.kills / given.jobs / 2
        sender = threading.Thread(target=submit_all, args=(client, given.jobs, pause, made))
        sender.start()
        fallen = disturb(here, Client(here.port), given)
        while sender.is_alive():
            here.keep_up()
            sender.join(0.5)
        wait_for_end(here, client)
        found = faults(here, client, made, plain)
    seconds = time.perf_counter() - began
    print("\n| killed | times |\n|---|---:|")
    for role, count in sorted(fallen.items()):
        print(f"| {role} | {count} |")
    print(
        f"\n{fallen.total()} kills, {len(made)} jobs, {client.lost} answers lost, {seconds:.0f} s"
    )
    print(f"lost, done twice, or otherwise than undisturbed: {len(found)} (aim 0)")
    for fault in found[:20]:
        print(f"  {fault}")
    if given.json:
        figures = {"kills": fallen, "jobs": len(made), "lost": client.lost, "faults": found}
        given.json.write_text(json.dumps(figures | {"seconds": seconds}, indent=1))


if __name__ == "__main__":
    main()
