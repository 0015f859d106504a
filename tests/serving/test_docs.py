"""What the tutorial on the API shows is run, in its order, against a real server with a worker;
then what other pages show of a client."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from burnish.serving.app.app import make_app
from burnish.serving.catalog.server import Server, open_server
from burnish.serving.jobs.worker import Worker
from burnish.serving.state import models
from burnish.serving.state.installation import Settings, open_service
from tests.docs.blocks import BLOCKS
from tests.rows import chats
from tests.serving.conftest import running

TUTORIAL = "docs/tutorials/from-openai.md"
TUTORED = [block for block in BLOCKS if block.language == "python" and block.page == TUTORIAL]
OTHERS = [block for block in BLOCKS if block.asks_a_server and block.page != TUTORIAL]
ADDRESS = "http://127.0.0.1:8000/v1"


@pytest.fixture
def server(tuning: Settings, tiny_folder: Path) -> Iterator[Server]:
    """The built-in model's name, with the tiny one behind it."""
    settings = replace(tuning, models={"smollm2-135m": str(tiny_folder)})
    service = open_service(settings)
    worker = Worker(service)
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield open_server(settings)
    worker.stop()
    thread.join()
    service.close()


def test_the_examples_run(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("support.jsonl").write_bytes(chats(40))
    printed: list[str] = []
    own: dict[str, Any] = {"print": lambda *said, **_: printed.append(" ".join(map(str, said)))}
    with running(make_app(server)) as address:
        for block in TUTORED:
            if 'model="support"' in block.text:  # what the lines for the shell before it do
                models.alias(server.database, "support", own["job"].fine_tuned_model, force=True)
            exec(compile(block.text.replace(ADDRESS, address), str(block), "exec"), own)
        own["client"].close()
        tuned = models.find(server.database, own["job"].fine_tuned_model)
        assert tuned
        assert own["verdict"]["decision"] == tuned.decision
        for block in OTHERS:
            exec(compile(block.text.replace(ADDRESS, address), str(block), "exec"), own)
            own["client"].fine_tuning.jobs.cancel(own["job"].id)
            own["client"].close()
    said = "\n".join(printed)
    assert "ft:smollm2-135m:local:support:" in said
    assert "The job has successfully completed" in said
    assert any("model_not_found" in line and "`gpt-4o`" in line for line in printed)
