"""A machine that is not quiet: training beside busy loops, and a job beside streamed answers.

    python bench/busy.py [--steps 2] [--repeats 3] [--loops 3] [--seconds 60]

The first part trains chat rows alone and beside `--loops` processes that never sleep, with
Burnish's thread settings and with those of OpenMP, which take turns. On two cores a process
with two threads gets 2 of 5 shares beside three loops, so 40% of the quiet speed is fair.

The second part serves SmolLM2-135M to eight streams, alone and while a fine-tuning job runs on
the same machine. Rates are ratios inside one run, so they can be compared between machines.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
from serve_programs import burnish, free_port, serving, streamed

STREAMS, MODEL = 8, "smollm2-135m"
ROWS = Path(__file__).parent.parent / "recipes" / "support-routing" / "messages.jsonl"
FAIR = 0.38  # of the quiet speed, beside three loops on two cores
LOST_WHEN_QUIET = 0.02
# OpenMP's own settings: a variable that is set to what it is by default.
SETTINGS: dict[str, dict[str, str]] = {"burnish": {}, "OpenMP": {"GOMP_SPINCOUNT": "300000"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loops", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of streams, in each state")
    given = parser.parse_args()
    training(given.steps, given.repeats, given.loops)
    serving_and_training(given.seconds, given.repeats)


def training(steps: int, repeats: int, loops: int) -> None:
    """Prints the rate of each setting, alone and beside the loops."""
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(repeats):
        for count in (0, loops):
            for name, variables in SETTINGS.items():
                with busy(count):
                    rates.setdefault((name, count), []).append(rate(steps, variables))
    medians = {key: statistics.median(values) for key, values in rates.items()}
    print("| thread settings | alone, tokens/s | beside the loops | share (aim) |")
    print("|---|---:|---:|---:|")
    for name in SETTINGS:
        alone, beside = medians[name, 0], medians[name, loops]
        print(f"| {name} | {alone:.1f} | {beside:.1f} | {beside / alone:.2f} ({FAIR}) |")
    lost = 1 - medians["burnish", 0] / medians["OpenMP", 0]
    print(f"\nlost when quiet: {lost:.1%} (aim: at most {LOST_WHEN_QUIET:.0%})\n", flush=True)


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """`count` processes that never sleep."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def rate(steps: int, variables: Mapping[str, str]) -> float:
    """Tokens per second of training on chat rows in a process of its own."""
    program = str(Path(__file__).with_name("train.py"))
    command = [sys.executable, program, "--works", "sft-chat", "--side", "burnish"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "GOMP"))}
    done = subprocess.run(
        [*command, "--steps", str(steps)],
        capture_output=True,
        text=True,
        check=True,
        env=environment | variables,
    )
    return float(json.loads(done.stdout.splitlines()[-1])["tokens_per_second"])


def serving_and_training(seconds: float, repeats: int) -> None:
    """Prints what a job and eight streams keep of their speed when they share the machine."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        # Only the job's steps are measured.
        plain = ("--set", "replay.rows=0", "--set", "training.preflight=false")
        command = burnish(Path(folder) / "data", port, "--model", MODEL, *plain)
        command.remove("--no-worker")
        with serving(command, port, Path(folder) / "log") as server:
            print("| measured | alone | together | share |\n|---|---:|---:|---:|")
            tokens, steps = asyncio.run(_measured(server.url, seconds, repeats))
    for name, (alone, together) in {"streams, tokens/s": tokens, "job, steps/s": steps}.items():
        print(f"| {name} | {alone:.1f} | {together:.1f} | {together / alone:.2f} |")


async def _measured(
    url: str, seconds: float, repeats: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Streams alone and with the job, then the job with the streams and alone; medians."""
    found: list[tuple[float, float, float, float]] = []
    async with httpx2.AsyncClient(timeout=600) as client:
        for _ in range(repeats):
            streams = await _streams(client, url, seconds)
            job = await _started_job(client, url)
            first = await _step(client, url, job)
            together = await _streams(client, url, seconds)
            second, began = await _step(client, url, job), time.monotonic()
            await asyncio.sleep(seconds)
            third = await _step(client, url, job)
            alone = (third - second) / (time.monotonic() - began)
            found.append((streams, together, alone, (second - first) / seconds))
            await client.post(f"{url}/fine_tuning/jobs/{job}/cancel")
    a, b, c, d = (statistics.median(values) for values in zip(*found, strict=True))
    return (a, b), (c, d)


async def _streams(client: httpx2.AsyncClient, url: str, seconds: float) -> float:
    """Tokens per second of eight streams that ask again as soon as they are answered."""
    ends = time.monotonic() + seconds
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "where is my parcel"}],
        "max_tokens": 64,
        "stream": True,
        "stream_options": {"include_usage": True},
    }

    async def one() -> int:
        tokens = 0
        while time.monotonic() < ends:
            tokens += (await streamed(client, url, body)).tokens
        return tokens

    started = time.monotonic()
    counts = await asyncio.gather(*(one() for _ in range(STREAMS)))
    return sum(counts) / (time.monotonic() - started)


async def _started_job(client: httpx2.AsyncClient, url: str) -> str:
    """The id of a job that has taken its first step.

    Raises:
        RuntimeError: the job ended before.
    """
    answer = await client.post(
        f"{url}/files",
        data={"purpose": "fine-tune"},
        files={"file": ("rows.jsonl", chat_rows())},
    )
    settings = {"supervised": {"hyperparameters": {"n_epochs": 50}}, "type": "supervised"}
    made = await client.post(
        f"{url}/fine_tuning/jobs",
        json={"model": MODEL, "training_file": answer.json()["id"], "method": settings},
    )
    job = made.json()
    while not await _step(client, url, job["id"]):
        await asyncio.sleep(1)
        job = (await client.get(f"{url}/fine_tuning/jobs/{job['id']}")).json()
        if job["status"] in ("failed", "succeeded", "cancelled"):
            raise RuntimeError(f"the job is {job['status']}: {job['error']}")
    return str(job["id"])


def chat_rows() -> str:
    """The rows of the recipe support-routing as conversations, in JSON Lines."""
    rows = (json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines())
    return "\n".join(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": row["text"]},
                    {"role": "assistant", "content": row["label"]},
                ]
            }
        )
        for row in rows
    )


async def _step(client: httpx2.AsyncClient, url: str, job: str) -> int:
    """The last step that the job has reported."""
    answer = await client.get(f"{url}/fine_tuning/jobs/{job}/events", params={"limit": 20})
    steps = [event["data"].get("step", 0) for event in answer.json()["data"] if event.get("data")]
    return max(steps, default=0)


if __name__ == "__main__":
    main()
