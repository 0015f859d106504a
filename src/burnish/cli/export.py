"""Write a run's model for other tools: merged weights, a PEFT adapter, or a GGUF file.

Example: burnish export runs/support-routing --as gguf --type q8_0
"""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from burnish.cli.options import PATH, Json
from burnish.terminal import write

_JUDGED = {
    "release": "release",
    "hold": "hold: NOT RELEASED, `burnish report {run}` says why",
    "inconclusive": "inconclusive: NOT RELEASED, `burnish report {run}` says why",
    None: "never: NOT RELEASED, `burnish evaluate {run}` reaches a verdict",
}
_LOADED_BY = {
    "merged": "transformers: AutoModelForCausalLM.from_pretrained({target!r})",
    "head": "transformers, with the class that its config.json names: from_pretrained({target!r})",
    "peft": "peft: PeftModel.from_pretrained(base, {target!r})",
    "gguf": "llama.cpp: llama-server --model {target}",
}


def command(
    run: Annotated[str, typer.Argument(help="a run folder")],
    form: Annotated[
        Literal["merged", "peft", "gguf"], typer.Option("--as", help="for which tool")
    ] = "merged",
    output: Annotated[
        Path | None,
        typer.Option(**PATH, help="a folder that is not there yet; of GGUF also a file"),
    ] = None,
    precision: Annotated[
        Literal["f32", "f16", "q8_0"] | None,
        typer.Option("--type", help="of the matrices in GGUF", show_default="f32"),
    ] = None,
    as_json: Json = False,
) -> None:
    from burnish.errors import RunError
    from burnish.export.export import export
    from burnish.models.lineage import recipe_of
    from burnish.recipe.schema import HEADS
    from burnish.runs.directory import RunDirectory

    directory = RunDirectory.open(run)
    if precision is not None and form != "gguf":
        seen = f"--type is {precision}, and with --as {form} weights keep their own type"
        raise RunError(
            seen,
            "leave it out, or choose --as gguf",
            code="type_without_gguf",
            type=precision,
            form=form,
        )
    judged = (directory.path / "verdict.json").exists()
    decision = directory.verdict().decision if judged else None
    target = export(directory, form, output, precision or "f32")
    if as_json:
        told = {"run": run, "form": form, "output": str(target), "verdict": decision}
        print(json.dumps(told))
        return
    objective = recipe_of(directory.manifest()).objective
    with_head = objective in HEADS or objective == "reward"
    kind = "head" if with_head and form == "merged" else form
    write(f"wrote  {target}")
    write(f"judged {_JUDGED[decision].format(run=run)}")
    write(f"load   {_LOADED_BY[kind].format(target=str(target))}")
    if not with_head:
        write(f"next   burnish parity {run}" + (f" --gguf {target}" if form == "gguf" else ""))
