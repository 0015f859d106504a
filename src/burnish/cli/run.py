"""From rows to a verdict: train, measure base and tuned, decide, write the report.

Example: burnish run recipe.yaml --set training.epochs=2
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
    decision_exit,
    overrides,
    print_matrix,
    print_verdict,
    resumable,
)
from burnish.recipe import explain, load_recipe
from burnish.terminal import Terminal


def command(
    recipe: Annotated[str, typer.Argument(help="a recipe file")],
    settings: Set = None,
    name: Name = None,
    output: Output = None,
    resume: Resume = False,
    drop_bad: DropBad = False,
    as_json: Json = False,
    explained: Annotated[
        bool, typer.Option("--explain", help="print each value with its origin; run nothing")
    ] = False,
) -> None:
    chosen = load_recipe(recipe, overrides(settings, name, output, drop_bad))
    if explained and as_json:
        shown = {key: {"value": value, "origin": origin} for key, value, origin in explain(chosen)}
        print(json.dumps(shown))
        return
    if explained:
        for key, value, origin in explain(chosen):
            line = f"{key:28} {value!s:32} {origin}"
            Terminal(highlight=False).print(line, markup=False, soft_wrap=True)
        return
    with resumable(chosen):
        from burnish import pipeline
        from burnish.stages import run_stages

        begin = run_stages if chosen.stages else pipeline.run
        directory = begin(chosen, resume=resume, quiet=as_json)
    show = print_matrix if chosen.stages else print_verdict
    show(directory, as_json=as_json)
    decision_exit(directory)
