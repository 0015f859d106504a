"""Export a run's model for other tools: merged weights, a PEFT adapter, or a GGUF file.

Example: burnish export runs/support-routing --as gguf --type q8_0
"""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from burnish.cli.options import PATH, Json
from burnish.terminal import write

_VERDICTS = {
    "release": "release",
    "hold": "hold: NOT RELEASED, run `burnish report {run}` for the reasons",
    "inconclusive": "inconclusive: NOT RELEASED, run `burnish report {run}` for the reasons",
    None: "none yet: NOT RELEASED, run `burnish evaluate {run}`",
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
        Literal["merged", "peft", "gguf"], typer.Option("--as", help="format of the export")
    ] = "merged",
    output: Annotated[
        Path | None,
        typer.Option(**PATH, help="new folder to write to (for GGUF: a folder or a file name)"),
    ] = None,
    precision: Annotated[
        Literal["f32", "f16", "q8_0"] | None,
        typer.Option("--type", help="precision of the GGUF weights (default: f32)"),
    ] = None,
    as_json: Json = False,
) -> None:
    from burnish.errors import RunError
    from burnish.export.export import export
    from burnish.models.lineage import recipe_of
    from burnish.runs.directory import RunDirectory

    directory = RunDirectory.open(run)
    if precision is not None and form != "gguf":
        seen = f"--type is {precision}, but --as {form} keeps the precision of the weights"
        raise RunError(
            seen,
            "leave out --type, or use --as gguf",
            code="type_without_gguf",
            type=precision,
            form=form,
        )
    has_verdict = (directory.path / "verdict.json").exists()
    decision = directory.verdict().decision if has_verdict else None
    target = export(directory, form, output, precision or "f32")
    if as_json:
        result = {"run": run, "form": form, "output": str(target), "verdict": decision}
        print(json.dumps(result))
        return
    with_head = not recipe_of(directory.manifest()).objective_settings.writes_text
    kind = "head" if with_head and form == "merged" else form
    write(f"wrote    {target}")
    write(f"verdict  {_VERDICTS[decision].format(run=run)}")
    write(f"load     {_LOADED_BY[kind].format(target=str(target))}")
    if not with_head:
        write(f"next     burnish parity {run}" + (f" --gguf {target}" if form == "gguf" else ""))
