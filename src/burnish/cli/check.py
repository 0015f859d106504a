"""Check rows as a run would read them: print findings, split sizes and the tokens to be trained on.

Takes a data file or a recipe. The options set recipe values, so that you can try what a finding
advises before you run it. The command printed at the end has the same values.

Example: burnish check support.jsonl --columns label=category --show 3
Example: burnish check recipe.yaml --system "Sort the message into one queue."
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.markup import escape
from rich.text import Text

from burnish.cli.options import DropBad, Json, Set, overrides
from burnish.errors import RecipeError, UserError, shown
from burnish.terminal import Terminal

if TYPE_CHECKING:
    from burnish.pipeline.prepare import CheckedData
    from burnish.recipe.schema import Recipe

_COLOURS = {"error": "red", "warning": "yellow", "info": "dim"}
_RECIPES = (".yaml", ".yml")
_SPLITS = ("train", "validation", "test")


def command(
    data: Annotated[
        str, typer.Argument(help="a recipe, or a data file: JSON, CSV, Parquet, Arrow or text")
    ],
    model: Annotated[
        str | None,
        typer.Option(help="model that tokenizes the rows (default: smollm2-135m)"),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="training objective: sft, lm, dpo, kto, grpo, classify, tag or reward "
            "(default: sft)"
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(help="a field and its column, as in label=category (repeatable)"),
    ] = None,
    system: Annotated[str | None, typer.Option(help="system message added to every row")] = None,
    tools: Annotated[
        str | None, typer.Option(help="JSON file of functions that every row may call")
    ] = None,
    settings: Set = None,
    show: Annotated[
        int,
        typer.Option(min=0, help="number of training rows to print, with trained tokens in colour"),
    ] = 0,
    drop_bad: DropBad = False,
    as_json: Json = False,
) -> None:
    if show and as_json:
        raise UserError(
            f"--show is {show}, but --json does not print rows",
            "leave out --show or --json",
            code="options_exclude_each_other",
            options=["--show", "--json"],
            value=show,
        )
    named = {"model": model, "objective": objective, "data.system": system, "data.tools": tools}
    values = overrides(settings, None, None, drop_bad)
    values |= {key: value for key, value in named.items() if value is not None}
    values |= _columns(columns or ())
    from burnish.pipeline import verbs

    recipe = verbs.recipe_to_check(data, values)
    checked = _checked(recipe)
    next_command = _next(data, values)
    if as_json:
        print(json.dumps(_as_json(checked) | {"next": next_command}))
        return
    console = Terminal(highlight=False, emoji=False)  # a label may contain `:cat:`
    _print(checked, console)
    own = next(iter(checked.values()))  # the recipe's own data set, or the first stage's
    for row in own.rendered["train"][:show]:
        console.print(_coloured(row, verbs.tokenizer_of(recipe.model)))
    console.print(f"next     {next_command}", markup=False, soft_wrap=True)


def _checked(recipe: "Recipe") -> dict[str, "CheckedData"]:
    """Checks each data set of the recipe, by name; those of a stage are named after the stage."""
    from burnish.pipeline import verbs

    if not recipe.stages:
        return verbs.check_recipe(recipe)
    from burnish.pipeline.stages import stage_recipes

    return {
        f"stage {stage.name}" + (f", {name}" if name else ""): part
        for stage in stage_recipes(recipe)
        for name, part in verbs.check_recipe(stage).items()
    }


def _columns(given: Sequence[str]) -> dict[str, str]:
    """Returns the recipe values of `--columns`: `label=category`, several pairs separated by
    commas, or the braces that a finding prints.

    Raises:
        RecipeError: a field or a column is missing.
    """
    from burnish.recipe.files import parse_yaml

    pairs: dict[str, str] = {}
    for text in given:
        if text.lstrip().startswith("{"):
            try:
                read = parse_yaml(text)
            except yaml.YAMLError:
                read = None
            found = [(str(k), str(v)) for k, v in read.items()] if isinstance(read, dict) else None
        else:
            split = re.split(r",(?=\s*\w+=)", text)  # a column's name may hold a comma
            named = [
                (field.strip(), column) for field, _, column in (p.partition("=") for p in split)
            ]
            found = named if all(field and column for field, column in named) else None
        if found is None:
            raise RecipeError(
                f"--columns is {shown(text)}, which does not map a field to a column",
                "write it as label=category",
                code="bad_option",
                option="--columns",
                value=text,
            )
        pairs |= dict(found)
    return {f"data.columns.{field}": column for field, column in pairs.items()}


def _as_json(checked: Mapping[str, "CheckedData"]) -> dict[str, Any]:
    """The result for the recipe's own data set, and those of its tasks by name."""
    parts = {
        name: {
            "rows": _sizes(part),
            "learnt_tokens": part.learnt_tokens(),
            "findings": [finding.to_row() for finding in part.findings],
        }
        for name, part in checked.items()
    }
    first = next(iter(parts))
    others = {name: part for name, part in parts.items() if name != first}
    return parts[first] | ({"others": others} if others else {})


def _sizes(checked: "CheckedData") -> dict[str, int]:
    return {name: len(getattr(checked.dataset, name)) for name in _SPLITS}


def _print(parts: Mapping[str, "CheckedData"], console: Terminal) -> None:
    """Prints the findings and the split sizes of each data set, under its name."""
    for name, checked in parts.items():
        if name:
            console.print(f"\n{name}", markup=False)
        for finding in checked.findings:
            colour, message = _COLOURS[finding.severity], escape(finding.message)
            console.print(f"[{colour}]{finding.severity:8}[/] {message}")
        split = ", ".join(f"{name} {count}" for name, count in _sizes(checked).items())
        console.print(f"rows     {split}")


def _next(data: str, values: Mapping[str, Any]) -> str:
    """The command that runs the checked rows with the same values."""
    from burnish.recipe.schema import nested

    if Path(data).suffix.lower() in _RECIPES:
        drop = ["--drop-bad"] if values.get("data.drop_bad") else []
        chosen = {key: value for key, value in values.items() if key != "data.drop_bad"}
        given = [f"--set={_setting(key, value)}" for key, value in chosen.items()]
        return shlex.join(["burnish", "run", data, *given, *drop])
    whole = nested({"data.train": data, **values})
    flow = yaml.safe_dump(
        whole, default_flow_style=True, width=1 << 30, sort_keys=False, allow_unicode=True
    )
    return f"burnish run RECIPE with {flow.strip()[1:-1]}"


def _setting(key: str, value: Any) -> str:
    """`key=value` such that `--set` reads the same value back."""
    from burnish.recipe.schema import Recipe
    from burnish.recipe.settings import read_setting

    if isinstance(value, str) and read_setting(Recipe, key, value) == value:
        return f"{key}={value}"
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _coloured(row: Any, tokenizer: Any) -> Text:
    text = Text("\n")
    learnt = [weight > 0 for weight in row.weights]
    # An emoji or a Chinese character may have several tokens, which are only readable together.
    for yes, run in groupby(zip(learnt, row.tokens, strict=True), key=itemgetter(0)):
        tokens = [token for _, token in run]
        text.append(tokenizer.decode(tokens), style="bold green" if yes else "dim")
    return text
