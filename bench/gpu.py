"""Burnish on a GPU: training against TRL and Unsloth, the engine against vLLM, and CPU parity.

    bash bench/gpu.sh [--minutes 10] [--output gpu.md] [--tiny]

Models have random weights and are built from configurations, so nothing is downloaded. Each
measurement is a process of its own with the time that is left, and the table is written again after
each, so that whatever stops the program leaves what was measured. `--tiny` runs every part with
small models on a CPU, to try the program itself.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# The longest that one measurement may take.
_PART_SECONDS = 150
_INSTALLED = {"trl": "trl", "unsloth": "unsloth", "vllm": "vllm"}


@dataclass(frozen=True)
class Part:
    """One measurement: a kind of work, a size of model, and the program that does it."""

    kind: str
    size: str
    side: str

    @property
    def missing(self) -> str | None:
        """Why it cannot be measured here."""
        package = _INSTALLED.get(self.side)
        if package and importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
        return None


def parts(*, tiny: bool) -> Iterator[Part]:
    """The small models first, so that a short time gives a row of each kind."""
    sizes = ("tiny",) if tiny else ("0.1B", "1B", "8B")
    yield Part("parity", sizes[0], "burnish")
    for size in sizes:
        for kind in ("sft", "dpo"):
            yield Part(kind, size, "burnish")
            yield Part(kind, size, "trl")
        # Unsloth reads its models from a folder, which would take minutes to write for 8B.
        if size != "8B":
            yield Part("sft", size, "unsloth")
        yield Part("engine", size, "burnish")
        yield Part("engine", size, "vllm")


def measured(part: Part, seconds: float) -> dict[str, Any]:
    """What a process of its own measures, or why it did not."""
    if reason := part.missing:
        return {"failed": reason}
    if seconds < 5:
        return {"failed": "no time was left"}
    command = [sys.executable, __file__, "--part", part.kind, part.size, part.side]
    limit = min(seconds, _PART_SECONDS)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {limit:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        out_of_memory = next((x for x in lines if "OutOfMemoryError" in x), None)
        return {"failed": "out of memory" if out_of_memory else lines[-1][:160]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def table(found: dict[Part, dict[str, Any]], machine: str) -> str:
    """All results as Markdown."""
    lines = [f"# Burnish on {machine}", ""]
    lines += ["| work | model | program | tokens/s | peak memory, GiB |", "|---|---|---|---:|---:|"]
    notes = []
    for part, result in found.items():
        name = f"{part.kind}, {part.size}, {part.side}"
        if "failed" in result:
            notes.append(f"- {name}: not measured, {result['failed']}")
        elif part.kind == "parity":
            notes += [f"- parity of {key}: {value}" for key, value in result.items()]
        else:
            memory = f"{result['peak_mb'] / 1024:.2f}"
            rate = f"{result['tokens_per_second']:.0f}"
            lines.append(f"| {part.kind} | {part.size} | {part.side} | {rate} | {memory} |")
    ratios = list(compared(found))
    if ratios:
        lines += ["", "| work | model | against | times the speed | share of the memory |"]
        lines += ["|---|---|---|---:|---:|", *ratios]
    return "\n".join([*lines, "", *notes, ""])


def compared(found: dict[Part, dict[str, Any]]) -> Iterator[str]:
    """A row for each program that did what Burnish did."""
    for part, theirs in found.items():
        ours = found.get(Part(part.kind, part.size, "burnish"), {})
        if part.side == "burnish" or "failed" in theirs or "tokens_per_second" not in ours:
            continue
        speed = ours["tokens_per_second"] / theirs["tokens_per_second"]
        memory = ours["peak_mb"] / theirs["peak_mb"]
        yield f"| {part.kind} | {part.size} | {part.side} | {speed:.2f} | {memory:.2f} |"


def measure_all(given: argparse.Namespace) -> None:
    """Measures until all is done or the time is over."""
    started = time.monotonic()
    machine = "a CPU, tiny models" if given.tiny else torch.cuda.get_device_name()
    found: dict[Part, dict[str, Any]] = {}
    for part in parts(tiny=given.tiny):
        left = 60 * given.minutes - (time.monotonic() - started)
        found[part] = measured(part, left)
        print(f"# {part.kind:7} {part.size:5} {part.side:8} {json.dumps(found[part])}", flush=True)
        new = given.output.with_name(given.output.name + ".new")
        new.write_text(table(found, machine), encoding="utf-8")
        new.replace(given.output)
    print(f"the table is in {given.output}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--output", type=Path, default=Path("gpu.md"))
    parser.add_argument("--tiny", action="store_true", help="try every part on a CPU")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        from gpu_parts import run

        print(json.dumps(run(*given.part)))
    elif not given.tiny and not torch.cuda.is_available():
        raise SystemExit(
            "torch does not find a GPU: run this program on a machine with CUDA and a build of "
            "torch for it, or try it with --tiny"
        )
    else:
        measure_all(given)


if __name__ == "__main__":
    main()
