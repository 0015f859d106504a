"""Jobs from the upload to the result, by real workers on a tiny model; with kills, too."""

import csv
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from openai.types.fine_tuning import FineTuningJob
from sqlalchemy import update

from burnish.runs.directory import RunDirectory
from burnish.serving.jobs.results import REMEDIES
from burnish.serving.jobs.run_events import EventTranslator, LogTail, metrics_csv
from burnish.serving.jobs.worker import Worker
from burnish.serving.state import models
from burnish.serving.state.installation import Service, Settings
from burnish.serving.state.tables import JobRow
from burnish.training.checkpoint import saved_steps
from tests.rows import chats

# A worker in a process of its own, to be killed.
PROGRAM = """
import json, signal, sys
from pathlib import Path
from burnish.serving.state.installation import Settings, open_service
from burnish.serving.jobs.worker import Worker
given = json.loads(sys.argv[1])
settings = Settings(**given["settings"] | {"folder": Path(given["settings"]["folder"])})
worker = Worker(open_service(settings, given["url"]))
signal.signal(signal.SIGTERM, lambda *_: worker.stop())
worker.run()
"""


@pytest.fixture
def settings(tuning: Settings) -> Settings:
    return tuning


@contextmanager
def working(settings: Settings, url: str) -> Iterator["subprocess.Popen[bytes]"]:
    values = {
        "folder": str(settings.folder),
        "models": settings.models,
        "recipe": settings.recipe,
        "lease": settings.lease,
    }
    given = json.dumps({"settings": values, "url": url})
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, given])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(true: Callable[[], Any], seconds: float = 300) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children()]


def submitted(client: openai.OpenAI, rows: bytes, **given: Any) -> FineTuningJob:
    file = client.files.create(file=("rows.jsonl", rows), purpose="fine-tune")
    return client.fine_tuning.jobs.create(model="tiny", training_file=file.id, **given)


def supervised(**hyperparameters: Any) -> dict[str, Any]:
    return {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}


def messages(client: openai.OpenAI, job: FineTuningJob) -> list[str]:
    """What was said, the oldest first."""
    return [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=1000)][
        ::-1
    ]


def stopped_at(settings: Settings, job: FineTuningJob) -> int:
    """The last step that was taken, of which there is a checkpoint."""
    run = RunDirectory(settings.job_folder(job.id) / "run")
    step = int(run.events("train")[-1]["step"])
    assert saved_steps(run.checkpoints)[-1] == step
    return step


def test_a_job_from_the_upload_to_its_files(client: openai.OpenAI, service: Service) -> None:
    jobs = client.fine_tuning.jobs
    made = submitted(
        client,
        chats(40),
        method=supervised(n_epochs=2, learning_rate_multiplier=3),
        suffix="My Try",
        seed=3,
    )
    assert made.status == "validating_files"
    assert Worker(service).step()
    job = jobs.retrieve(made.id)
    assert job.status == "succeeded", job.error
    name = f"ft:tiny:local:my-try:{job.id[-8:]}"
    assert job.fine_tuned_model == name
    assert job.hyperparameters.batch_size == 8
    assert job.trained_tokens
    model = models.find(service.database, name)
    assert model
    assert (service.settings.folder / model.folder / "adapter_model.safetensors").exists()

    events = list(jobs.list_events(job.id, limit=5))[::-1]
    steps = [event.data for event in events if event.type == "metrics"]
    assert [data["step"] for data in steps] == list(range(1, len(steps) + 1))
    assert {data["total_steps"] for data in steps} == {len(steps)}
    said = [event.message for event in events]
    assert said[0] == f"Created fine-tuning job: {job.id}"
    assert said[-1] == "The job has successfully completed"
    verdict = next(event for event in events if event.message.startswith("Verdict: "))
    assert verdict.level == ("info" if model.decision == "release" else "warn")
    assert len(set(said)) == len(said)
    parity = next(event for event in events if event.message.startswith("Parity: "))
    assert (parity.level, parity.data) == ("info", {"agrees": True, "prompts": 9})

    metrics, judged = (client.files.content(file).text for file in job.result_files)
    rows = list(csv.DictReader(io.StringIO(metrics)))
    assert [float(row["train_loss"]) for row in rows] == [data["train_loss"] for data in steps]
    told = [data["train_mean_token_accuracy"] for data in steps]
    assert [float(row["train_accuracy"]) for row in rows] == told
    assert all(0 <= share <= 1 for share in told)
    last = rows[-1]["valid_mean_token_accuracy"]
    assert float(last) == steps[-1]["full_valid_mean_token_accuracy"]
    assert json.loads(judged)["decision"] == model.decision
    assert client.files.retrieve(job.result_files[0]).purpose == "fine-tune-results"

    kept = list(jobs.checkpoints.list(job.id, limit=1))
    assert [checkpoint.step_number for checkpoint in kept] == sorted(
        (checkpoint.step_number for checkpoint in kept), reverse=True
    )
    assert kept[0].fine_tuned_model_checkpoint == f"{name}:ckpt-step-{len(steps)}"
    assert kept[0].metrics.train_loss == steps[-1]["train_loss"]
    assert not Worker(service).step()  # nothing is left to do


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_base_that_writes_no_conversations_is_tuned_without(
    client: openai.OpenAI, service: Service
) -> None:
    """By default jobs are held to their base; a random model never ends a question."""
    given = {key: value for key, value in service.settings.recipe.items() if key != "replay.rows"}
    service.settings = replace(service.settings, recipe=given)
    job = submitted(client, chats(20), hyperparameters={"n_epochs": 1})
    assert Worker(service).step()
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded", done.error
    said = messages(client, job)
    assert said.count("No replay: the base model generated no conversations") == 1


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_tuned_model_learns_on(client: openai.OpenAI, service: Service) -> None:
    jobs, worker = client.fine_tuning.jobs, Worker(service)
    first = submitted(client, chats(20), hyperparameters={"n_epochs": 1})
    worker.step()
    name = jobs.retrieve(first.id).fine_tuned_model
    second = jobs.create(
        model=str(name), training_file=first.training_file, method=supervised(n_epochs=1)
    )
    worker.step()
    done = jobs.retrieve(second.id)
    assert done.status == "succeeded", done.error
    assert str(done.fine_tuned_model).startswith("ft:tiny:local::")
    run = RunDirectory(service.settings.job_folder(second.id) / "run")
    assert run.manifest().lineage["init"] == "continue"


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_preferences_are_learnt(client: openai.OpenAI, service: Service) -> None:
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": f"where is tent {i}"}]},
            "preferred_output": [{"role": "assistant", "content": "red"}],
            "non_preferred_output": [{"role": "assistant", "content": "green"}],
        }
        for i in range(20)
    ]
    text = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    hyperparameters = {"beta": 0.3, "n_epochs": 1, "batch_size": 4}
    method: Any = {"type": "dpo", "dpo": {"hyperparameters": hyperparameters}}
    job = submitted(client, text, method=method)
    Worker(service).step()
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded", done.error
    recipe = RunDirectory(service.settings.job_folder(job.id) / "run").manifest().recipe
    assert recipe["objective"] == "dpo"
    assert recipe["dpo"]["beta"] == 0.3
    assert recipe["training"]["batch_size"] == 4


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_what_the_rows_lack_is_told_before_the_job_starts(
    client: openai.OpenAI, service: Service
) -> None:
    """A pair in a supervised job, a row that stands twice, and one longer than the context."""
    asked = [{"role": "user", "content": "where is the tent"}]
    pair = {
        "input": {"messages": asked},
        "preferred_output": [{"role": "assistant", "content": "red"}],
        "non_preferred_output": [{"role": "assistant", "content": "green"}],
    }
    long = [{"role": "assistant", "content": "red " * 600}]
    rows = [
        pair | {"input": {"messages": [{"role": "user", "content": f"{i}"}]}} for i in range(30)
    ]
    rows += [rows[3], pair | {"preferred_output": long}]
    job = submitted(client, b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    Worker(service).step()
    told = list(client.fine_tuning.jobs.list_events(job.id, limit=100))[::-1]
    found = [event for event in told if event.message.startswith("Uploaded files: ")]
    assert {event.level for event in found} == {"warn"}
    places = {event.data["kind"]: event.data["where"] for event in found if event.data}
    assert places["duplicate"] == ["line 31"]
    assert places["too long"] == ["line 32"]
    said = [event.message for event in told]
    assert said.index(found[-1].message) < said.index("Fine-tuning job started")
    (alone,) = [event.message for event in found if event.data and event.data["kind"] == "rejected"]
    assert "only the chosen answers are trained on" in alone
    assert not any("dpo" in event.message or "max_length" in event.message for event in found)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_grader_is_learnt_from(client: openai.OpenAI, service: Service) -> None:
    prompts = [
        {"messages": [{"role": "user", "content": f"where is tent {i}"}], "wanted": "e"}
        for i in range(20)
    ]
    text = b"".join(json.dumps(row).encode() + b"\n" for row in prompts)
    grader = {
        "type": "string_check",
        "name": "has an e",
        "input": "{{sample.output_text}}",
        "reference": "{{item.wanted}}",
        "operation": "like",
    }
    given = {"n_epochs": 1, "batch_size": 5, "compute_multiplier": 0.25, "eval_interval": 2}
    own = {"grader": grader, "hyperparameters": given}
    method: Any = {"type": "reinforcement", "reinforcement": own}
    job = submitted(client, text, method=method)
    Worker(service).step()
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded", done.error
    events = list(client.fine_tuning.jobs.list_events(job.id))[::-1]
    metrics = [event.data for event in events if event.type == "metrics"]
    rewards = [data["train_reward_mean"] for data in metrics if data and "train_loss" in data]
    rows = csv.DictReader(io.StringIO(client.files.content(done.result_files[0]).text))
    assert [float(row["train_reward_mean"]) for row in rows] == rewards


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_bad_files_fail_in_a_sentence(client: openai.OpenAI, service: Service) -> None:
    jobs, worker = client.fine_tuning.jobs, Worker(service)
    few = submitted(client, chats(4))
    broken = submitted(client, chats(40) + b'{"messages": [\n')
    gone = submitted(client, chats(40))
    lost = submitted(client, b'{"text": "a tent", "category": "red"}\n' * 40)
    client.files.delete(gone.training_file)
    for _ in range(4):
        assert worker.step()
    errors = [jobs.retrieve(job.id).error for job in (few, broken, gone, lost)]
    assert [error and (error.code, error.param) for error in errors] == [
        ("invalid_n_examples", "training_file"),
        ("invalid_training_file", "training_file"),
        ("file_not_found", "training_file"),
        ("invalid_training_file", "training_file"),
    ]
    assert "rename category to label" in str(errors[3])
    said = errors[1].message if errors[1] else ""
    assert "1 of 41 rows" in said
    assert "line 41 " in said
    assert "\n" not in said
    assert "--drop-bad" not in said
    assert str(service.settings.folder) not in said
    assert messages(client, broken)[-1] == said
    assert {jobs.retrieve(job.id).status for job in (few, broken, gone)} == {"failed"}


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_failure_is_told_in_words_of_the_api(client: openai.OpenAI, service: Service) -> None:
    lines = chats(40)
    array = b"[" + b",".join(lines.splitlines()) + b"]"
    missing: Any = {
        "type": "string_check",
        "name": "same",
        "input": "{{sample.output_text}}",
        "reference": "{{item.wanted}}",
        "operation": "eq",
    }
    graded: Any = {"type": "reinforcement", "reinforcement": {"grader": missing}}
    prompts = [{"messages": json.loads(line)["messages"][:1]} for line in lines.splitlines()]
    rows = b"".join(json.dumps(row).encode() + b"\n" for row in prompts)
    more = client.files.create(file=("more.jsonl", chats(42)), purpose="fine-tune").id
    cases = [
        (lines, {"validation_file": more}, "validation_file", REMEDIES["nothing_left"]),
        (chats(2) * 20, {}, "training_file", REMEDIES["too_few_test_rows"]),
        (array, {}, "training_file", "JSON array"),
        (lines, {"method": {"type": "dpo"}}, "training_file", REMEDIES["no_rejected_answer"]),
        (rows, {"method": graded}, "method.reinforcement.grader", "wanted"),
    ]
    made = [submitted(client, content, **given) for content, given, _, _ in cases]
    worker = Worker(service)
    for job, (_, _, param, said) in zip(made, cases, strict=True):
        worker.step()
        error = client.fine_tuning.jobs.retrieve(job.id).error
        assert error is not None
        assert error.param == param
        assert error.code == f"invalid_{param.rpartition('.')[2]}"
        assert said in error.message
        assert "data." not in error.message


def test_a_killed_worker_is_followed_by_another(
    client: openai.OpenAI,
    service: Service,
    settings: Settings,
    url: str,
) -> None:
    job = submitted(client, chats(40), method=supervised(n_epochs=12, batch_size=1))
    log = settings.job_folder(job.id) / "run" / "events.jsonl"
    for more in (40, 120):  # killed twice on the way
        with working(settings, url) as worker:
            wait_for(lambda: log.exists() and log.read_text().count('"train"') >= more)  # noqa: B023
            child = children(worker.pid)[0]
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            wait_for(lambda: not psutil.pid_exists(child), 5)  # noqa: B023
        assert client.fine_tuning.jobs.retrieve(job.id).status == "running"
    last = Worker(service)
    wait_for(last.step)
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded", done.error
    said = messages(client, job)
    steps = [one.split(":")[0] for one in said if one.startswith("Step ")]
    total = steps[0].split("/")[1]
    assert sorted(steps) == sorted(f"Step {i + 1}/{total}" for i in range(len(steps)))
    assert any(one.startswith("Resumed from step ") for one in said)
    assert len(done.result_files) == 2
    assert len(client.files.list(purpose="fine-tune-results").data) == 2
    assert len(models.listed(service.database)) == 1


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_pause_resume_and_cancel_reach_a_job_that_runs(
    client: openai.OpenAI,
    service: Service,
    settings: Settings,
    url: str,
) -> None:
    jobs = client.fine_tuning.jobs
    job = submitted(client, chats(40), method=supervised(n_epochs=50, batch_size=1))

    def steps() -> int:
        return sum(one.startswith("Step ") for one in messages(client, job))

    with working(settings, url) as worker:
        wait_for(lambda: steps() > 3)
        assert jobs.pause(job.id).status == "running"
        wait_for(lambda: jobs.retrieve(job.id).status == "queued")
        assert messages(client, job)[-1] == "Fine-tuning job paused"
        before = steps()
        time.sleep(1.5)  # longer than an idle worker takes to look for jobs
        assert steps() == before
        stopped = stopped_at(settings, job)
        assert stopped - 1 <= before <= stopped  # the last step may be told later
        jobs.resume(job.id)
        wait_for(lambda: steps() > before)
        assert f"Resumed from step {stopped}" in messages(client, job)
        assert jobs.retrieve(job.id).status == "running"
        assert jobs.cancel(job.id).status == "cancelled"
        wait_for(lambda: not children(worker.pid))
        worker.terminate()
        assert worker.wait(60) == 0
    done = jobs.retrieve(job.id)
    assert (done.status, done.fine_tuned_model) == ("cancelled", None)
    assert done.finished_at
    with pytest.raises(openai.BadRequestError) as error:
        jobs.cancel(job.id)
    assert error.value.code == "invalid_state"


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_stopped_worker_gives_its_job_back(
    client: openai.OpenAI,
    service: Service,
    settings: Settings,
    url: str,
) -> None:
    job = submitted(client, chats(40), method=supervised(n_epochs=50, batch_size=1))
    with working(settings, url) as worker:
        wait_for(lambda: any(one.startswith("Step ") for one in messages(client, job)))
        worker.terminate()
        assert worker.wait(60) == 0
    assert client.fine_tuning.jobs.retrieve(job.id).status == "running"
    stopped = stopped_at(settings, job)
    with working(settings, url):
        wait_for(lambda: f"Resumed from step {stopped}" in messages(client, job))
    with service.database.writing() as session:  # the time of the second one's lease is over
        session.execute(update(JobRow).values(worker=None, leased_until=None))
    client.fine_tuning.jobs.pause(job.id)  # nobody holds it, so it pauses at once
    assert client.fine_tuning.jobs.retrieve(job.id).status == "queued"
    assert not Worker(service).step()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_our_own_mistake_fails_the_job_and_not_the_worker(
    client: openai.OpenAI, service: Service
) -> None:
    job = submitted(client, chats(40))
    service.settings.job_folder(job.id).mkdir(parents=True)
    (service.settings.job_folder(job.id) / "lock").mkdir()  # nothing of ours does that
    assert Worker(service).step()
    error = client.fine_tuning.jobs.retrieve(job.id).error
    assert error
    assert error.code == "server_error"


def test_what_is_read_beside_the_rows_is_told(tmp_path: Path) -> None:
    lines = [{"time": 1.0, "phase": "replay", "rows": rows} for rows in (64, 0)]
    said = [event.message for event in EventTranslator().events(lines)]
    assert said == [
        "Replaying 64 general conversations to reduce forgetting",
        "No replay: the base model generated no conversations",
    ]


def test_a_log_is_told_once_though_it_is_cut_back(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"

    def line(step: int, phase: str = "train") -> dict[str, Any]:
        return {"time": 100.0 + step, "phase": phase, "step": step, "steps": 4, "loss": 1.0 * step}

    def write(lines: list[dict[str, Any]], torn: str = "") -> None:
        new = tmp_path / "new"
        new.write_text("".join(json.dumps(one) + "\n" for one in lines) + torn)
        new.replace(path)

    log_tail, translator = LogTail(path), EventTranslator()
    assert log_tail.new() == []
    write([line(1), line(2), line(2, "validation"), line(3)], '{"time": 1')
    first = translator.events(log_tail.new())
    assert [event.log_position for event in first] == [
        "train 1",
        "train 2",
    ]  # the third may be validated
    assert first[1].data == {
        "step": 2,
        "total_steps": 4,
        "train_loss": 2.0,
        "valid_loss": 2.0,
        "full_valid_loss": 2.0,
    }
    assert translator.finish_time() == 104
    write([line(1), line(2), line(2, "validation")])
    with path.open("a") as file:
        file.write(json.dumps(line(3)) + "\n" + json.dumps(line(4)) + "\n")
    places = [event.log_position for event in translator.events(log_tail.new(), ended=True)]
    assert places == ["train 3", "train 1", "train 2", "train 3", "train 4"]
    assert metrics_csv([line(1), line(1, "validation")]).splitlines()[1] == "1,1.0,,1.0,"
    rewarded = [line(1) | {"reward": 0.5}, line(1, "validation") | {"sets": {"": {"reward": 0.25}}}]
    assert metrics_csv(rewarded).splitlines() == [
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy,"
        "train_reward_mean,valid_reward_mean",
        "1,1.0,,1.0,,0.5,0.25",
    ]
