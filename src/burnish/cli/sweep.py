"""Search the settings that learn the task best inside the forgetting budget.

Each trial is a run in runs/NAME-sweep, scored by its validation loss and by the drop on a fixed
share of the general suite; the test set is not touched. A trial whose drop is beyond budget.general
never wins, and one that lies behind is stopped early. The same command goes on after an
interruption, and a larger --trials adds to it.

What is searched stands in the recipe, two numbers for a range, a longer list for a choice:
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
from burnish.recipe.schema import load_recipe
from burnish.terminal import Terminal

if TYPE_CHECKING:
    from burnish.sweep.search import SweepResult, Trial


def command(
    recipe: Annotated[str, typer.Argument(help="a recipe file")],
    trials: Annotated[int, typer.Option(min=1, help="trials in all")] = 12,
    settings: Set = None,
    name: Name = None,
    output: Output = None,
    drop_bad: DropBad = False,
    as_json: Json = False,
) -> None:
    chosen = load_recipe(recipe, overrides(settings, name, output, drop_bad))
    from burnish.sweep.search import run_sweep

    with going_on(quiet=as_json):
        found = run_sweep(chosen, trials, quiet=as_json)
    given = [f"--set={setting}" for setting in settings or ()]
    given += [f"--name={name}"] if name else []
    given += [f"--output={output}"] if output else []
    given += ["--drop-bad"] if drop_bad else []
    following = _next(recipe, given, found.best)
    if as_json:
        rows = [asdict(trial) for trial in found.trials]
        best = found.best.number if found.best else None
        place = {"folder": str(found.folder), "budget": found.budget}
        print(json.dumps(place | {"trials": rows, "best": best, "next": following}))
    else:
        _print(found, following)
    raise typer.Exit(0 if found.best else 1)


def _next(recipe: str, given: Sequence[str], best: "Trial | None") -> str | None:
    """The run with the best settings, and with what the search was given."""
    if best is None:
        return None
    chosen = [f"{key}={value}" for key, value in best.settings.items()]
    sets = [word for setting in chosen for word in ("--set", setting)]
    return shlex.join(["burnish", "run", recipe, *given, *sets])


def _print(found: "SweepResult", following: str | None) -> None:
    console = Terminal(highlight=False)
    console.width = max(console.width, 110)
    console.print(_table(found))
    if found.best is None:
        within = f" within the budget of {found.budget:g} points" if found.budget else ""
        console.print(f"[bold red]no trial was finished{within}[/]")
        console.print(
            "  lower the learning rates or the epochs of sweep.space, or raise the budget"
        )
        return
    chosen = ", ".join(f"{key}={value}" for key, value in found.best.settings.items())
    console.print(f"best   trial {found.best.number}: {chosen}", markup=False)
    console.print(f"see    {found.folder / 'trials.html'}", markup=False)
    console.print(f"next   {following}", markup=False, soft_wrap=True)


def _table(found: "SweepResult") -> Table:
    from burnish.sweep.search import format_drop

    title = f"{found.folder.name}: lowest validation loss"
    if found.budget is not None:
        title += f" with a drop of at most {found.budget:g} points"
    keys = list(dict.fromkeys(key for trial in found.trials for key in trial.settings))
    table = Table("trial", *keys, "validation", "drop (95 % interval)", "state", title=title)
    for trial in found.trials:
        best = trial is found.best
        table.add_row(
            str(trial.number),
            *(str(trial.settings.get(key, "–")) for key in keys),
            "–" if trial.validation is None else f"{trial.validation:.4f}",
            "–" if trial.general is None else format_drop(trial.general),
            "best" if best else trial.describe_state(),
            style="bold green" if best else None,
        )
    return table
