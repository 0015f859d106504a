"""Estimate the steps, time, memory and disk space of a run from a few measured steps.

Example: burnish plan recipe.yaml --device cuda --json
"""

import json
from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from burnish.cli.options import DropBad, Json, Name, Output, Set, overrides
from burnish.recipe.schema import load_recipe
from burnish.terminal import Terminal, write


def command(
    recipe: Annotated[str, typer.Argument(help="a recipe file")],
    settings: Set = None,
    name: Name = None,
    output: Output = None,
    device: Annotated[
        Literal["cuda"] | None,
        typer.Option(help="estimate memory for CUDA even without a GPU here"),
    ] = None,
    drop_bad: DropBad = False,
    as_json: Json = False,
) -> None:
    pick_items = load_recipe(recipe, overrides(settings, name, output, drop_bad))
    from burnish.pipeline import verbs
    from burnish.plan import one_line

    plan = verbs.plan(pick_items, device=device, quiet=as_json)
    if as_json:
        print(json.dumps(plan.as_dict()))
        return
    Terminal(highlight=False).print(_table(plan))
    if plan.targets:
        write(plan.targets)
    for sentence in plan.power:
        write(sentence)
    write(one_line(plan))
    write(f"next   burnish preflight {recipe}, then burnish run {recipe}")


def _table(plan: Any) -> Table:
    from burnish.plan.estimate import duration, gib

    table = Table("", "total", "details", title=plan.device)
    split = ", ".join(f"{name} {count}" for name, count in plan.rows.items())
    table.add_row("rows", str(sum(plan.rows.values())), split)
    table.add_row("steps", str(plan.steps), "")
    table.add_row("tokens", f"{plan.tokens:,}", f"{plan.learnt_tokens:,} of them trained on")
    if plan.seconds is not None:
        parts = ", ".join(f"{name} {duration(value)}" for name, value in plan.seconds.items())
        table.add_row("time", duration(sum(plan.seconds.values())), parts)
    if plan.peak is not None:
        table.add_row("memory", gib(plan.peak), "measured peak of the sampled steps and items")
    parts = ", ".join(f"{name} {gib(value)}" for name, value in asdict(plan.memory).items())
    if plan.workers > 1:
        parts += f"; for each of {plan.workers} workers"
    table.add_row("computed memory", gib(plan.memory.total), parts)
    used = ", as the run trains" if plan.checkpointing else ""
    table.add_row("", gib(plan.checkpointed), f"with activation checkpointing{used}")
    checkpoints = f"{plan.disk.checkpoints} checkpoints of {gib(plan.disk.checkpoint)}"
    optimizers = f"2 optimizer states of {gib(plan.disk.optimizer)}"
    parts = f"{checkpoints}, {optimizers}, released weights, results"
    table.add_row("disk", gib(plan.disk.total), parts)
    return table
