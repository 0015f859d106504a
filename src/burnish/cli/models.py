"""List the built-in models, their sizes, and whether they are already downloaded.

Example: burnish models --json
"""

import json

from rich.table import Table

from burnish.cli.options import Json
from burnish.models.registry import BUILT_IN, is_cached
from burnish.terminal import Terminal


def command(as_json: Json = False) -> None:
    if as_json:
        rows = [
            {"name": name, "cached": is_cached(name)}
            | {key: getattr(model, key) for key in ("about", "license", "download")}
            for name, model in BUILT_IN.items()
        ]
        print(json.dumps(rows))
        return
    table = Table("name", "downloaded", "size", "description", "licence")
    for name, model in BUILT_IN.items():
        downloaded, size = "yes" if is_cached(name) else "no", f"{model.download / 1e6:.0f} MB"
        table.add_row(name, downloaded, size, model.about, model.license)
    console = Terminal(highlight=False)
    console.print(table)
    console.print(
        "other models: hf:ORG/NAME, pypi:PACKAGE, a folder, or a .gguf file\n"
        "next   burnish check FILE --model smollm2-135m",
        markup=False,
    )
