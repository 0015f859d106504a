"""Run quick correctness checks on the model, rows and settings of a run, without training it.

Example: burnish preflight recipe.yaml --set training.gradient_accumulation=4
"""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from burnish.cli.options import DropBad, Json, Set, overrides
from burnish.recipe.schema import load_recipe
from burnish.terminal import Terminal, write


def command(
    recipe: Annotated[str, typer.Argument(help="a recipe file")],
    settings: Set = None,
    drop_bad: DropBad = False,
    as_json: Json = False,
) -> None:
    chosen = load_recipe(recipe, overrides(settings, None, None, drop_bad))
    from burnish.pipeline import verbs
    from burnish.preflight import MARKS, raise_on_failure

    checks = verbs.preflight(chosen, quiet=as_json)
    if as_json:
        print(json.dumps({"checks": [asdict(check) for check in checks]}))
        raise_on_failure(checks)
        return
    table = Table("", "check", "measurement")
    for check in checks:
        table.add_row(MARKS[check.passed], escape(check.name), escape(check.figure))
    Terminal(highlight=False).print(table)
    raise_on_failure(checks)
    write(f"next   burnish run {recipe}")
