"""A job that goes wrong again and again: given up, so that it does not stop those after it."""

from pathlib import Path

import openai
import pytest

from burnish.serving.jobs.attempt import OURS, Attempt
from burnish.serving.jobs.worker import Worker
from burnish.serving.state.events import Event
from burnish.serving.state.installation import Service, Settings
from tests.rows import chats
from tests.serving.jobs.test_worker import submitted

# Logs what a run logs before its first checkpoint, or gets further, and is killed as for memory.
PROGRAM = """
import os, signal, sys
from pathlib import Path

from burnish.runs.directory import Manifest, RunDirectory

path = Path(sys.argv[2]).parent / "run"
if not path.exists():
    RunDirectory.create(path, Manifest("run", "training", {{}}, {{}})).write_findings([])
run = RunDirectory.open(path)
begun = len(run.events("replay")) + 1
if begun > 20:
    sys.exit("it was begun for ever")
run.log("replay", rows=0)
run.log("resumed", step=0, damaged={{}})
if begun <= {checkpoints}:
    (run.checkpoints / f"step-{{begun}}").mkdir(parents=True)
elif begun <= {checkpoints} + {items}:
    results = run.results_path("base", "task")
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        file.write("{{}}\\n")
os.kill(os.getpid(), signal.SIGKILL)
"""

# A job's process, of which the run's first file meets a disk without room.
FILLING = """
import sys
from pathlib import Path

from burnish.pipeline import verbs
from burnish.serving.jobs.run_recipe import main

verbs.run = lambda *_, **__: Path("/dev/full").write_text("x")
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.fixture
def settings(tuning: Settings) -> Settings:
    return tuning


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("checkpoints", "items"), [(0, 0), (1, 2)])
def test_kills_without_progress_end_a_job(
    client: openai.OpenAI,
    service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoints: int,
    items: int,
) -> None:
    (tmp_path / "killed.py").write_text(PROGRAM.format(checkpoints=checkpoints, items=items))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    job = submitted(client, chats(20))
    assert Worker(service, engine=("killed",)).step()
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.error
    assert "killed several times" in done.error.message
    log = service.settings.job_folder(job.id) / "run" / "events.jsonl"
    assert log.read_text().count('"resumed"') == 5 + checkpoints + items


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_disk_that_is_full_is_told(
    client: openai.OpenAI, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "filling.py").write_text(FILLING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    job = submitted(client, chats(20))
    assert Worker(service, engine=("filling",)).step()
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.error
    assert done.error.message.startswith("The server's disk is full.")


def test_rows_with_a_nul_fail_in_a_sentence(
    client: openai.OpenAI, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the worker was started: no module there is taken for one of the libraries'."""
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    job = submitted(client, b'{"a\\u0000b": 1}\n' * 12)
    assert Worker(service).step()
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "failed"
    assert done.error
    assert "fields: a\N{REPLACEMENT CHARACTER}b" in done.error.message


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_what_the_database_refuses_fails_the_job(
    client: openai.OpenAI, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tells_too_much(attempt: Attempt) -> None:
        attempt.lease.report([Event("x", log_position="far " * 100)])

    monkeypatch.setattr(Attempt, "run", tells_too_much)
    job = submitted(client, chats(20))
    worker = Worker(service)
    assert worker.step()
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.error and done.error.message) == ("failed", OURS)
    assert not worker.step()
