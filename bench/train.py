"""Training speed and memory against TRL and transformers: same model, rows, LoRA and steps.

    python bench/train.py [--works sft-shared,sft-chat,...] [--repeats 3] [--steps 30]

Each run is a process of its own, one after the other, so that peak memory is each one's own. Both
peers get the tokens that Burnish learns from and the same start of the adapter. Their default takes
the rows as shuffled; their best takes the batches of like length that Burnish takes, for SFT also
without padding, and the fastest counts. Its losses must equal ours step by step. A rate counts the
tokens of the rows, neither padding nor what is saved. Prints a table and writes nothing.
"""

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

import burnish  # noqa: F401 - before torch, whose threads then wait as in every run

# isort: split
from train_works import WORKS, Work

# Losses a step; float32 sums in another order.
SAME = 1e-3
# work -> times the default's rate, times the best's, share of the smaller peak memory
AIMS = {
    "sft-shared": (4.0, 3.0, 0.8),
    "sft-chat": (1.8, 1.25, 0.7),
    "dpo": (2.5, 2.0, 0.7),
    "grpo": (3.0, 2.5, 0.7),
    "classify": (1.5, 1.1, 0.9),
}
UTILISATION_AIM = 0.7


def run_here(work: Work, side: str, steps: int) -> dict[str, Any]:
    """One side's run in this process."""
    if side == "burnish":
        from train_burnish import run
    else:
        from train_peers import run
    return run(work, side, steps)


def measured(work: str, side: str, steps: int) -> dict[str, Any]:
    """One side's run in a process of its own."""
    command = [sys.executable, __file__, "--works", work, "--side", side, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{work}, {side}: {done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compared(work: Work, steps: int, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """All runs of each side, the sides taking turns."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in work.sides}
    for repeat in range(repeats):
        for side in work.sides:
            run = measured(work.name, side, steps)
            found[side].append(run)
            print(
                f"# {repeat + 1} {work.name:11} {side:12} {run['tokens_per_second']:8.1f} tokens/s"
                f" {run['peak_mb']:7.0f} MB",
                flush=True,
            )
    return found


def row(work: Work, found: dict[str, list[dict[str, Any]]]) -> str:
    """A row of the table; each ratio with its aim in brackets."""
    rate = {side: median(runs, "tokens_per_second") for side, runs in found.items()}
    memory = {side: median(runs, "peak_mb") for side, runs in found.items()}
    peers = [side for side in work.sides if side != "burnish"]
    best = max((side for side in peers), key=lambda side: rate[side])
    difference = largest_difference(found["burnish"][0], found["grouped"][0])
    aims = AIMS[work.name]
    ratios = (
        rate["burnish"] / rate["default"],
        rate["burnish"] / rate[best],
        memory["burnish"] / min(memory[side] for side in peers),
    )
    cells = [f"{ratio:.2f} ({aim:g})" for ratio, aim in zip(ratios, aims, strict=True)]
    same = "yes" if difference < SAME else "NO"
    return (
        f"| {work.name} | {rate['burnish']:.1f} | {rate['default']:.1f} | {rate[best]:.1f} {best} "
        f"| {' | '.join(cells)} | {difference:.1e} {same} |"
    )


def median(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def largest_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    pairs = zip(ours["losses"], theirs["losses"], strict=True)
    return max(abs(a - b) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--works", default=",".join(WORKS), help=f"some of {', '.join(WORKS)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.works.split(",")) - set(WORKS):
        parser.error(f"no work {', '.join(sorted(unknown))}; there are {', '.join(WORKS)}")
    works = [WORKS[name] for name in given.works.split(",")]
    if given.side:
        print(json.dumps(run_here(works[0], given.side, given.steps)))
        return
    lines, notes = [], []
    for work in works:
        if reason := work.missing():
            notes.append(f"{work.name}: left out, {reason}")
            continue
        found = compared(work, given.steps, given.repeats)
        lines.append(row(work, found))
        if "utilisation" in found["burnish"][0]:
            shares = median(found["burnish"], "utilisation")
            machine = median(found["burnish"], "machine_gflops")
            notes.append(
                f"{work.name}: {shares:.2f} of the machine's {machine:.0f} GFLOP/s in matrix "
                f"products (aim {UTILISATION_AIM})"
            )
    head = "| work | ours, tokens/s | peer's default | peer's best | x default | x best | memory |"
    print(f"{head} largest loss difference |\n|---{'|---:' * 7}|")
    print("\n".join([*lines, "", *notes]))


if __name__ == "__main__":
    main()
