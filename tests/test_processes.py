"""Ctrl-C is answered at once, by real signals to real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish.processes import let_threads_sleep

# The main thread computes for minutes in one call, during which Python runs no handler.
COMPUTING = """
import hashlib
from burnish.processes import answered_interrupts
from burnish.progress import phase
from burnish.training.signals import stop_requests
with answered_interrupts("last words", quiet=True):
    {context}
        print("computing", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", 1_000_000_000)
"""
STEP = 'with stop_requests(lambda: "finishing step 8, then saving"):'
ANSWERS = 'with phase("base answers"):'


@pytest.fixture
def started(request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[str]"]:
    program = COMPUTING.format(context=request.param)
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "computing\n"
        time.sleep(0.3)  # until it does
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("started", "answer"),
    [(STEP, "finishing step 8, then saving"), (ANSWERS, "finished answers are saved")],
    indirect=["started"],
)
def test_ctrl_c_is_answered_while_a_step_computes_and_a_second_one_ends_it(
    started: "subprocess.Popen[str]", answer: str
) -> None:
    assert started.stderr is not None
    for _ in range(2):  # as `timeout` does, which signals the process and its group
        started.send_signal(signal.SIGINT)
    sent = time.monotonic()
    assert answer in started.stderr.readline()
    assert time.monotonic() - sent < 2
    time.sleep(0.6)
    assert started.poll() is None
    started.send_signal(signal.SIGINT)
    assert started.wait(timeout=5) == 130
    assert "last words" in started.stderr.read()


def test_nothing_is_left_behind(capfd: pytest.CaptureFixture[str]) -> None:
    from burnish.processes import answered_interrupts
    from burnish.progress import phase

    def interrupted() -> None:
        with answered_interrupts("last words", quiet=True), phase("preflight"):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "preflight: it starts again" in capfd.readouterr().err
    assert signal.set_wakeup_fd(-1) == -1


def test_training_says_which_step_it_finishes(tiny_folder: Path, tmp_path: Path) -> None:
    """The whole command: the checkpoint is written, and the code is 130."""
    rows = [f'{{"prompt": "question {i}", "completion": "answer {i}"}}\n' for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    (tmp_path / "recipe.yaml").write_text(
        f"name: long\nmodel: {tiny_folder}\ndata: {{train: rows.jsonl}}\n"
        "training: {epochs: 2000, learning_rate: 0.001}\nevaluate: {general: null}\n"
    )
    command = [sys.executable, "-m", "burnish.cli", "run", "recipe.yaml"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        events = tmp_path / "runs" / "long" / "events.jsonl"
        while not (events.exists() and '"train"' in events.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        message = process.stderr.read()
        assert process.wait() == 130
    assert "finishing step" in message
    assert "press Ctrl-C again" in message
    assert any((tmp_path / "runs" / "long" / "checkpoints").glob("step-*"))


SPINS = "import os, burnish; print(os.environ.get('GOMP_SPINCOUNT'))"


def spins_of(own: dict[str, str]) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GOMP", "OMP"))}
    # With a flag of its own, Python starts anew; a fork would have imported Burnish already.
    command = [sys.executable, "-s", "-c", SPINS]
    return subprocess.check_output(command, env=kept | own, text=True).strip()


@pytest.mark.parametrize(
    ("own", "count"),
    [({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_how_threads_wait_is_the_choice_of_the_user(own: dict[str, str], count: str) -> None:
    assert spins_of(own) == count


@pytest.mark.parametrize("inherited", [{}, {"GOMP_SPINCOUNT": "20000"}])
def test_beside_busy_programs_waiting_threads_sleep_at_once(inherited: dict[str, str]) -> None:
    loop = [sys.executable, "-S", "-c", "while True: pass"]
    loops = [subprocess.Popen(loop) for _ in range((os.cpu_count() or 1) + 2)]
    try:
        assert spins_of(inherited) == "1000"
    finally:
        for each in loops:
            each.kill()
            each.wait()


@pytest.mark.parametrize(
    ("running", "count"), [(1, "20000"), (2, "20000"), (3, "1000"), (9, "1000"), (None, "20000")]
)
def test_the_load_that_is_seen_decides_how_threads_wait(
    running: int | None, count: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "garbled" if running is None else f"0.10 0.20 0.30 {running}/132 4711"
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "environ", {})
    let_threads_sleep()
    assert os.environ == {"GOMP_SPINCOUNT": count}


def test_a_job_has_a_low_priority(tmp_path: Path) -> None:
    """So that a server's answers do not wait for its training jobs."""
    program = (
        "import os\nfrom burnish.serving.jobs import run_recipe\n"
        "run_recipe.work = lambda recipe: os.nice(0)\n"
        "print(run_recipe.main([str(os.getppid()), 'recipe.yaml']) - {before})"
    )
    before = os.nice(0)
    text = subprocess.check_output([sys.executable, "-c", program.format(before=before)], text=True)
    assert int(text) == min(10, 19 - before)
