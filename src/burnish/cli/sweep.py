"""Search hyperparameters for the best result on the task within the forgetting budget.

Each trial is a run in runs/NAME-sweep. It is scored by its validation loss and by its drop on a
fixed part of the general suite; the test set is not used. A trial whose drop exceeds budget.general
never wins, and a trial that falls behind is stopped early. Repeat the command to continue after an
interruption, or repeat it with a larger --trials to add trials.

The recipe names the values to search: two numbers are a range, a longer list is a choice.

    sweep: {space: {training.learning_rate: [1e-4, 3e-3], lora.rank: [8, 16, 32]}}

Example: burnish sweep recipe.yaml --trials 12
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from burnish.cli.options import DropBad, Json, Name, Output, Set, going_on, overrides
from burnish.errors import quantity
from burnish.recipe.schema import load_recipe
from burnish.terminal import Terminal

if TYPE_CHECKING:
    from burnish.sweep.search import SweepResult, Trial


def command(
    recipe: Annotated[str, typer.Argument(help="a recipe file")],
    trials: Annotated[int, typer.Option(min=1, help="total number of trials")] = 12,
    settings: Set = None,
    name: Name = None,
    output: Output = None,
    drop_bad: DropBad = False,
    as_json: Json = False,
) -> None:
    chosen = load_recipe(recipe, overrides(settings, name, output, drop_bad))
    from burnish.sweep.search import run_sweep

    with going_on(quiet=as_json):
        result = run_sweep(chosen, trials, quiet=as_json)
    options = [f"--set={setting}" for setting in settings or ()]
    options += [f"--name={name}"] if name else []
    options += [f"--output={output}"] if output else []
    options += ["--drop-bad"] if drop_bad else []
    command_to_run = _next_command(recipe, options, result.best)
    if as_json:
        rows = [asdict(trial) for trial in result.trials]
        best = result.best.number if result.best else None
        search = {"folder": str(result.folder), "budget": result.budget}
        print(json.dumps(search | {"trials": rows, "best": best, "next": command_to_run}))
    else:
        _print(result, command_to_run)
    raise typer.Exit(0 if result.best else 1)


def _next_command(recipe: str, options: Sequence[str], best: "Trial | None") -> str | None:
    """The command that runs the best settings, with the options of this search."""
    if best is None:
        return None
    chosen = [f"{key}={value}" for key, value in best.settings.items()]
    sets = [word for setting in chosen for word in ("--set", setting)]
    return shlex.join(["burnish", "run", recipe, *options, *sets])


def _print(result: "SweepResult", command_to_run: str | None) -> None:
    console = Terminal(highlight=False)
    console.width = max(console.width, 110)
    console.print(_table(result))
    if result.best is None:
        budget = result.budget
        within = f" within the budget of {quantity(budget, 'point')}" if budget else ""
        console.print(f"[bold red]no trial finished{within}[/]")
        console.print(
            "  lower the learning rates or the epochs in sweep.space, or raise the budget"
        )
        return
    chosen = ", ".join(f"{key}={value}" for key, value in result.best.settings.items())
    console.print(f"best   trial {result.best.number}: {chosen}", markup=False)
    console.print(f"see    {result.folder / 'trials.html'}", markup=False)
    console.print(f"next   {command_to_run}", markup=False, soft_wrap=True)


def _table(result: "SweepResult") -> Table:
    from burnish.sweep.search import format_drop

    title = f"{result.folder.name}: lowest validation loss"
    if result.budget is not None:
        title += f" with a drop of at most {quantity(result.budget, 'point')}"
    keys = list(dict.fromkeys(key for trial in result.trials for key in trial.settings))
    table = Table("trial", *keys, "validation loss", "drop (95% interval)", "state", title=title)
    for trial in result.trials:
        best = trial is result.best
        table.add_row(
            str(trial.number),
            *(str(trial.settings.get(key, "–")) for key in keys),
            "–" if trial.validation is None else f"{trial.validation:.4f}",
            "–" if trial.general is None else format_drop(trial.general),
            "best" if best else trial.describe_state(),
            style="bold green" if best else None,
        )
    return table
