"""What a job learns from is settled when it is made, and the rest when its recipe is written."""

import openai
import pytest

from burnish.serving.jobs.prepare import prepare
from burnish.serving.state import jobs, models
from burnish.serving.state.installation import Service, Settings
from burnish.serving.state.tables import ModelRow
from tests.rows import chats
from tests.serving.api_refused import api_refused

MADE = {"base": "tiny", "folder": "x", "created_at": 1}


@pytest.fixture
def settings(tuning: Settings) -> Settings:
    return tuning


@pytest.fixture
def url(tmp_path: object) -> str:
    return f"sqlite:///{tmp_path}/state.db"


@pytest.fixture
def file(client: openai.OpenAI, service: Service) -> str:
    with service.database.writing() as session:
        for name in ("old", "new"):
            session.add(ModelRow(f"ft:{name}", job_id=f"ftjob-{name}", **MADE))
    models.alias(service.database, "support", "ft:old", force=True)
    return client.files.create(file=("rows.jsonl", chats(20)), purpose="fine-tune").id


def test_an_alias_that_moves_takes_no_job_along(
    client: openai.OpenAI, service: Service, file: str
) -> None:
    job = client.fine_tuning.jobs.create(model="support", training_file=file)
    assert job.model == "ft:old"
    models.alias(service.database, "support", "ft:new", force=True)
    recipe = prepare(service, jobs.retrieve(service.database, job.id)).recipe
    assert recipe.init_from is not None
    assert recipe.init_from.parent.name == "ftjob-old"


def test_a_job_goes_on_though_its_model_is_deleted(
    client: openai.OpenAI, service: Service, file: str
) -> None:
    begun, waiting = (
        jobs.retrieve(
            service.database, client.fine_tuning.jobs.create(model=name, training_file=file).id
        )
        for name in ("ft:new", "ft:new")
    )
    prepared = prepare(service, begun)
    models.delete(service.database, "ft:new")
    assert prepare(service, begun) == prepared
    with api_refused("model_not_available", "ft:new", param="model"):
        prepare(service, waiting)
