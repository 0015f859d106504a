"""Each change of state leaves its line, whoever made it: routes, workers, the command line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import select, update

from burnish.cli import main
from burnish.serving.state import audit, files, jobs, models
from burnish.serving.state.blobs import BlobStore
from burnish.serving.state.installation import Service, Settings, open_service
from burnish.serving.state.leases import Result, lease
from burnish.serving.state.tables import AuditRow, FileRow, JobRow, ModelRow
from tests.serving.api_refused import api_refused

MODEL = "ft:tiny:local:a:12345678"
# A process that writes what a server's routes or a worker would.
WRITER = """
import sys
from burnish.serving.state.database import Database
from burnish.serving.state import jobs
from burnish.serving.state.tables import JobRow
from burnish.serving.state.leases import lease
database = Database(sys.argv[1]).as_actor(sys.argv[2])
for i in range(15):
    name = f"ftjob-{sys.argv[2]}-{i}"
    jobs.submit(database, JobRow(name, "tiny", "validating_files", "file-a",
        {"type": "supervised"}, 0, 1))
    held = lease(database, sys.argv[2], 30)
    if held: held.fail({"code": "x", "message": "y", "param": None})
"""


def lines(service: Service) -> list[tuple[str, str, str, dict[str, Any]]]:
    with service.database.reading() as session:
        assert audit.verify(session) is None
        rows = session.scalars(select(AuditRow).order_by(AuditRow.seq))
        return [(row.actor, row.action, row.subject, row.data) for row in rows]


def told(service: Service) -> list[tuple[str, str]]:
    return [(action, subject) for _, action, subject, _ in lines(service)]


def test_files_and_uploads(client: openai.OpenAI, service: Service) -> None:
    file = client.files.create(file=("my secret name", b"rows"), purpose="fine-tune")
    client.files.retrieve(file.id)
    client.files.delete(file.id)
    given: Any = {"filename": "a", "purpose": "fine-tune", "bytes": 2, "mime_type": "text/jsonl"}
    kept, dropped = (client.uploads.create(**given) for _ in range(2))
    part = client.uploads.parts.create(kept.id, data=b"ab")
    whole = client.uploads.complete(kept.id, part_ids=[part.id])
    assert whole.file
    client.uploads.cancel(dropped.id)
    with pytest.raises(openai.BadRequestError):
        client.uploads.cancel(dropped.id)  # nothing changes, and nothing is written
    assert told(service) == [
        ("file.create", file.id),
        ("file.delete", file.id),
        ("upload.create", kept.id),
        ("upload.create", dropped.id),
        ("upload.part", kept.id),
        ("file.create", whole.file.id),
        ("upload.complete", kept.id),
        ("upload.cancel", dropped.id),
    ]
    assert {actor for actor, *_ in lines(service)} == {"local"}
    assert "secret" not in json.dumps(lines(service))


def test_what_expires(client: openai.OpenAI, service: Service) -> None:
    file = client.files.create(file=("a", b"rows"), purpose="fine-tune")
    with service.database.writing() as session:
        session.execute(update(FileRow).values(expires_at=1))
    files.expire(service.database.as_actor("worker w"), service.content)
    assert lines(service)[-1] == ("worker w", "file.expire", file.id, {})


def result(service: Service, decision: str) -> Result:
    received = service.content.receive([b"verdict"])
    file = files.file_row(received, "fine-tune-results", "verdict.json")
    row = ModelRow(MODEL, "tiny", "ftjob-a", "x", 1, decision=decision)
    return Result(row, [(received, file)], 9, {})


def test_a_job_and_its_model(client: openai.OpenAI, service: Service) -> None:
    file = client.files.create(file=("a", b"rows"), purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=file, metadata={"note": "secret"}
    ).id
    client.fine_tuning.jobs.pause(job)
    client.fine_tuning.jobs.pause(job)
    client.fine_tuning.jobs.resume(job)
    ours = service.database.as_actor("worker w")
    first = lease(ours, "w", -1)  # over at once
    held = lease(ours, "v", 60)
    assert first
    assert held
    held.report([], status="running")
    held.report([], status="running")
    held.heartbeat()
    client.fine_tuning.jobs.pause(job)
    held.release()
    client.fine_tuning.jobs.resume(job)
    held = lease(ours, "v", 60)
    assert held
    checkpoint = ModelRow(f"{MODEL}:ckpt-step-1", "tiny", job, "x", 1, step=1)
    held.report([], [checkpoint])
    held.finish(service.content, result(service, "hold"))
    with service.database.reading() as session:
        verdict = session.scalar(select(FileRow.id).where(FileRow.filename == "verdict.json"))
    assert told(service)[1:] == [
        ("job.create", job),
        ("job.pause", job),
        ("job.resume", job),
        ("job.take", job),
        ("job.take_over", job),
        ("job.start", job),
        ("job.pause", job),
        ("job.paused", job),
        ("job.resume", job),
        ("job.take", job),
        ("model.create", checkpoint.name),
        ("file.create", verdict),
        ("model.create", MODEL),
        ("job.succeed", job),
    ]
    by_action = {action: (actor, data) for actor, action, _, data in lines(service)}
    assert by_action["job.create"][1] == {"model": "tiny", "file": file, "method": "supervised"}
    assert by_action["job.take_over"] == ("worker w", {"from": "w"})
    assert by_action["model.create"][1] == {"job": "ftjob-a", "verdict": "hold"}
    assert "secret" not in json.dumps(lines(service))


def test_a_job_that_fails_or_is_cancelled(client: openai.OpenAI, service: Service) -> None:
    file = client.files.create(file=("a", b"rows"), purpose="fine-tune").id
    job, other = (
        client.fine_tuning.jobs.create(model="tiny", training_file=file).id for _ in range(2)
    )
    held = lease(service.database, "w", 60)
    assert held
    held.fail({"code": "invalid_training_file", "message": "row 3 says secret", "param": None})
    client.fine_tuning.jobs.cancel(other)
    assert told(service)[3:] == [("job.take", job), ("job.fail", job), ("job.cancel", other)]
    assert "secret" not in json.dumps(lines(service))


def test_permissions(client: openai.OpenAI, service: Service) -> None:
    with service.database.writing() as session:
        session.add(ModelRow(MODEL, "tiny", None, "x", 1))
    permissions = client.fine_tuning.checkpoints.permissions
    (made,) = permissions.create(MODEL, project_ids=["proj_a", "proj_a"])
    permissions.create(MODEL, project_ids=["proj_a"])
    permissions.delete(made.id, fine_tuned_model_checkpoint=MODEL)
    data = {"checkpoint": MODEL, "project": "proj_a"}
    assert lines(service) == [
        ("local", "permission.grant", made.id, data),
        ("local", "permission.revoke", made.id, data),
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = open_service(Settings(tmp_path / "data"))
    with found.database.writing() as session:
        for name, decision in ((MODEL, "hold"), ("ft:tiny:local:b:87654321", "release")):
            session.add(ModelRow(name, "tiny", None, "x", 1, decision=decision))
    found.close()
    return tmp_path / "data"


def command(*words: str) -> int:
    try:
        main(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--folder", str(folder))
    assert command("alias", f"support={MODEL}", *where) == 2
    told = capsys.readouterr().err
    assert "[not_released]" in told
    assert "hold" in told
    assert command("alias", f"support={MODEL}", "--force", *where) == 0
    assert command("alias", "support=ft:tiny:local:b:87654321", *where) == 0
    assert command("alias", "support=", *where) == 0
    assert command("keys", "make", "bot", "--project", "proj_a", *where) == 0
    secret = capsys.readouterr().out.split()[-3]
    assert command("keys", "make", "boss", "--scope", "admin", "--project", "p", *where) == 2
    service = open_service(Settings(folder))
    found = lines(service)
    key = found[3][2]
    assert [(actor, action) for actor, action, *_ in found] == [
        ("cli", "alias.force"),
        ("cli", "alias.move"),
        ("cli", "alias.remove"),
        ("cli", "key.make"),
        ("cli", "key.confine"),
    ]
    assert found[0][3] == {"model": MODEL, "verdict": "hold"}
    assert secret.startswith("sk-burnish-")
    capsys.readouterr()
    assert command("keys", "list", *where) == 0
    assert capsys.readouterr().out == f"{key}  bot  infer, tune  project proj_a\n"
    assert secret.rsplit("-", 1)[1] not in json.dumps(found)
    assert command("keys", "revoke", key, *where) == 0
    capsys.readouterr()
    assert command("audit", "verify", *where) == 0
    assert capsys.readouterr().out.startswith("audit log intact, head ")
    with service.database.writing() as session:
        session.execute(update(AuditRow).where(AuditRow.seq == 1).values(action="alias.move"))
    service.close()
    assert command("audit", "verify", *where) == 1
    assert "line 1 " in capsys.readouterr().err


def test_processes_write_one_chain(service: Service, url: str) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, url, f"writer{i}"]) for i in range(2)
    ]
    for i in range(10):
        models.alias(_with_model(service), f"name{i}", MODEL)
        models.drop_alias(service.database, f"name{i}")
    assert [process.wait() for process in writers] == [0] * 2
    found = lines(service)
    with service.database.reading() as session:
        failed = session.scalars(select(JobRow.id).where(JobRow.status == "failed")).all()
    made = [subject for _, action, subject, _ in found if action == "job.create"]
    ended = [subject for _, action, subject, _ in found if action == "job.fail"]
    assert len(made) == 30
    assert sorted(ended) == sorted(failed)
    assert len(set(ended)) == len(ended)


def _with_model(service: Service) -> Any:
    with service.database.writing() as session:
        if session.scalar(select(ModelRow.seq)) is None:
            session.add(ModelRow(MODEL, "tiny", None, "x", 1, decision="release"))
    return service.database


def test_a_write_that_fails_leaves_no_line(service: Service) -> None:
    content: BlobStore = service.content
    received = content.receive([b"a"])
    row = files.file_row(received, "fine-tune", "a")
    content.drop(received)  # so that it cannot be kept
    with pytest.raises(FileNotFoundError):
        files.add(service.database, content, received, row)
    with api_refused("not_found", "ftjob-none", status=404):
        jobs.cancel(service.database, "ftjob-none")
    assert lines(service) == []
