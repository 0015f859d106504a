"""Fine-tuning jobs and checkpoint permissions through the official client, on both databases."""

import asyncio
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from sqlalchemy import update

from burnish.serving.state.installation import Service
from burnish.serving.state.tables import JobRow, ModelRow
from tests.serving.api_refused import api_refused, quotes
from tests.serving.conftest import assert_listed_as_retrieved


@pytest.fixture
def file(client: openai.OpenAI) -> str:
    return client.files.create(file=("a.jsonl", b"{}\n"), purpose="fine-tune").id


GRADER = {
    "type": "string_check",
    "name": "same",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}


@pytest.mark.parametrize(
    ("method", "shown"),
    [
        ({"type": "supervised"}, {"n_epochs": "auto", "batch_size": "auto"}),
        (
            {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
            {"n_epochs": 2},
        ),
        (
            {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": "auto"}}},
            {"beta": 0.2, "n_epochs": "auto"},
        ),
        (
            {
                "type": "reinforcement",
                "reinforcement": {"grader": GRADER, "hyperparameters": {"eval_interval": 5}},
            },
            {"eval_interval": 5, "reasoning_effort": "default"},
        ),
    ],
)
def test_methods(
    client: openai.OpenAI, file: str, method: dict[str, Any], shown: dict[str, Any]
) -> None:
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=file, method=method, seed=7, metadata={"team": "a"}
    )
    assert FineTuningJob.model_validate(job.model_dump()) == job
    assert (job.status, job.seed, job.metadata, job.object) == (
        "validating_files",
        7,
        {"team": "a"},
        "fine_tuning.job",
    )
    assert job.method
    own = getattr(job.method, method["type"])
    assert own.hyperparameters.model_dump().items() >= shown.items()
    assert client.fine_tuning.jobs.retrieve(job.id) == job
    assert_listed_as_retrieved(client, "/fine_tuning/jobs")


def test_the_deprecated_place_of_hyperparameters(client: openai.OpenAI, file: str) -> None:
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=file, hyperparameters={"n_epochs": 4, "batch_size": "auto"}
    )
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (4, "auto")
    assert job.method
    assert job.method.supervised
    assert client.fine_tuning.jobs.retrieve(job.id).seed == job.seed >= 0


def wrong(**given: Any) -> dict[str, Any]:
    return given


def hyper(**given: Any) -> dict[str, Any]:
    return {"method": {"type": "supervised", "supervised": {"hyperparameters": given}}}


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        (wrong(model="gpt-9"), "model", "model_not_available"),
        (wrong(model="ft:tiny:local::none"), "model", "model_not_available"),
        (wrong(training_file="file-none"), "training_file", "file_not_found"),
        (wrong(validation_file="file-none"), "validation_file", "file_not_found"),
        (wrong(suffix="x" * 65), "suffix", "string_above_max_length"),
        (wrong(seed=-1), "seed", "integer_below_min_value"),
        (wrong(metadata={str(i): "" for i in range(17)}), "metadata", "array_above_max_length"),
        (
            wrong(integrations=[{"type": "wandb", "wandb": {"project": "p"}}]),
            "integrations",
            "array_above_max_length",
        ),
        (wrong(extra_body={"sufix": "x"}), "sufix", "unknown_parameter"),
        (hyper(n_epochs=0), "method.supervised.hyperparameters.n_epochs", "invalid_value"),
        (hyper(n_epochs="many"), "method.supervised.hyperparameters.n_epochs", "invalid_value"),
        (
            hyper(learning_rate_multiplier=-1),
            "method.supervised.hyperparameters.learning_rate_multiplier",
            "invalid_value",
        ),
        (hyper(beta=1), "method.supervised.hyperparameters.beta", "unknown_parameter"),
        (
            hyper(n_epochs=2) | {"hyperparameters": {"n_epochs": 2}},
            "hyperparameters",
            "invalid_parameter_combination",
        ),
        (wrong(method={"type": "supervised", "dpo": {}}), "method", "invalid_value"),
        (wrong(method={"type": "reinforcement"}), "method", "invalid_value"),
        (
            wrong(method={"type": "reinforcement", "reinforcement": {"grader": {"type": "x"}}}),
            "method.reinforcement.grader",
            "invalid_value",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(
    client: openai.OpenAI, file: str, given: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.fine_tuning.jobs.create(**{"model": "tiny", "training_file": file} | given)
    assert (error.value.param, error.value.code) == (param, code)
    assert error.value.type == "invalid_request_error"
    assert list(client.fine_tuning.jobs.list()) == []


def test_a_job_reports_to_no_other_service_and_says_so(client: openai.OpenAI, file: str) -> None:
    create = client.fine_tuning.jobs.create
    with api_refused("array_above_max_length", param="integrations"):
        create(
            model="tiny",
            training_file=file,
            integrations=[{"type": "wandb", "wandb": {"project": "p"}}],
        )
    assert create(model="tiny", training_file=file, integrations=[]).integrations == []


def test_a_file_of_another_purpose_is_refused(client: openai.OpenAI) -> None:
    other = client.files.create(file=("a", b"a"), purpose="batch").id
    with api_refused("invalid_purpose", other, "'batch'", param="training_file"):
        client.fine_tuning.jobs.create(model="tiny", training_file=other)


def test_a_checkpoint_does_not_learn_on_and_its_model_is_named(
    client: openai.OpenAI, service: Service, file: str
) -> None:
    name = "ft:tiny:local::12345678:ckpt-step-5"
    row = ModelRow(name=name, base="tiny", job_id="ftjob-a", folder="x", created_at=1, step=5)
    with service.database.writing() as session:
        session.add(row)
    whole = f"{name.rpartition(':')[0]} or a base model"
    with api_refused("model_not_available", name, whole, param="model"):
        client.fine_tuning.jobs.create(model=name, training_file=file)


JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": "gpt-9",
    "input": [{"role": "user", "content": "{{sample.output_text}}"}],
}


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("grader", "value"),
    [
        ({"type": "python", "name": "p", "source": "def score(a, b): return 1"}, "grade"),
        ({"type": "python", "name": "p", "source": "def grade(sample"}, "SyntaxError"),
        (JUDGE, "gpt-9"),
        (GRADER | {"reference": "{{secret}}"}, "reference"),
        (
            {"type": "multi", "name": "m", "graders": {"j": JUDGE}, "calculate_output": "j"},
            "gpt-9",
        ),
        (
            {"type": "multi", "name": "m", "graders": {"e": GRADER}, "calculate_output": "e + f"},
            "calculate_output",
        ),
    ],
)
def test_graders_are_tried_before_a_job_is_made(
    client: openai.OpenAI, file: str, grader: dict[str, Any], value: str
) -> None:
    def ask(grader: dict[str, Any]) -> str:
        method: Any = {"type": "reinforcement", "reinforcement": {"grader": grader}}
        return client.fine_tuning.jobs.create(model="tiny", training_file=file, method=method).id

    with pytest.raises(openai.BadRequestError) as error:
        ask(grader)
    assert str(error.value.param).startswith("method.reinforcement.grader")
    expected = "invalid_value" if value in ("reference", "calculate_output") else "invalid_grader"
    assert error.value.code == expected
    assert quotes(error.value, value)
    assert list(client.fine_tuning.jobs.list()) == []
    assert ask(JUDGE | {"model": "tiny"}).startswith("ftjob-")


def test_settings_without_effect_are_said(client: openai.OpenAI, file: str) -> None:
    method: Any = {
        "type": "reinforcement",
        "reinforcement": {"grader": GRADER, "hyperparameters": {"reasoning_effort": "high"}},
    }
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file, method=method)
    first, *_ = client.fine_tuning.jobs.list_events(job.id)
    assert (first.level, first.message) == (
        "warn",
        "reasoning_effort is high, which has no effect on this model",
    )


def test_lists(client: openai.OpenAI, file: str) -> None:
    jobs = client.fine_tuning.jobs
    names = [
        jobs.create(
            model="tiny",
            training_file=file,
            metadata={"team": "ab"[i % 2], "user[x]": "é &="} if i < 6 else None,
        ).id
        for i in range(8)
    ][::-1]
    assert [job.id for job in jobs.list(limit=3)] == names
    first = jobs.list(limit=3)
    assert first.has_more
    assert [job.id for job in jobs.list(after=first.data[-1].id)] == names[3:]
    of_a = [job.id for job in jobs.list(limit=2, metadata={"team": "a"})]
    assert of_a == [names[7], names[5], names[3]][::-1]
    both = {"team": "b", "user[x]": "é &="}
    assert len(list(jobs.list(limit=1, metadata=both))) == 3
    assert list(jobs.list(metadata={"team": ""})) == []
    plain = jobs.list(extra_query={"metadata": "null"})
    assert [job.id for job in plain] == names[:2]
    events = list(jobs.list_events(names[0], limit=1))
    assert [event.message.split(":")[0] for event in events] == [
        "Validating training file",
        "Created fine-tuning job",
    ]
    assert FineTuningJobEvent.model_validate(events[0].model_dump()) == events[0]
    for call in (
        lambda: jobs.list(limit=0),
        lambda: jobs.list(after="ftjob-none"),
        lambda: jobs.list(extra_query={"metadata": "x"}),
        lambda: jobs.list(metadata={str(i): "" for i in range(1500)}),
    ):
        with pytest.raises(openai.BadRequestError):
            call()


def test_a_job_that_is_not_there(client: openai.OpenAI) -> None:
    jobs = client.fine_tuning.jobs
    for call in (
        jobs.retrieve,
        jobs.cancel,
        jobs.pause,
        jobs.resume,
        jobs.list_events,
        jobs.checkpoints.list,
    ):
        with api_refused("not_found", "ftjob-none", status=404, param="fine_tuning_job_id"):
            call("ftjob-none")


def test_cancel_pause_and_resume_of_a_job_that_waits(
    client: openai.OpenAI, service: Service, file: str
) -> None:
    jobs = client.fine_tuning.jobs
    job = jobs.create(model="tiny", training_file=file)
    assert jobs.pause(job.id).status == "queued"
    assert jobs.resume(job.id).status == "queued"
    with pytest.raises(openai.BadRequestError) as error:
        jobs.resume(job.id)
    assert error.value.code == "invalid_state"
    done = jobs.cancel(job.id)
    assert done.status == "cancelled"
    assert done.finished_at
    with service.database.writing() as session:
        failure = {"code": "a", "message": "b", "param": None}
        session.execute(update(JobRow).values(status="failed", error=failure))
    shown = jobs.retrieve(job.id)
    assert shown.error
    assert shown.error.message == "b"
    assert_listed_as_retrieved(client, "/fine_tuning/jobs")


@pytest.fixture
def checkpoint(service: Service) -> str:
    """The name has a slash, as that of a base model may."""
    name = "ft:hf:org/base:local::12345678:ckpt-step-5"
    row = ModelRow(
        name=name, base="hf:org/base", job_id="ftjob-a", folder="x", created_at=1, step=5
    )
    with service.database.writing() as session:
        session.add(row)
    return name


def test_permissions(client: openai.OpenAI, checkpoint: str) -> None:
    permissions = client.fine_tuning.checkpoints.permissions
    names = [f"proj_{i}" for i in range(5)]
    made = list(permissions.create(checkpoint, project_ids=names))
    assert [row.project_id for row in made] == names
    assert [row.id for row in permissions.create(checkpoint, project_ids=names[1:3])] == [
        row.id for row in made[1:3]
    ]
    listed = [row.project_id for row in permissions.list(checkpoint, limit=2)]
    assert listed == names[::-1]
    ascending = permissions.list(checkpoint, limit=3, order="ascending")
    assert [row.project_id for row in ascending] == names
    assert [row.id for row in permissions.list(checkpoint, project_id="proj_3")] == [made[3].id]
    gone = permissions.delete(made[0].id, fine_tuned_model_checkpoint=checkpoint)
    assert (gone.id, gone.deleted) == (made[0].id, True)
    with pytest.raises(openai.NotFoundError):
        permissions.delete(made[0].id, fine_tuned_model_checkpoint=checkpoint)
    with pytest.raises(openai.NotFoundError) as error:
        permissions.list("ft:none")
    assert error.value.code == "model_not_found"


def test_the_async_client(client: openai.OpenAI, file: str) -> None:
    async def asked() -> list[str]:
        async with openai.AsyncOpenAI(api_key="none", base_url=client.base_url) as other:
            jobs = other.fine_tuning.jobs
            names = [(await jobs.create(model="tiny", training_file=file)).id for _ in range(3)]
            assert [job.id async for job in jobs.list(limit=1)] == names[::-1]
            await jobs.cancel(names[0])
            return [event.message async for event in jobs.list_events(names[0], limit=1)]

    assert asyncio.run(asked())[0].startswith("Fine-tuning job cancelled")
