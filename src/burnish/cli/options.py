"""Options that several verbs share, and what they print."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from burnish.errors import InterruptedRunError, RecipeError, UserError, cut
from burnish.parity.record import read_parity
from burnish.processes import answered_interrupts
from burnish.recipe.paths import expanded
from burnish.runs.directory import RunDirectory
from burnish.runs.times import shares
from burnish.terminal import Terminal, write

if TYPE_CHECKING:  # slow to import, and most verbs serve nothing
    from burnish.recipe.schema import Recipe
    from burnish.serving.jobs.process import JobRunner
    from burnish.serving.state.installation import Service, Settings

Set = Annotated[
    list[str] | None, typer.Option("--set", help="a recipe value, as in training.epochs=2")
]
Name = Annotated[str | None, typer.Option(help="name of the run's folder")]
Output = Annotated[str | None, typer.Option(help="folder that holds the runs")]
Resume = Annotated[bool, typer.Option("--resume", help="go on where the run stopped")]
DropBad = Annotated[bool, typer.Option("--drop-bad", help="go on without bad rows")]
Json = Annotated[bool, typer.Option("--json", help="print JSON for a program")]

PATH: dict[str, Any] = {"parser": expanded, "metavar": "PATH"}  # shells expand no --folder=~/x
Folder = Annotated[
    Path, typer.Option(**PATH, help="holds what lasts: files, jobs, models, database")
]
DatabaseUrl = Annotated[
    str | None, typer.Option(help="postgresql://USER@HOST/NAME; else SQLite in the folder")
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="base model, NAME or NAME=SOURCE; else the built-in ones"),
]
Organization = Annotated[
    str, typer.Option(help="in the names of tuned models, ft:BASE:ORGANIZATION:SUFFIX:ID")
]
EngineName = Annotated[
    Literal["local", "ray"], typer.Option(help="where jobs run: this machine, or a Ray cluster")
]
RayAddress = Annotated[
    str | None,
    typer.Option("--address", help="of the Ray cluster; else RAY_ADDRESS, or Ray on this machine"),
]
SERVED = Path("burnish-data")

# At least so many columns for sentences; a table has as many as it needs.
_TEXT_WIDTH, _ANY_WIDTH = 110, 10_000
_COLOURS = {"release": "green", "hold": "red", "inconclusive": "yellow"}


def overrides(
    settings: Sequence[str] | None, name: str | None, output: str | None, drop_bad: bool
) -> dict[str, Any]:
    """Dotted recipe values of the command line.

    Raises:
        RecipeError: a `--set` has no equals sign.
    """
    from burnish.recipe.schema import Recipe
    from burnish.recipe.settings import read_setting

    values: dict[str, Any] = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals:
            raise RecipeError(
                f"--set {cut(setting)} has no value",
                "write it as key=value",
                code="no_value",
                value=cut(setting),
            )
        values[key] = read_setting(Recipe, key, value)
    named = {"name": name, "output": output, "data.drop_bad": drop_bad or None}
    return values | {key: value for key, value in named.items() if value is not None}


def settings_of(
    folder: Path,
    models: Sequence[str] | None,
    given: Sequence[str] | None = None,
    organization: str = "local",
) -> "Settings":
    """The installation in a folder, with these base models, and recipe values for every job.

    Raises:
        UserError: the organization's name would not fit into a model's.
        ModelError: there is no such model.
        RecipeError: there is no such key, or its value is impossible.
    """
    from burnish.models.registry import BUILT_IN, ENCODER, resolve
    from burnish.recipe.schema import build_recipe, changed_recipe
    from burnish.serving.state.installation import Settings

    recipe = overrides(given, None, None, drop_bad=False)
    rows = {"data": {"train": "rows.jsonl"}}  # stands in: each job brings its own
    built = changed_recipe(build_recipe(rows, recipe_keys=set(), command_keys=set()), recipe)

    pairs = [one.partition("=") for one in models or ()]
    bases = {name: source or name for name, _, source in pairs}
    if bases.get(ENCODER, ENCODER) != ENCODER:
        raise UserError(
            f"--model gives the name {ENCODER} to {bases[ENCODER]}",
            f"choose another name: the embedding model is always served as {ENCODER}, too",
            code="name_reserved",
            name=ENCODER,
            source=bases[ENCODER],
        )
    # It is served in any case, and writes nothing that could be tuned.
    embedders = {ENCODER, *(name for name in bases if bases[name] == ENCODER)}
    bases = {name: source for name, source in bases.items() if name not in embedders}
    for source in bases.values():
        if source not in BUILT_IN:  # a typing mistake is told now, not to the first client
            resolve(source)
    if not re.fullmatch(r"[A-Za-z0-9._-]+", organization):
        raise UserError(
            f"the organization is {organization!r}",
            "name it with letters, digits, dots and dashes",
            code="bad_name",
            key="organization",
            value=cut(organization),
        )
    stops = built.model_settings.stop_tokens
    names = tuple(sorted(embedders))
    found = Settings(folder, organization, recipe=recipe, stops=stops, embedders=names)
    return replace(found, models=bases) if bases else found


def service_in(folder: Path, database: str | None) -> "Service":
    """The installation that is there; a mistyped folder is none, and must not look like an empty
    one.

    Raises:
        UserError: there is none in the folder, or its database cannot be opened.
    """
    from burnish.serving.state.installation import SQLITE, Settings, open_service

    if database is None and not (folder / SQLITE).is_file():
        raise UserError(
            f"there is no server's database in {folder}",
            "name with --folder what `burnish serve` was given, or its --database",
            code="database_missing",
            path=str(folder),
        )
    return open_service(Settings(folder), database)


def engine_of(engine: str, cluster: str | None) -> "JobRunner":
    """
    Raises:
        UserError: Ray is not installed, or an address is given for another engine.
    """
    from burnish.serving.jobs.process import LOCAL, ray_runner

    if engine == "ray":
        return ray_runner(cluster)
    if cluster:
        raise UserError(
            f"--address is {cluster}, but the engine is {engine}",
            "add --engine ray",
            code="option_unused",
            option="--address",
            value=cluster,
        )
    return LOCAL


def print_verdict(run: RunDirectory, *, as_json: bool) -> None:
    """The ledger as a table and the verdict in words; or all of it as JSON."""
    verdict, ledger = run.verdict(), run.ledger()
    if as_json:
        rows = [asdict(row) for row in ledger]
        shown = {"run": str(run.path), "verdict": asdict(verdict), "ledger": rows}
        print(json.dumps(shown | {"seconds": run.manifest().times}))
        return
    console = _print_table(_ledger_table(run))
    console.print(f"[bold {_COLOURS[verdict.decision]}]{verdict.decision}[/]")
    if verdict.headline:
        name, gain = verdict.headline
        console.print(f"  [bold]{name} {gain:+.1f} points[/]: target gain certified in the budget")
    for reason in verdict.reasons:
        console.print(f"  {reason}", markup=False)
    parity = read_parity(run.path)
    if parity is not None and parity.comparisons:
        console.print(f"  {parity.sentence}", markup=False)
    print_times(run)
    console.print(f"\nread   {run.path / 'report.html'}", markup=False)
    rewards = run.manifest().recipe["objective"] == "reward"
    following = f"use    grpo.reward: {run.path}" if rewards else f"try    burnish chat {run.path}"
    if run.adapter.exists():  # a comparison has no model of its own
        console.print(following, markup=False)
    if verdict.decision != "release" and (run.path / "frontier.json").exists():
        console.print(f"fix    burnish heal {run.path}", markup=False)


def _print_table(table: Table) -> Terminal:
    """A narrow terminal wraps the table rather than cuts it. Returns a console for what follows."""
    whole, console = Terminal(highlight=False), Terminal(highlight=False)
    whole.width = _ANY_WIDTH
    whole.width = max(console.width, whole.measure(table).maximum)
    whole.print(table)
    console.width = max(console.width, _TEXT_WIDTH)
    return console


@contextmanager
def going_on(*, quiet: bool) -> Iterator[None]:
    """For verbs that, stopped, go on where they were when they are given again."""
    last_words = "burnish: stopped; resume with the same command"
    try:
        with answered_interrupts(last_words, quiet=quiet):
            yield
    except (InterruptedRunError, KeyboardInterrupt) as error:
        write(f"burnish: {str(error) or 'stopped'}; go on with the same command", error=True)
        raise typer.Exit(130) from error


@contextmanager
def resumable(recipe: "Recipe", *, quiet: bool) -> Iterator[None]:
    """For verbs that, stopped, leave a run to go on with, or nothing at all."""
    last_words = "burnish: stopped; resume with the same command and --resume"
    try:
        with answered_interrupts(last_words, quiet=quiet):
            yield
    except KeyboardInterrupt as error:
        folder = recipe.output / recipe.name
        if not folder.exists():
            message = "burnish: stopped before the run began, so nothing was kept; "
            write(message + "give the same command again", error=True)
            raise typer.Exit(130) from error
        untrained = not recipe.stages and not any((folder / "checkpoints").glob("step-*"))
        when = " before the first step, so nothing was trained yet" if untrained else ""
        raise InterruptedRunError("stopped" + when) from error


def print_times(run: RunDirectory) -> None:
    """A table of the seconds and the share of each phase; nothing where none was timed."""
    times = run.manifest().times
    if not times:
        return
    table = Table(title="where the time went")
    for column in ("phase", "seconds", "share"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for name, share in shares(times).items():
        table.add_row(name, f"{times[name]:.1f}", f"{share:.1%}")
    table.add_section()
    table.add_row("all phases", f"{sum(times.values()):.1f}", "100.0%")
    _print_table(table)


def decision_exit(run: RunDirectory) -> None:
    """0 for release, 1 for hold or inconclusive."""
    raise typer.Exit(0 if run.verdict().decision == "release" else 1)


def _ledger_table(run: RunDirectory) -> Table:
    table = Table(title=f"{run.manifest().name}: base against tuned, 95 % intervals")
    for column in ("task", "metric", "n", "base", "tuned", "change", "interval", "lost", "gained"):
        table.add_column(
            column, justify="left" if column in ("task", "metric") else "right", no_wrap=True
        )
    for row in run.ledger():
        plain = row.metric in ("nats/token", "perplexity", "KL nats/token")
        scale, form = (1.0, "z.3f") if plain else (100.0, "z.1f")
        values = [format(value * scale, form) for value in (row.base, row.tuned)]
        change = [format(value * scale, "+" + form) for value in (row.delta, row.low, row.high)]
        flips = ["–" if value is None else str(value) for value in (row.lost, row.gained)]
        interval = f"{change[1]} to {change[2]}"
        table.add_row(row.task, row.metric, str(row.n), *values, change[0], interval, *flips)
    return table


def print_matrix(run: RunDirectory, *, as_json: bool) -> None:
    """Each stage's test set after each stage, with the interval of its change from base."""
    from burnish.pipeline.stages import results_matrix

    found = results_matrix(run.ledger())
    verdict = run.verdict()
    if as_json:
        ledger = [asdict(row) for row in run.ledger()]
        shown = {"run": str(run.path), "ledger": ledger, "verdict": asdict(verdict)}
        print(json.dumps(shown | {"seconds": run.manifest().times}))
        return
    stages = list(found)
    table = Table(title=f"{run.manifest().name}: each test set after each stage, change from base")
    for column in ("test set", "metric", "base", *(f"after {stage}" for stage in stages)):
        table.add_column(column, justify="left" if column in ("test set", "metric") else "right")
    for name, rows in found.items():
        first = next(iter(rows.values()))
        times = 1 if first.metric == "perplexity" else 100
        cells = [
            f"{times * row.tuned:.1f} ({times * row.low:+z.1f} to {times * row.high:+z.1f})"
            if (row := rows.get(stage))
            else "–"
            for stage in stages
        ]
        table.add_row(name, first.metric, f"{times * first.base:.1f}", *cells)
    console = _print_table(table)
    console.print(f"[bold {_COLOURS[verdict.decision]}]{verdict.decision}[/]")
    for reason in verdict.reasons:
        console.print(f"  {reason}", markup=False)
    print_times(run)
    lineage = run.manifest().lineage
    last = (lineage["kept"] or lineage["stages"])[-1]
    write(f"\nread   {last}/report.html\ntry    burnish chat {last}")
