"""The server as it is started: refusals, TLS, its log, and an end that keeps its promises."""

import gc
import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest

from burnish.serving.app.listen import Address, check, listen
from burnish.serving.catalog.server import open_server
from burnish.serving.state import keys
from burnish.serving.state.installation import Settings, open_service
from tests.refused import refused
from tests.rows import chats
from tests.serving.conftest import quick

HELLO: Any = [{"role": "user", "content": "where is my secret parcel"}]
# Put before every process of the server: what goes elsewhere than this machine is written down.
WATCH = """
import os, sys
def watch(event, values):
    if event == "socket.connect" and isinstance(values[1], tuple):
        place = str(values[1][0])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        place = str(values[0])
    else:
        return
    if not place.startswith(("127.", "::1", "localhost", "None")):
        with open(os.environ["OUTGOING"], "a") as file:
            file.write(f"{event} {place}\\n")
sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 127.0.0.1, signed by itself; its key lies beside it."""
    folder = tmp_path_factory.mktemp("tls")
    made = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"), "-days", "2"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subprocess.run(["openssl", "req", *kind, *made, *names], check=True, capture_output=True)
    return folder / "cert.pem"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_others_need_a_key(tmp_path: Path, host: str) -> None:
    service = open_service(Settings(tmp_path))
    with service.database.writing() as session:
        with refused("no_api_keys", host=host):
            check(Address(host, free_port()), session)
        key, _ = keys.make(session, "cli", "bot", ["infer"])
        check(Address("0.0.0.0", free_port()), session)
        keys.revoke(session, "cli", key.id)
        with refused("no_api_keys", host=host):
            check(Address(host, free_port()), session)
        check(Address("127.0.0.1", free_port()), session)
    service.close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_tls_needs_both_files(tmp_path: Path, certificate: Path) -> None:
    service = open_service(Settings(tmp_path))
    with service.database.reading() as session:
        with refused("half_of_tls"):
            check(Address(certificate=certificate), session)
        with refused("file_missing", path=str(tmp_path / "none")):
            check(Address(certificate=certificate, key=tmp_path / "none"), session)
    service.close()


def watched(folder: Path) -> dict[str, str]:
    """The environment of a process whose outgoing connections end up in `outgoing`."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WATCH)
    (folder / "outgoing").touch()
    return {
        "PYTHONPATH": f"{folder}:{Path(__file__).parents[3] / 'src'}",
        "OUTGOING": str(folder / "outgoing"),
        "OMP_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
    }


def test_the_watch_sees_what_goes_out(tmp_path: Path) -> None:
    program = "import socket; s = socket.socket(); s.setblocking(False); s.connect_ex({place})"
    for place in (("127.0.0.1", 9), ("192.0.2.1", 9)):
        words = [sys.executable, "-c", program.format(place=place)]
        folder = tmp_path / place[0]
        subprocess.run(words, env=watched(folder), check=True)
        seen = (folder / "outgoing").read_text()
        assert seen == ("" if place[0].startswith("127.") else "socket.connect 192.0.2.1\n")


@contextmanager
def started(
    *words: str, folder: Path, model: Path
) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    port = free_port()
    command = ["serve", "--folder", str(folder / "data"), "--model", f"tiny={model}", *words]
    environment = watched(folder)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "burnish.cli", *command, "--port", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=environment,
        )
    try:
        yield process, port
    finally:
        process.kill()
        process.wait()


def wait_for(client: httpx2.Client, address: str) -> None:
    ends = time.monotonic() + 90
    while True:
        try:
            if client.get(address).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        assert time.monotonic() < ends, "it never listened"
        time.sleep(0.1)


def lines(folder: Path) -> list[dict[str, Any]]:
    told = (folder / "log").read_text().splitlines()
    return [json.loads(line) for line in told if line.startswith("{")]


def test_tls_a_quiet_log_and_an_orderly_end(
    tmp_path: Path, tiny_folder: Path, certificate: Path
) -> None:
    tls = ["--tls-cert", str(certificate), "--tls-key", str(certificate.with_name("key.pem"))]
    trusted = ssl.create_default_context(cafile=str(certificate))
    folder = tmp_path / "server"
    with (
        started(*tls, folder=folder, model=tiny_folder) as (process, port),
        httpx2.Client(verify=trusted) as http,
        openai.OpenAI(
            api_key="none", base_url=f"https://127.0.0.1:{port}/v1", http_client=http, max_retries=0
        ) as client,
    ):
        wait_for(http, f"https://127.0.0.1:{port}/health")
        with pytest.raises(httpx2.TransportError), httpx2.Client() as stranger:
            stranger.get(f"https://127.0.0.1:{port}/health")  # signed by nobody that it knows
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("my-secret-parcel")
        client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=4)
        slow = client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=400, n=16, stream=True, logit_bias={"2": -100}
        )
        first = next(iter(slow))
        process.send_signal(signal.SIGTERM)
        refused = wait_for_refusal(client)
        ends = [choice.finish_reason for chunk in slow for choice in chunk.choices]
        assert process.wait(30) == 0
    assert first.choices
    assert (refused.status_code, refused.code) == (503, "shutting_down")
    assert refused.response.headers["retry-after"] == "1"
    assert ends.count("length") == 16
    assert (folder / "outgoing").read_text() == ""
    assert "secret" not in (folder / "log").read_text()
    done = [line for line in lines(folder) if line["event"] == "request"]
    assert {line["status"] for line in done} == {200, 404, 503}
    assert done[-1]["generated_tokens"] == 16 * 400


def test_a_job_beside_the_server_and_an_end_of_both(tmp_path: Path, tiny_folder: Path) -> None:
    given = quick(tmp_path, tiny_folder, checkpoints=2).recipe
    words = [
        word for key, value in given.items() for word in ("--set", f"{key}={json.dumps(value)}")
    ]
    folder = tmp_path / "server"
    with (
        started(*words, folder=folder, model=tiny_folder) as (process, port),
        httpx2.Client() as http,
        openai.OpenAI(api_key="none", base_url=f"http://127.0.0.1:{port}/v1") as client,
    ):
        wait_for(http, f"http://127.0.0.1:{port}/health")
        assert http.head(f"http://127.0.0.1:{port}/health").status_code == 200
        file = client.files.create(file=("rows.jsonl", chats(20)), purpose="fine-tune")
        jobs = client.fine_tuning.jobs
        job = jobs.create(model="tiny", training_file=file.id, hyperparameters={"n_epochs": 1})
        ends = time.monotonic() + 120
        while (job := jobs.retrieve(job.id)).status not in ("succeeded", "failed"):
            assert time.monotonic() < ends, "it never ended"
            time.sleep(0.2)
        assert job.status == "succeeded", job.error
        answer = client.chat.completions.create(
            model=str(job.fine_tuned_model), messages=HELLO, max_tokens=2
        )
        assert answer.model == job.fine_tuned_model
        (worker,) = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not worker.is_running()
    assert (folder / "outgoing").read_text() == ""


def test_collections_pass_over_what_was_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def look(_: object) -> None:
        seen.extend((gc.get_freeze_count(), len(gc.get_objects())))

    monkeypatch.setattr("uvicorn.Server.run", look)
    server = open_server(Settings(tmp_path))
    imported = len(gc.get_objects())
    try:
        listen(server, Address())
    finally:
        gc.unfreeze()
        server.close()
    passed_over, looked_at = seen
    assert passed_over > 0.9 * imported
    assert looked_at < 0.1 * imported


def wait_for_refusal(client: openai.OpenAI) -> openai.APIStatusError:
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        try:
            client.models.list()
        except openai.APIStatusError as error:
            return error
    raise AssertionError("it was never refused")
