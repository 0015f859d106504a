"""The whole API as a script written for OpenAI walks it: both clients, one server, one worker."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from sqlalchemy import select

from burnish.cli import main
from burnish.serving.app.app import make_app
from burnish.serving.catalog.server import Server, open_server
from burnish.serving.jobs.worker import Worker
from burnish.serving.state import audit, keys
from burnish.serving.state.installation import Settings
from burnish.serving.state.tables import ModelRow
from tests.rows import chats
from tests.serving.api_refused import api_refused
from tests.serving.conftest import quick, running

HELLO: Any = [{"role": "user", "content": "tent number 3 please"}]
ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Whole:
    """A server whose model was tuned once, through the official client alone."""

    server: Server
    address: str
    job: FineTuningJob
    secrets: dict[str, str]

    def client(self, name: str = "admin", **given: Any) -> openai.OpenAI:
        key = self.secrets[name]
        return openai.OpenAI(
            api_key=key, base_url=self.address, _strict_response_validation=True, **given
        )

    def asynchronous(self, name: str = "admin", **given: Any) -> openai.AsyncOpenAI:
        key = self.secrets[name]
        return openai.AsyncOpenAI(
            api_key=key, base_url=self.address, _strict_response_validation=True, **given
        )

    @property
    def model(self) -> str:
        return str(self.job.fine_tuned_model)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Settings:
    return quick(tmp_path_factory.mktemp("whole"), tiny_folder, checkpoints=4)


@pytest.fixture(scope="module")
def whole(settings: Settings) -> Iterator[Whole]:
    server = open_server(settings, device="cpu")
    secrets = {}
    with server.database.writing() as session:
        for name, scopes, project in (
            ("admin", ["admin"], None),
            ("team", ["infer", "tune"], "proj_team"),
            ("other", ["infer", "tune"], "proj_other"),
        ):
            key, secrets[name] = keys.make(session, "cli", name, scopes)
            if project:
                keys.restrict_to_project(session, "cli", key.id, project)
    worker = Worker(server)
    with running(make_app(server)) as address:
        made = Whole(server, address, None, secrets)  # type: ignore[arg-type]
        with made.client("team") as client:
            file = client.files.create(file=("rows.jsonl", chats(40)), purpose="fine-tune")
            job = client.fine_tuning.jobs.create(
                model="tiny",
                training_file=file.id,
                suffix="try",
                method={
                    "type": "supervised",
                    "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 4}},
                },
            )
            worker.step()
            job = client.fine_tuning.jobs.retrieve(job.id)
        yield replace(made, job=job)


def test_the_job_says_what_became_of_it(whole: Whole) -> None:
    with whole.client() as client:
        assert whole.job.status == "succeeded", whole.job.error
        events = list(client.fine_tuning.jobs.list_events(whole.job.id, limit=3))
        assert all(type(event) is FineTuningJobEvent for event in events)
        assert len(events) > 6
        assert len({event.id for event in events}) == len(events)
        (rows,) = (event for event in events if event.message.startswith("Training on "))
        assert sum(rows.data.values()) == 40
        assert rows.message.startswith(f"Training on {rows.data['train']} rows, ")
        points = list(client.fine_tuning.jobs.checkpoints.list(whole.job.id, limit=1))
        assert len(points) > 1
        assert all(type(point) is FineTuningJobCheckpoint for point in points)
        names = [client.files.retrieve(file).filename for file in whole.job.result_files]
        assert names == ["step_metrics.csv", "verdict.json"]
        verdict = json.loads(client.files.content(whole.job.result_files[1]).text)
        said = next(event for event in events if event.message.startswith("Verdict: "))
        assert said.data == {"decision": verdict["decision"], "reasons": verdict["reasons"]}


def test_a_model_on_hold_has_its_full_name_alone(
    whole: Whole, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight items certify nothing, so this verdict is no release."""
    server = whole.server
    where = ("--folder", str(settings.folder))
    with server.database.reading() as session:
        verdict = session.scalar(select(ModelRow.decision).where(ModelRow.name == whole.model))
    assert verdict in ("hold", "inconclusive")
    with whole.client() as client:
        events = client.fine_tuning.jobs.list_events(whole.job.id, limit=100)
        (said,) = (event for event in events if event.message.startswith("Verdict: "))
        assert said.level == "warn"
        assert "It can only be used by its full model name." in said.message
        assert said.data["reasons"]  # type: ignore[index]
        ask = client.chat.completions.create
        assert ask(model=whole.model, messages=HELLO, max_tokens=3).model == whole.model
        with pytest.raises(SystemExit) as end:
            main(["alias", f"support={whole.model}", *where])
        assert end.value.code == 2
        told = capsys.readouterr().err
        assert "[not_released]" in told
        assert verdict in told
        with pytest.raises(openai.NotFoundError):
            ask(model="support", messages=HELLO, max_tokens=3)
        main(["alias", f"support={whole.model}", "--force", *where])
        reply = ask(model="support", messages=HELLO, max_tokens=3, temperature=0)
        own = ask(model=whole.model, messages=HELLO, max_tokens=3, temperature=0)
        assert reply.choices[0].message.content == own.choices[0].message.content
        assert "support" in [model.id for model in client.models.list()]
        with api_refused("model_has_alias", "'support'", whole.model, param="model"):
            client.models.delete(whole.model)
        with api_refused("model_is_alias", "support", whole.model, param="model"):
            client.models.delete("support")
        with whole.client("other") as other:
            for name in ("support", whole.model):
                with pytest.raises(openai.NotFoundError):
                    other.embeddings.create(model=name, input="tent")
        main(["alias", "support=", *where])
    with server.database.reading() as session:
        assert audit.verify(session) is None
        lines = [json.loads(line) for line in audit.export(session)]
    (forced,) = (line for line in lines if line["action"] == "alias.force")
    assert (forced["actor"], forced["subject"]) == ("cli", "support")
    assert forced["data"] == {"model": whole.model, "verdict": verdict}
    told = [line["action"] for line in lines if line["subject"] == whole.job.id]
    assert told == ["job.create", "job.take", "job.start", "job.succeed"]


def test_a_project_sees_its_own_files_uploads_and_jobs(whole: Whole) -> None:
    job, file = whole.job.id, whole.job.training_file
    with whole.client() as admin, whole.client("team") as team, whole.client("other") as other:
        upload = team.uploads.create(
            filename="a.jsonl", purpose="fine-tune", bytes=3, mime_type="text/jsonl"
        )
        for call in (
            lambda: other.files.retrieve(file),
            lambda: other.files.content(file),
            lambda: other.files.content(whole.job.result_files[0]),
            lambda: other.files.delete(file),
            lambda: other.uploads.parts.create(upload.id, data=b"abc"),
            lambda: other.uploads.cancel(upload.id),
            lambda: other.fine_tuning.jobs.retrieve(job),
            lambda: other.fine_tuning.jobs.cancel(job),
            lambda: other.fine_tuning.jobs.pause(job),
            lambda: other.fine_tuning.jobs.list_events(job),
            lambda: other.fine_tuning.jobs.checkpoints.list(job),
        ):
            with pytest.raises(openai.NotFoundError) as error:
                call()
            assert error.value.code == "not_found"
        with pytest.raises(openai.BadRequestError) as refused:
            other.fine_tuning.jobs.create(model="tiny", training_file=file)
        assert refused.value.code == "file_not_found"
        part = team.uploads.parts.create(upload.id, data=b"abc")
        split_calls = team.uploads.complete(upload.id, part_ids=[part.id]).file
        assert split_calls
        own = other.files.create(file=("own.jsonl", chats(2)), purpose="fine-tune")
        assert [one.id for one in other.files.list()] == [own.id]
        assert {split_calls.id, file, *whole.job.result_files} <= {
            one.id for one in team.files.list()
        }
        assert own.id not in {one.id for one in team.files.list()}
        assert {own.id, split_calls.id, file} <= {one.id for one in admin.files.list()}
        other.files.delete(own.id)
        team.files.delete(split_calls.id)
        assert list(other.fine_tuning.jobs.list()) == []
        assert job in [one.id for one in team.fine_tuning.jobs.list()]
        assert job in [one.id for one in admin.fine_tuning.jobs.list()]


def test_checkpoints_answer_to_those_who_may(whole: Whole) -> None:
    with whole.client() as admin, whole.client("team") as team, whole.client("other") as other:
        points = list(admin.fine_tuning.jobs.checkpoints.list(whole.job.id))
        name = points[-1].fine_tuned_model_checkpoint

        def ask(client: openai.OpenAI, model: str = name) -> ChatCompletion:
            return client.chat.completions.create(model=model, messages=HELLO, max_tokens=3)

        assert ask(admin).model == ask(team).model == name
        for call in (
            lambda: ask(other),
            lambda: ask(other, whole.model),
            lambda: other.models.retrieve(name),
            lambda: other.models.delete(whole.model),
        ):
            with pytest.raises(openai.NotFoundError) as error:
                call()
            assert error.value.code == "model_not_found"
        assert whole.model not in [model.id for model in other.models.list()]
        permissions = admin.fine_tuning.checkpoints.permissions
        with pytest.raises(openai.PermissionDeniedError) as refused:
            team.fine_tuning.checkpoints.permissions.create(name, project_ids=["proj_other"])
        assert refused.value.code == "missing_scope"
        (made,) = permissions.create(name, project_ids=["proj_other"])
        assert ask(other).model == name
        with pytest.raises(openai.NotFoundError):  # of this checkpoint, and no other
            ask(other, whole.model)
        with pytest.raises(openai.PermissionDeniedError) as refused:  # to use, not to delete
            other.models.delete(name)
        assert refused.value.code == "not_owner"
        assert ask(team).model == name
        asked = {"model": name, "messages": [{"role": "user", "content": "a secret of the team"}]}
        for client, known in ((team, False), (team, True), (other, False), (admin, False)):
            used = client.chat.completions.create(**asked, max_tokens=1).usage
            assert used
            assert used.prompt_tokens_details
            whole_prompt = used.prompt_tokens_details.cached_tokens == used.prompt_tokens - 1
            assert whole_prompt is known
        permissions.delete(made.id, fine_tuned_model_checkpoint=name)
        with pytest.raises(openai.NotFoundError):
            ask(other)
        grader: Any = {
            "type": "score_model",
            "name": "judge",
            "model": name,
            "input": [{"role": "user", "content": "{{sample.output_text}}"}],
        }
        for client, failed in ((other, True), (team, False)):
            graded = client.fine_tuning.alpha.graders.run(grader=grader, model_sample="x", item={})
            assert graded.metadata.errors.api_model_grader_server_error is failed
            assert bool(graded.metadata.token_usage) is not failed
        assert team.fine_tuning.alpha.graders.validate(grader=grader).grader
        with api_refused("invalid_grader", name, param="grader"):
            other.fine_tuning.alpha.graders.validate(grader=grader)


def test_lists_go_on_page_by_page(whole: Whole) -> None:
    async def names(client: openai.AsyncOpenAI) -> list[str]:
        return [file.id async for file in client.files.list(limit=2)]

    async def walked() -> list[str]:
        async with whole.asynchronous() as client:
            return await names(client)

    with whole.client() as client:
        for i in range(5):
            client.files.create(file=(f"{i}", b"%d" % i), purpose="user_data")
        first = client.files.list(limit=2)
        assert first.has_more
        assert first.next_page_info() is not None
        found = [file.id for file in client.files.list(limit=2)]
    assert len(found) == len(set(found)) == 8
    assert asyncio.run(walked()) == found


def test_a_large_file_comes_in_parts(whole: Whole, tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    line = json.dumps({"messages": [{"role": "user", "content": "x" * 1000}]}).encode() + b"\n"
    path.write_bytes(line * 9000)

    async def asked() -> Any:
        async with whole.asynchronous() as client:
            return await client.uploads.upload_file_chunked(
                file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=1 << 20
            )

    with whole.client() as client:
        done = client.uploads.upload_file_chunked(
            file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=4 << 20
        )
        again = asyncio.run(asked())
        for upload in (done, again):
            assert upload.status == "completed"
            assert upload.file
            assert upload.file.bytes == path.stat().st_size
        assert done.file
        assert client.files.content(done.file.id).read() == path.read_bytes()


class Failing(httpx2.BaseTransport):
    """Answers some requests itself before any reaches the server."""

    def __init__(self, *statuses: int) -> None:
        self.statuses, self.inner = list(statuses), httpx2.HTTPTransport()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.statuses:
            headers = {"retry-after-ms": "5"}
            return httpx2.Response(self.statuses.pop(0), headers=headers, request=request)
        return self.inner.handle_request(request)

    def close(self) -> None:
        self.inner.close()


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_the_client_tries_again(whole: Whole, status: int) -> None:
    http = httpx2.Client(transport=Failing(status))
    with whole.client(http_client=http) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="tiny", messages=HELLO, max_tokens=2
        )
        assert raw.retries_taken == 1
        assert type(raw.parse()) is ChatCompletion
        assert str(raw.headers["x-request-id"]).startswith("req_")


def test_timeouts_and_what_is_given_up(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    slow: Any = {"model": "tiny", "messages": HELLO, "n": 8, "max_tokens": 400}
    keep: Any = {"logit_bias": {"2": -100}}
    engine: Any = whole.server.engines.target("tiny").engine
    step = engine._scheduler.step

    def slowed() -> None:  # so that the whole would take 12 s at least
        time.sleep(0.03)
        step()

    monkeypatch.setattr(engine._scheduler, "step", slowed)

    def given_up(before: int) -> None:
        wait_for(lambda: engine.counters().running == 0)
        assert 0 < engine.counters().generated - before < 8 * 400 / 2

    before = engine.counters().generated
    with whole.client(max_retries=0, timeout=3) as client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(**slow, **keep)
    given_up(before)

    async def gives_up() -> None:
        async with whole.asynchronous(max_retries=0) as client:
            asked = asyncio.create_task(client.chat.completions.create(**slow, **keep))
            while engine.counters().generated == before:
                await asyncio.sleep(0.01)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked

    before = engine.counters().generated
    asyncio.run(gives_up())
    given_up(before)


def wait_for(true: Callable[[], bool], seconds: float = 10) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.02)


def test_the_asynchronous_client_walks_it_too(whole: Whole) -> None:
    async def walk() -> None:
        async with whole.asynchronous() as client:
            jobs = client.fine_tuning.jobs
            file = await client.files.create(file=("a", chats(20)), purpose="fine-tune")
            assert (await client.files.content(file.id)).text == chats(20).decode()
            job = await jobs.create(model=whole.model, training_file=file.id)
            assert job.organization_id == "org-local"
            await jobs.pause(job.id)
            await jobs.resume(job.id)
            assert (await jobs.cancel(job.id)).status in ENDED
            assert job.id in [one.id async for one in jobs.list(limit=1)]
            assert [event async for event in jobs.list_events(job.id, limit=1)]
            points = [point async for point in jobs.checkpoints.list(whole.job.id)]
            name = points[0].fine_tuned_model_checkpoint
            permissions = client.fine_tuning.checkpoints.permissions
            made = [row async for row in permissions.create(name, project_ids=["proj_a"])]
            assert [row.id async for row in permissions.list(name)] == [made[0].id]
            gone = await permissions.delete(made[0].id, fine_tuned_model_checkpoint=name)
            assert gone.deleted
            stream = await client.chat.completions.create(
                model=name, messages=HELLO, max_tokens=5, stream=True
            )
            assert [chunk async for chunk in stream][-1].choices[0].finish_reason
            raw = await client.models.with_raw_response.retrieve(whole.model)
            assert raw.parse().id == whole.model
            text = await client.completions.create(model="tiny", prompt="tent", max_tokens=3)
            assert text.usage
            assert (await client.files.delete(file.id)).deleted

    asyncio.run(walk())


def test_a_tuned_model_is_deleted_last(whole: Whole) -> None:
    with whole.client("team") as client:
        assert client.models.delete(whole.model).deleted
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model=whole.model, messages=HELLO)
        assert client.fine_tuning.jobs.retrieve(whole.job.id).fine_tuned_model == whole.model
