"""A job on a real Ray of two processes: killed, paused, gone on with, and taken back."""

import importlib.util
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from safetensors.torch import load_file

import burnish
from burnish.serving.jobs.process import ray_runner
from burnish.serving.jobs.worker import Worker
from burnish.serving.state.installation import Service, Settings
from burnish.training.checkpoint import saved_steps
from tests.refused import refused
from tests.rows import chats

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is an extra that is not installed"
)
CLUSTER = """
import sys, ray
ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=80 << 20)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator["Cluster"]:
    """Nobody who lacks the token may use it: Ray listens on every address of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout
        yield Cluster(process.pid, process.stdout.readline().decode().strip())
        process.communicate()


class Cluster:
    def __init__(self, pid: int, address: str) -> None:
        self.pid, self.address = pid, address

    def workers(self) -> list[psutil.Process]:
        """The processes that learn."""
        found = []
        for one in psutil.Process(self.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found += [one] if one.name().startswith("ray::RayTrain") else []
        return found


@pytest.fixture
def settings(tuning: Settings) -> Settings:
    shared = {"training.workers": 2, "training.fsdp": True}
    return replace(tuning, recipe={**tuning.recipe, **shared})


@contextmanager
def working(service: Service, cluster: Cluster) -> Iterator[None]:
    worker = Worker(service, engine=ray_runner(cluster.address))
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()


def wait_for(true: Callable[[], Any], seconds: float = 300) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.05)


def begun(client: openai.OpenAI, rows: bytes, epochs: int) -> str:
    """A job's name. Its rate is so low that rounding has no time to grow."""
    file = client.files.create(file=("rows.jsonl", rows), purpose="fine-tune")
    own = {"n_epochs": epochs, "batch_size": 2, "learning_rate_multiplier": 0.001}
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": own}}
    jobs = client.fine_tuning.jobs
    return jobs.create(model="tiny", training_file=file.id, method=method).id


@needs_ray
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_killed_and_paused_on_ray_a_job_learns_what_one_process_learns(
    client: openai.OpenAI,
    service: Service,
    cluster: Cluster,
    tmp_path: Path,
) -> None:
    jobs, job = client.fine_tuning.jobs, begun(client, chats(40), epochs=24)
    folder = service.settings.job_folder(job)

    def said(words: str) -> bool:
        return any(words in event.message for event in jobs.list_events(job, limit=1000))

    with working(service, cluster):
        wait_for(lambda: saved_steps(folder / "run" / "checkpoints"))
        _, second = cluster.workers()
        second.kill()
        wait_for(lambda: said("Resumed from step"))
        jobs.pause(job)
        wait_for(lambda: said("Fine-tuning job paused"))
        wait_for(lambda: not cluster.workers())
        jobs.resume(job)
        wait_for(lambda: jobs.retrieve(job).status not in ("queued", "running"))
    done = jobs.retrieve(job)
    assert done.status == "succeeded", done.error
    events = [e.data for e in jobs.list_events(job, limit=1000) if e.type == "metrics"][::-1]
    assert [data["step"] for data in events if data] == list(range(1, len(events) + 1))

    alone = {"training.workers": 1, "training.fsdp": False, "output": str(tmp_path / "alone")}
    one = burnish.train(folder / "recipe.yaml", quiet=True, **alone)
    wanted = load_file(one.adapter / "adapter_model.safetensors")
    found = load_file(folder / "run" / "adapter" / "adapter_model.safetensors")
    assert max(float((found[n] - value).abs().max()) for n, value in wanted.items()) <= 1e-5
    assert all(value.any() for value in wanted.values())


@needs_ray
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_cancelled_on_ray_a_job_ends_there(
    client: openai.OpenAI,
    service: Service,
    cluster: Cluster,
) -> None:
    job = begun(client, chats(40), epochs=50)
    with working(service, cluster):
        wait_for(cluster.workers)
        client.fine_tuning.jobs.cancel(job)
        wait_for(lambda: not cluster.workers())
    assert client.fine_tuning.jobs.retrieve(job).status == "cancelled"


def test_without_ray_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with refused("not_installed", package="ray"):
        ray_runner()
