"""A job on a real Ray of two processes: killed, paused, gone on with, and taken back."""

import importlib.util
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from safetensors.torch import load_file

import burnish
from burnish.errors import UserError
from burnish.serving.process import LOCAL, on_ray
from burnish.serving.service import Service, Settings
from burnish.serving.worker import Worker
from burnish.training.checkpoint import saved_steps

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
        found = psutil.Process(self.pid).children(recursive=True)
        return [one for one in found if one.name().startswith("ray::RayTrain")]


@pytest.fixture
def settings(tuning: Settings) -> Settings:
    return replace(tuning, recipe={**tuning.recipe, "training.workers": 2})


@contextmanager
def working(service: Service, cluster: Cluster) -> Iterator[None]:
    worker = Worker(service, engine=on_ray(cluster.address))
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()


def wait_for(true: Callable[[], Any], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.05)


@needs_ray
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_job_of_two_processes_on_ray(
    client: openai.OpenAI,
    service: Service,
    cluster: Cluster,
    chat_rows: Callable[[int], bytes],
    tmp_path: Path,
) -> None:
    t0 = time.time()
    jobs = client.fine_tuning.jobs
    file = client.files.create(file=("rows.jsonl", chat_rows(40)), purpose="fine-tune")
    own = {"n_epochs": 12, "batch_size": 2, "learning_rate_multiplier": 1}
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": own}}
    job = jobs.create(model="tiny", training_file=file.id, method=method).id
    folder = service.settings.job_folder(job)
    checkpoints = folder / "run" / "checkpoints"

    def said(words: str) -> bool:
        return any(words in event.message for event in jobs.list_events(job, limit=1000))

    with working(service, cluster):
        wait_for(lambda: saved_steps(checkpoints))
        print("A", time.time() - t0)
        _, second = cluster.workers()
        second.kill()
        wait_for(lambda: said("Resumed from step"))
        print("B", time.time() - t0)
        jobs.pause(job)
        wait_for(lambda: said("Fine-tuning job paused"))
        print("C", time.time() - t0)
        wait_for(lambda: not cluster.workers())
        jobs.resume(job)
        wait_for(lambda: jobs.retrieve(job).status not in ("queued", "running"))
        print("D", time.time() - t0)
    done = jobs.retrieve(job)
    assert done.status == "succeeded", done.error
    alone = {"training.workers": 1, "output": str(tmp_path / "alone")}
    one = burnish.train(folder / "recipe.yaml", quiet=True, **alone)
    wanted = load_file(one.adapter / "adapter_model.safetensors")
    found = load_file(folder / "run" / "adapter" / "adapter_model.safetensors")
    assert max(float((found[n] - value).abs().max()) for n, value in wanted.items()) <= 1e-5


def test_without_ray_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"Ray is not installed: install it with `pip install"):
        on_ray()
    assert LOCAL
