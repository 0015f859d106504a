"""Run the built-in example: sort the messages to a support desk into 22 queues.

The run is written to runs/support-routing in the current folder. The exit code is 0, whatever the
verdict is.

Example: burnish demo
"""

from pathlib import Path
from typing import Annotated

import typer

import burnish
from burnish.cli.options import Json, Resume, Set, overrides, print_verdict, resumable
from burnish.errors import RunError
from burnish.progress import phase
from burnish.recipe.schema import Recipe, load_recipe
from burnish.runs.atomic import remove_directory
from burnish.runs.directory import RunDirectory
from burnish.runs.lock import alone_in

RECIPE = Path(burnish.__file__).parent / "recipes" / "support-routing" / "recipe.yaml"


def command(
    settings: Set = None,
    resume: Resume = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="delete the run of an earlier demo and start again")
    ] = False,
    as_json: Json = False,
) -> None:
    recipe = load_recipe(RECIPE, overrides(settings, None, None, drop_bad=False))
    _make_way(recipe, resume=resume, restart=restart)
    with resumable(recipe, quiet=as_json):
        with phase("starting"):
            from burnish.pipeline import verbs

        run = verbs.run(recipe, resume=resume, quiet=as_json)
    print_verdict(run, as_json=as_json)


def _make_way(recipe: Recipe, *, resume: bool, restart: bool) -> None:
    """Deletes the run of an earlier demo if the user wants to start again.

    Raises:
        RunError: the folder of the demo exists, and the user has not chosen between resuming and
            restarting; or it is not a run, or another process works in it.
    """
    if resume and restart:
        raise RunError(
            "--resume and --restart exclude each other",
            "use only one of them",
            code="options_exclude_each_other",
            options=["--resume", "--restart"],
        )
    path = recipe.output / recipe.name
    if resume or not path.is_dir() or not any(path.iterdir()):
        return
    if not (path / "manifest.json").exists():
        raise RunError(
            f"{path} already exists and is not a run",
            "call `burnish demo` in another folder",
            code="output_exists",
            path=str(path),
        )
    if not restart:
        again = "add --restart to delete it and start again"
        finished = (path / "verdict.json").exists()
        raise RunError(
            f"{path} already holds {'a finished' if finished else 'an unfinished'} demo",
            f"read {path / 'report.html'}, or {again}" if finished else f"add --resume, or {again}",
            code="run_exists",
            path=str(path),
        )
    with alone_in(RunDirectory(path)):
        remove_directory(path)
