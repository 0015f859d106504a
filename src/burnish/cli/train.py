"""Train without evaluating; run `burnish evaluate` later to evaluate and decide.

Example: burnish train recipe.yaml --resume
"""

import json
from typing import Annotated

import typer

from burnish.cli.options import (
    DropBad,
    Json,
    Name,
    Output,
    Resume,
    Set,
    overrides,
    print_times,
    resumable,
)
from burnish.progress import phase
from burnish.recipe.schema import load_recipe
from burnish.terminal import write


def command(
    recipe: Annotated[str, typer.Argument(help="a recipe file")],
    settings: Set = None,
    name: Name = None,
    output: Output = None,
    resume: Resume = False,
    drop_bad: DropBad = False,
    as_json: Json = False,
) -> None:
    chosen = load_recipe(recipe, overrides(settings, name, output, drop_bad))
    with resumable(chosen, quiet=as_json):
        with phase("starting"):
            from burnish.pipeline.train import train

        directory = train(chosen, resume=resume, quiet=as_json)
    if as_json:
        manifest = directory.manifest()
        print(
            json.dumps(
                {
                    "run": str(directory.path),
                    "training": manifest.training,
                    "seconds": manifest.times,
                }
            )
        )
        return
    print_times(directory)
    write(f"trained {directory.path}")
    write(f"next   burnish evaluate {directory.path}")
