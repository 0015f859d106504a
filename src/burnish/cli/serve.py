"""Serve base and tuned models, files and fine-tuning jobs through the OpenAI API.

The official client works with it unchanged but for its base_url.

Example: burnish serve --folder burnish-data --port 8000
"""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from burnish.cli.options import (
    PATH,
    SERVED,
    DatabaseUrl,
    EngineName,
    Folder,
    Models,
    Organization,
    RayAddress,
    Set,
    engine_of,
    settings_of,
)
from burnish.errors import UserError
from burnish.terminal import Terminal


def command(
    folder: Folder = SERVED,
    host: Annotated[str, typer.Option(help="other than loopback needs API keys")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    model: Models = None,
    organization: Organization = "local",
    database: DatabaseUrl = None,
    tls_cert: Annotated[Path | None, typer.Option(**PATH, help="certificate file")] = None,
    tls_key: Annotated[Path | None, typer.Option(**PATH, help="its key file")] = None,
    record: Annotated[bool, typer.Option("--record", help="log prompts and answers, too")] = False,
    worker: Annotated[bool, typer.Option(help="start a worker for fine-tuning jobs")] = True,
    backend: Annotated[
        Literal["transformers", "vllm"], typer.Option(help="what computes answers")
    ] = "transformers",
    vllm_url: Annotated[str | None, typer.Option(help="of vLLM's API, ending in /v1")] = None,
    connections: Annotated[
        int, typer.Option(min=1, help="most connections from one address")
    ] = 512,
    given: Set = None,
    engine: EngineName = "local",
    cluster: RayAddress = None,
    graders: Annotated[int, typer.Option(min=1, help="graders that compute at once")] = 2,
    grader_memory: Annotated[float, typer.Option(min=0.25, help="GiB for all graders")] = 4.0,
    grader_seconds: Annotated[
        float, typer.Option(min=1, help="seconds of grading per key and minute")
    ] = 60.0,
) -> None:
    from burnish.serving import log
    from burnish.serving.app.connections import ConnectionLimits
    from burnish.serving.app.listen import Address, check, embedded_worker, listen
    from burnish.serving.catalog.server import base_opener, models_without_stop_token, open_server
    from burnish.serving.state.installation import GradingBounds

    names = [one.partition("=")[0] for one in model or ()]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(
            f"--model {twice} is given twice",
            "give each model a name of its own",
            code="duplicate_name",
            model=twice,
        )
    grading = GradingBounds(graders, round(grader_memory * (1 << 30)), grader_seconds)
    settings = settings_of(folder, model, given, organization)
    settings = replace(settings, record=record, grading=grading)
    runs = engine_of(engine, cluster)
    log.write_all_to(sys.stderr)
    server = open_server(settings, database, opened=base_opener(settings, backend, vllm_url))
    address = Address(host, port, tls_cert, tls_key)
    with server.database.reading() as session:
        check(address, session)
    console = Terminal(highlight=False, stderr=True)
    console.print(f"serve  {address.url}  {', '.join(settings.models)}", markup=False)
    for warning in models_without_stop_token(settings):
        console.print(f"warning  {warning}", style="yellow", markup=False)
    console.print(f'try    openai.OpenAI(base_url="{address.url}", api_key="none")', markup=False)
    with embedded_worker(settings, database, runs) if worker else contextlib.nullcontext():
        listen(server, address, connection_limits=ConnectionLimits(each=connections))
