"""Train, evaluate the base model and the tuned model, decide, and write the report.

Example: burnish run recipe.yaml --set training.epochs=2
"""

import json
from dataclasses import asdict
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
from burnish.errors import RecipeError
from burnish.progress import phase
from burnish.recipe.keys import recipe_keys
from burnish.recipe.schema import explain, load_recipe
from burnish.terminal import Terminal


def command(
    recipe: Annotated[str | None, typer.Argument(help="a recipe file")] = None,
    settings: Set = None,
    name: Name = None,
    output: Output = None,
    resume: Resume = False,
    drop_bad: DropBad = False,
    as_json: Json = False,
    explained: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="print every value and its origin (without a recipe: every key) and exit",
        ),
    ] = False,
) -> None:
    if recipe is None:
        if not explained or settings or name or output or resume or drop_bad:
            remedy = "pass a recipe file, or see its keys with `burnish run --explain`"
            raise RecipeError("the recipe file is missing", remedy, code="no_recipe")
        _print_keys(as_json=as_json)
        return
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
    with resumable(chosen, quiet=as_json):
        with phase("starting"):
            from burnish.pipeline import verbs
            from burnish.pipeline.stages import run_stages

        begin = run_stages if chosen.stages else verbs.run
        directory = begin(chosen, resume=resume, quiet=as_json)
    show = print_matrix if chosen.stages else print_verdict
    show(directory, as_json=as_json)
    decision_exit(directory)


def _print_keys(*, as_json: bool) -> None:
    """Prints every key of a recipe with its default and its meaning."""
    if as_json:
        print(json.dumps({one.key: asdict(one) for one in recipe_keys()}))
        return
    console = Terminal(highlight=False)
    for one in recipe_keys():
        default = one.default if isinstance(one.default, str) else json.dumps(one.default)
        line = f"{one.key:28} {'(required)' if one.required else default:14} {one.meaning}"
        console.print(line, markup=False, soft_wrap=True)
