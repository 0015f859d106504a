"""Jobs, leases, events and models as rows, on both databases."""

import threading
from typing import Any

import pytest
from sqlalchemy import String, cast, event, insert, select, text, update

from burnish.serving.state import events, files, jobs, models, permissions
from burnish.serving.state.database import Database
from burnish.serving.state.events import Event
from burnish.serving.state.ids import checkpoint_name, tuned_name
from burnish.serving.state.installation import Service
from burnish.serving.state.leases import Lease, LeaseLostError, Result, lease
from burnish.serving.state.paging import Cursor
from burnish.serving.state.tables import EventRow, JobRow, MetaRow, ModelRow
from tests.refused import refused
from tests.serving.api_refused import api_refused

METHOD = {"type": "supervised", "supervised": {"hyperparameters": {}}}


def job(name: str, **given: Any) -> JobRow:
    return JobRow(
        id=name,
        model="tiny",
        status="validating_files",
        training_file="file-a",
        method=METHOD,
        seed=1,
        created_at=1,
        **given,
    )


@pytest.fixture
def database(service: Service) -> Database:
    return service.database


def taken(database: Database, worker: str = "a", seconds: float = 30) -> Lease:
    held = lease(database, worker, seconds)
    assert held
    return held


def end_leases(database: Database) -> None:
    """As if the time of every lease had run out."""
    with database.writing() as session:
        session.execute(update(JobRow).values(leased_until=1.0))


def test_workers_that_race_share_the_jobs(database: Database) -> None:
    names = {f"job-{i}" for i in range(30)}
    for name in names:
        jobs.submit(database, job(name))
    found: list[str] = []

    def work(worker: str) -> None:
        while held := lease(database, worker, 30):
            found.append(held.job.id)

    threads = [threading.Thread(target=work, args=(f"worker {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(names)


def test_a_lease_that_ended_is_taken_over_and_its_holder_writes_nothing(
    service: Service, database: Database
) -> None:
    jobs.submit(database, job("job"))
    slow = taken(database, "slow")
    assert lease(database, "quick", 30) is None
    end_leases(database)
    assert slow.heartbeat() == "go on"  # late, but nobody was there
    assert lease(database, "quick", 30) is None
    end_leases(database)
    quick = taken(database, "quick")
    assert slow.heartbeat() == "lost"
    with pytest.raises(LeaseLostError):
        slow.report([Event("from the slow one")])
    with pytest.raises(LeaseLostError):
        slow.finish(service.content, result(service))
    slow.release()
    assert quick.heartbeat(estimated_finish=7) == "go on"
    quick.report([Event("from the quick one")], status="running")
    assert jobs.retrieve(database, "job").estimated_finish == 7
    said = [row.message for row in events.listed(database, "job", Cursor(100)).rows]
    assert said[0] == "from the quick one"
    assert "from the slow one" not in said


def result(service: Service) -> Result:
    received = service.content.receive([b"a result"])
    row = files.file_row(received, "fine-tune-results", "a.csv")
    model = ModelRow(name="ft:a", base="tiny", job_id="job", folder="x", created_at=1)
    return Result(
        model, [(received, row)], 5, {"n_epochs": 3}, [Event("done", log_position="done")]
    )


def test_a_job_ends_once(service: Service, database: Database) -> None:
    jobs.submit(database, job("job"))
    held = taken(database)
    held.finish(service.content, result(service))
    for again in (lambda: held.finish(service.content, result(service)), lambda: held.fail({})):
        with pytest.raises(LeaseLostError):
            again()
    done = jobs.retrieve(database, "job")
    assert (done.status, done.fine_tuned_model, done.worker) == ("succeeded", "ft:a", None)
    assert len(files.listed(database, Cursor(10)).rows) == len(done.result_files) == 1
    for change in (jobs.cancel, jobs.pause, jobs.resume):
        with api_refused("invalid_state", "job", "succeeded", param="fine_tuning_job_id"):
            change(database, "job")


def test_wishes(database: Database) -> None:
    jobs.submit(database, job("job"))
    assert jobs.pause(database, "job").status == "paused"
    assert lease(database, "a", 30) is None
    assert jobs.resume(database, "job").status == "queued"
    held = taken(database)
    assert jobs.pause(database, "job").status == "queued"
    assert held.heartbeat() == "pause"
    jobs.resume(database, "job")
    assert held.heartbeat() == "go on"
    jobs.pause(database, "job")
    held.release()
    assert jobs.retrieve(database, "job").status == "paused"
    jobs.resume(database, "job")
    held = taken(database, "b")
    cancelled = jobs.cancel(database, "job")
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at
    assert held.heartbeat() == "cancel"
    with pytest.raises(LeaseLostError):
        held.report([Event("late")])
    held.release()
    assert jobs.retrieve(database, "job").worker is None
    assert lease(database, "c", 30) is None


def test_an_event_of_a_place_is_written_once(database: Database) -> None:
    jobs.submit(database, job("job"))
    held = taken(database)
    held.report([Event("one", log_position="train 1"), Event("two", log_position="train 2")])
    held.report(
        [
            Event("two", log_position="train 2"),
            Event("three", log_position="train 3"),
            Event("free"),
        ]
    )
    held.report([Event("free")])
    said = [row.message for row in events.listed(database, "job", Cursor(6)).rows]
    assert said == ["free", "free", "three", "two", "one", "Validating training file: file-a"]


def test_an_event_holds_what_both_databases_take(database: Database) -> None:
    jobs.submit(database, job("job"))
    held = taken(database)
    held.report([Event("loss", data={"losses": [float("nan"), 1.0], "most": float("inf")})])
    held.fail({"code": "x", "message": "field a\0b", "param": None})
    failed, loss = events.listed(database, "job", Cursor(2, None)).rows
    assert loss.data == {"losses": [None, 1.0], "most": None}
    assert failed.message == "field a\N{REPLACEMENT CHARACTER}b"
    assert jobs.retrieve(database, "job").error == {
        "code": "x",
        "message": failed.message,
        "param": None,
    }


def test_names() -> None:
    assert tuned_name("tiny", "org", "My Try!", "ftjob-123456789") == "ft:tiny:org:my-try-:23456789"
    assert checkpoint_name(tuned_name("tiny", "org", None, "x"), 7) == "ft:tiny:org::x:ckpt-step-7"


def test_aliases_move_only_to_what_is_released(database: Database) -> None:
    with database.writing() as session:
        for name, decision in (("ft:good", "release"), ("ft:bad", "hold"), ("ft:step", None)):
            models.add_once(
                session,
                ModelRow(
                    name=name,
                    base="tiny",
                    job_id=None,
                    folder="x",
                    created_at=1,
                    decision=decision,
                ),
            )
    assert not models.alias(database, "support", "ft:good").forced
    for wrong in ("ft:bad", "ft:step"):
        with refused("not_released", model=wrong):
            models.alias(database, "support", wrong)
    with refused("unknown_model", model="ft:none"):
        models.alias(database, "support", "ft:none", force=True)
    for base in ("tiny", "smollm2-135m", "all-minilm-l6-v2"):
        with refused("name_is_model", name=base, kind="base"):
            models.alias(database, base, "ft:good")
    found = models.find(database, "support")
    assert found
    assert found.name == "ft:good"
    assert models.alias(database, "support", "ft:bad", force=True).forced
    assert [row.target for row in models.aliases(database)] == ["ft:bad"]
    with api_refused("model_has_alias", "'support'", "ft:bad", param="model"):
        models.delete(database, "ft:bad")
    models.drop_alias(database, "support")
    models.delete(database, "ft:bad")
    assert models.find(database, "ft:bad") is None
    assert [name for name, _ in models.listed(database)] == ["ft:good", "ft:step"]


@pytest.mark.parametrize(
    ("project", "names"),
    [
        (None, ["ft:a", "ft:b", "ft:nobody", "best", "early"]),
        ("a", ["ft:a", "best", "early"]),
        ("b", ["ft:b", "early"]),
        ("c", ["ft:nobody"]),
        ("d", []),
    ],
)
def test_a_project_lists_what_it_may_use(
    database: Database, project: str | None, names: list[str]
) -> None:
    made = {"base": "tiny", "folder": "x", "created_at": 1}
    job = {"model": "tiny", "status": "succeeded", "training_file": "file-a", "method": METHOD}
    with database.writing() as session:
        for owner in ("a", "b"):
            session.add(JobRow(f"job-{owner}", **job, seed=1, created_at=1, project=owner))
            session.add(ModelRow(f"ft:{owner}", job_id=f"job-{owner}", **made))
        session.add(ModelRow("ft:nobody", job_id=None, **made))
        session.add(ModelRow("ft:a:step", job_id="job-a", step=1, **made))
        session.add(ModelRow("ft:gone", job_id="job-b", deleted=True, **made))
    models.alias(database, "best", "ft:a", force=True)
    models.alias(database, "early", "ft:a:step", force=True)
    permissions.grant(database, "ft:a:step", ["b"])
    permissions.grant(database, "ft:nobody", ["c"])
    found = models.listed(database, permissions.usable(project))
    assert [name for name, _ in found] == names
    assert all(permissions.may_use(database, model, project) for _, model in found)


def test_a_permission_by_an_alias_is_of_its_model(database: Database) -> None:
    with database.writing() as session:
        session.add(ModelRow("ft:a", job_id=None, base="tiny", folder="x", created_at=1))
    models.alias(database, "best", "ft:a", force=True)
    (granted,) = permissions.grant(database, "best", ["b"])
    model = models.find(database, "best")
    assert model
    assert permissions.may_use(database, model, "b")
    assert not permissions.owns(database, model, "b")
    for name in ("best", "ft:a"):
        assert [row.id for row in permissions.listed(database, name, Cursor(5)).rows] == [
            granted.id
        ]
    permissions.revoke(database, "best", granted.id)
    assert not permissions.may_use(database, model, "b")


@pytest.fixture
def many(database: Database) -> Database:
    """20,000 jobs, and 100,000 events of two of them."""
    with database.writing() as session:
        row = {
            "model": "tiny",
            "status": "succeeded",
            "training_file": "file-a",
            "method": METHOD,
            "seed": 1,
            "created_at": 1,
            "wish": "",
            "result_files": [],
        }
        session.execute(
            insert(JobRow),
            [row | {"id": f"job-{i}", "meta": {"team": f"{i % 4}"}} for i in range(20_000)],
        )
        keys = select(text("'team'"), cast(JobRow.seq % 4, String), JobRow.seq)
        session.execute(insert(MetaRow).from_select(["key", "value", "job_seq"], keys))
        said = {"created_at": 1, "level": "info", "message": "Step", "type": "metrics"}
        session.execute(
            insert(EventRow),
            [said | {"id": f"event-{i}", "job_id": f"job-{i % 2}"} for i in range(100_000)],
        )
    with database.writing() as session:
        session.execute(text("ANALYZE"))
    return database


def test_lists_walk_along_an_index(many: Database) -> None:
    """However many rows there are, no list reads all of them or sorts any."""
    plans: dict[str, str] = {}
    explain = "EXPLAIN QUERY PLAN " if many.is_sqlite else "EXPLAIN "

    def look(connection: Any, cursor: Any, statement: str, given: Any, *_: Any) -> None:
        if statement.startswith("SELECT") and "LIMIT" in statement:
            cursor.execute(explain + statement, given)
            plans[statement] = "\n".join(str(row) for row in cursor.fetchall())

    engine = many._engine
    event.listen(engine, "before_cursor_execute", look)
    cursor = Cursor(20, "job-10000")
    assert len(jobs.listed(many, Cursor(20)).rows) == 20
    assert jobs.listed(many, cursor).rows[0].id == "job-9999"
    assert len(jobs.listed(many, cursor, {"team": "1"}).rows) == 20
    assert jobs.listed(many, cursor, {"team": "1", "more": "2"}).rows == []
    assert jobs.listed(many, Cursor(20), without_metadata=True).rows == []
    assert len(events.listed(many, "job-1", Cursor(20, "event-50001")).rows) == 20
    assert models.checkpoints(many, "job-1", Cursor(20)).rows == []
    assert files.listed(many, Cursor(20), "fine-tune").rows == []
    assert lease(many, "worker", 30) is None
    event.remove(engine, "before_cursor_execute", look)
    assert len(plans) >= 8
    for statement, plan in plans.items():
        if "FROM models" in statement or "FROM files" in statement:
            continue  # those are empty, and read as they come
        by_key = "SCAN jobs')" in plan  # along the primary key, until the page is full
        read = "Seq Scan" in plan or ("SCAN" in plan and "INDEX" not in plan and not by_key)
        ordered = "TEMP B-TREE" in plan or "Sort" in plan
        assert not read, f"{statement}\n{plan}"
        assert not ordered, f"{statement}\n{plan}"
