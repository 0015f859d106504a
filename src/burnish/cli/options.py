"""Options that several verbs share, and the tables and verdicts that they print."""

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
from burnish.recipe.objectives import find_settings
from burnish.recipe.paths import expanded
from burnish.runs.directory import RunDirectory
from burnish.runs.times import shares
from burnish.terminal import Terminal, write

if TYPE_CHECKING:  # slow to import, and most verbs serve nothing
    from burnish.recipe.schema import Recipe
    from burnish.serving.jobs.process import JobRunner
    from burnish.serving.state.installation import Service, Settings

Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="set a recipe value, as in training.epochs=2 (repeatable)"),
]
Name = Annotated[str | None, typer.Option(help="name of the run and of its folder")]
Output = Annotated[str | None, typer.Option(help="folder that contains the runs")]
Resume = Annotated[bool, typer.Option("--resume", help="continue a run that was interrupted")]
DropBad = Annotated[bool, typer.Option("--drop-bad", help="leave out rows that cannot be used")]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON")]

PATH: dict[str, Any] = {"parser": expanded, "metavar": "PATH"}  # shells expand no --folder=~/x
Folder = Annotated[Path, typer.Option(**PATH, help="data folder: files, jobs, models and database")]
DatabaseUrl = Annotated[
    str | None, typer.Option(help="postgresql://USER@HOST/NAME (default: SQLite in the folder)")
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="base model, NAME or NAME=SOURCE (default: the built-in models)"),
]
Organization = Annotated[
    str,
    typer.Option(help="organization part of tuned model names (ft:BASE:ORGANIZATION:SUFFIX:ID)"),
]
EngineName = Annotated[
    Literal["local", "ray"], typer.Option(help="run jobs on this machine or on a Ray cluster")
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="address of the Ray cluster (default: RAY_ADDRESS, or Ray on this machine)",
    ),
]
SERVED = Path("burnish-data")

# The minimum width of sentences; a table is as wide as it needs to be.
_TEXT_WIDTH, _ANY_WIDTH = 110, 10_000
_COLOURS = {"release": "green", "hold": "red", "inconclusive": "yellow"}


def overrides(
    settings: Sequence[str] | None, name: str | None, output: str | None, drop_bad: bool
) -> dict[str, Any]:
    """Returns the recipe values that the options set, by dotted key.

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
    """Returns the settings of a server: its folder, base models, and recipe values for every job.

    Raises:
        UserError: the organization's name cannot be part of a model's name.
        ModelError: a model does not exist.
        RecipeError: a recipe value has an unknown key or is invalid.
    """
    from burnish.models.registry import BUILT_IN, ENCODER, resolve
    from burnish.recipe.schema import build_recipe, changed_recipe
    from burnish.serving.state.installation import Settings

    recipe = overrides(given, None, None, drop_bad=False)
    rows = {"data": {"train": "rows.jsonl"}}  # a placeholder, because each job has its own file
    built = changed_recipe(build_recipe(rows, recipe_keys=set(), command_keys=set()), recipe)

    pairs = [one.partition("=") for one in models or ()]
    bases = {name: source or name for name, _, source in pairs}
    if bases.get(ENCODER, ENCODER) != ENCODER:
        raise UserError(
            f"--model gives the name {ENCODER} to {bases[ENCODER]}",
            f"choose another name, because the embedding model is always served as {ENCODER}",
            code="name_reserved",
            name=ENCODER,
            source=bases[ENCODER],
        )
    # The encoder is always served, and it generates no text, so it cannot be a base model.
    embedders = {ENCODER, *(name for name in bases if bases[name] == ENCODER)}
    bases = {name: source for name, source in bases.items() if name not in embedders}
    for source in bases.values():
        if source not in BUILT_IN:  # report a typing mistake now, not to the first client
            resolve(source)
    if not re.fullmatch(r"[A-Za-z0-9._-]+", organization):
        raise UserError(
            f"{organization!r} is not a valid name for an organization",
            "use letters, digits, dots, dashes and underscores",
            code="bad_name",
            key="organization",
            value=cut(organization),
        )
    settings = Settings(
        folder,
        organization,
        recipe=recipe,
        stops=built.model_settings.stop_tokens,
        thinking=built.model_settings.thinking,
        embedders=tuple(sorted(embedders)),
    )
    return replace(settings, models=bases) if bases else settings


def service_in(folder: Path, database: str | None) -> "Service":
    """Opens the existing server data in a folder; a mistyped folder is an error, not a new server.

    Raises:
        UserError: the folder has no database of a server, or the database cannot be opened.
    """
    from burnish.serving.state.installation import SQLITE, Settings, open_service

    if database is None and not (folder / SQLITE).is_file():
        raise UserError(
            f"{folder} does not contain the database of a server",
            "pass the same --folder or --database as to `burnish serve`",
            code="database_missing",
            path=str(folder),
        )
    return open_service(Settings(folder), database)


def engine_of(engine: str, cluster: str | None) -> "JobRunner":
    """Returns the runner that starts jobs on this machine or on a Ray cluster.

    Raises:
        UserError: Ray is not installed, or `cluster` is set although the engine is not `ray`.
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
    """Prints the ledger as a table and the verdict with its reasons, or both as JSON."""
    verdict, ledger = run.verdict(), run.ledger()
    if as_json:
        rows = [asdict(row) for row in ledger]
        shown = {"run": str(run.path), "verdict": asdict(verdict), "ledger": rows}
        levels = [asdict(choice) for choice in run.levels()]
        print(json.dumps(shown | {"levels": levels, "seconds": run.manifest().times}))
        return
    console = _print_table(_ledger_table(run))
    console.print(f"[bold {_COLOURS[verdict.decision]}]{verdict.decision}[/]")
    if verdict.headline:
        name, gain = verdict.headline
        console.print(
            f"  [bold]{name} {gain:+.1f} points[/]: target gain, certified within the budget"
        )
    for reason in verdict.reasons:
        console.print(f"  {reason}", markup=False)
    parity = read_parity(run.path)
    if parity is not None and parity.comparisons:
        console.print(f"  {parity.sentence}", markup=False)
    print_times(run)
    console.print(f"\nread   {run.path / 'report.html'}", markup=False)
    settings = find_settings(run.manifest().recipe["objective"])
    rewards = settings is not None and settings.head is not None and settings.head.kind == "reward"
    next_step = f"use    grpo.reward: {run.path}" if rewards else f"try    burnish chat {run.path}"
    if run.adapter.exists():  # a comparison has no model of its own
        console.print(next_step, markup=False)
    if verdict.decision != "release" and (run.path / "frontier.json").exists():
        console.print(f"fix    burnish heal {run.path}", markup=False)


def _print_table(table: Table) -> Terminal:
    """Prints a table uncut, even in a narrow terminal; returns a console for the text after it."""
    whole, console = Terminal(highlight=False), Terminal(highlight=False)
    whole.width = _ANY_WIDTH
    whole.width = max(console.width, whole.measure(table).maximum)
    whole.print(table)
    console.width = max(console.width, _TEXT_WIDTH)
    return console


@contextmanager
def going_on(*, quiet: bool) -> Iterator[None]:
    """For verbs that continue where they stopped when the command is repeated."""
    last_words = "burnish: stopped; repeat the command to continue"
    try:
        with answered_interrupts(last_words, quiet=quiet):
            yield
    except (InterruptedRunError, KeyboardInterrupt) as error:
        message = f"burnish: {str(error) or 'stopped'}; repeat the command to continue"
        write(message, error=True)
        raise typer.Exit(130) from error


@contextmanager
def resumable(recipe: "Recipe", *, quiet: bool) -> Iterator[None]:
    """For verbs that leave a run to resume when they are stopped, or nothing at all."""
    last_words = "burnish: stopped; resume with the same command plus --resume"
    try:
        with answered_interrupts(last_words, quiet=quiet):
            yield
    except KeyboardInterrupt as error:
        folder = recipe.output / recipe.name
        if not folder.exists():
            message = "burnish: stopped before the run was created; repeat the command to start it"
            write(message, error=True)
            raise typer.Exit(130) from error
        untrained = not recipe.stages and not any((folder / "checkpoints").glob("step-*"))
        when = " before the first training step" if untrained else ""
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
    """Exits with 0 for release, and with 1 for hold or inconclusive."""
    raise typer.Exit(0 if run.verdict().decision == "release" else 1)


def _ledger_table(run: RunDirectory) -> Table:
    table = Table(title=f"{run.manifest().name}: base and tuned model, with 95% intervals")
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
    """Prints the results on every test set after each stage, with their change from the base."""
    from burnish.pipeline.stages import results_matrix

    results = results_matrix(run.ledger())
    verdict = run.verdict()
    if as_json:
        ledger = [asdict(row) for row in run.ledger()]
        shown = {"run": str(run.path), "ledger": ledger, "verdict": asdict(verdict)}
        print(json.dumps(shown | {"seconds": run.manifest().times}))
        return
    stages = list(results)
    title = f"{run.manifest().name}: each test set after each stage (95% interval of the change)"
    table = Table(title=title)
    for column in ("test set", "metric", "base", *(f"after {stage}" for stage in stages)):
        table.add_column(column, justify="left" if column in ("test set", "metric") else "right")
    for name, rows in results.items():
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
