"""A service on SQLite and on a real PostgreSQL, and its routes behind a real server."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest
import uvicorn
from fastapi import FastAPI

from burnish.serving.app.exception_handlers import add_handlers
from burnish.serving.routes import files, jobs, permissions, uploads
from burnish.serving.state.installation import Service, Settings, open_service
from tests.rows import choices, write_rows

_NAMES = itertools.count()


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    named = shutil.which("initdb")
    return found[-1].parent if found else Path(named).parent if named else None


def _as_postgres(*command: str) -> None:
    """PostgreSQL refuses to run as root."""
    whole = ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else [*command]
    subprocess.run(whole, check=True, cwd="/", stdout=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The socket's folder of a server that lives as long as the tests."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL's initdb and pg_ctl are not installed")
    folder = Path(tempfile.mkdtemp(prefix="burnish-postgresql-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    data = str(folder / "data")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off"
    _as_postgres(str(programs / "initdb"), "-D", data, "-U", "postgres", "-A", "trust")
    log = str(folder / "log")
    _as_postgres(str(programs / "pg_ctl"), "-D", data, "-o", options, "-l", log, "-w", "start")
    yield str(folder)
    _as_postgres(str(programs / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database; on PostgreSQL a schema of its own, which is made and left in no time."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    folder, name = request.getfixturevalue("postgresql"), f"test_{next(_NAMES)}"
    with psycopg.connect(host=folder, user="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"postgresql://postgres@/postgres?host={folder}&options=-csearch_path%3D{name}"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "data", models={"tiny": str(tmp_path)}, max_file_bytes=1 << 20)


@pytest.fixture
def service(settings: Settings, url: str) -> Iterator[Service]:
    found = open_service(settings, url)
    yield found
    found.close()


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    """The official client, talking to the service."""
    with served(service) as address, openai.OpenAI(api_key="none", base_url=address) as found:
        yield found


@contextlib.contextmanager
def served(service: Service) -> Iterator[str]:
    """The service's routes on a free port; the address ends in /v1."""
    app = FastAPI()
    app.state.service = service
    add_handlers(app)
    for part in (files, uploads, jobs, permissions):
        limit = service.settings.max_file_bytes + (64 << 10)
        app.include_router(part.router, prefix="/v1", max_body_size=limit)
    with running(app) as address:
        yield address


@contextlib.contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The application behind a real server on a free port; the address ends in /v1."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none")
    server, bound = uvicorn.Server(config), config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not begin"
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def tuning(tmp_path: Path, tiny_folder: Path) -> Settings:
    return quick(tmp_path, tiny_folder, checkpoints=12, lease=5.0)


def quick(folder: Path, model: Path, checkpoints: int, **given: Any) -> Settings:
    """A tiny model that can be tuned in seconds, and a suite of a few items."""
    suite = write_rows(folder / "suite.jsonl", choices(8))
    recipe = {
        "evaluate.general": [str(suite)],
        "evaluate.max_new_tokens": 4,
        "training.preflight": False,
        "training.checkpoints": checkpoints,
        "replay.rows": 0,
    }
    return Settings(folder / "data", models={"tiny": str(model)}, recipe=recipe, **given)


def assert_listed_as_retrieved(client: openai.OpenAI, path: str) -> None:
    """Each object of a list is what its own route tells, in every field and in their order."""
    listed: Any = client.get(path, cast_to=object)
    assert listed["data"]
    for one in listed["data"]:
        retrieved: Any = client.get(f"{path}/{one['id']}", cast_to=object)
        assert json.dumps(one) == json.dumps(retrieved)
