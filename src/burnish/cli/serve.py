"""Serve base and tuned models, files and fine-tuning jobs through the OpenAI API.

OpenAI's official clients work with this server: set their base_url to its address.

Example: burnish serve --folder burnish-data --port 8000
"""

import contextlib
import sys
from collections.abc import Sequence
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
    host: Annotated[
        str, typer.Option(help="address to listen on; anything but loopback requires API keys")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen on")] = 8000,
    model: Models = None,
    organization: Organization = "local",
    database: DatabaseUrl = None,
    tls_cert: Annotated[Path | None, typer.Option(**PATH, help="TLS certificate file")] = None,
    tls_key: Annotated[Path | None, typer.Option(**PATH, help="TLS private key file")] = None,
    record: Annotated[bool, typer.Option("--record", help="also log prompts and answers")] = False,
    worker: Annotated[bool, typer.Option(help="also start a worker for fine-tuning jobs")] = True,
    backend: Annotated[
        Literal["transformers", "vllm"],
        typer.Option(help="inference backend that generates answers"),
    ] = "transformers",
    vllm_url: Annotated[
        str | None, typer.Option(help="address of vLLM's API, ending in /v1")
    ] = None,
    connections: Annotated[
        int, typer.Option(min=1, help="maximum number of connections per client address")
    ] = 512,
    job_settings: Set = None,
    engine: EngineName = "local",
    cluster: RayAddress = None,
    graders: Annotated[
        int, typer.Option(min=1, help="maximum number of graders that run at once")
    ] = 2,
    grader_memory: Annotated[
        float, typer.Option(min=0.25, help="memory limit of all graders, in GiB")
    ] = 4.0,
    grader_seconds: Annotated[
        float, typer.Option(min=1, help="grading time per key and minute, in seconds")
    ] = 60.0,
) -> None:
    from burnish.serving import log
    from burnish.serving.app.connections import ConnectionLimits
    from burnish.serving.app.listen import Address, check, embedded_worker, listen
    from burnish.serving.catalog.server import base_opener, model_warnings, open_server
    from burnish.serving.state.installation import GradingBounds

    _check_names(model or ())
    grading = GradingBounds(graders, round(grader_memory * (1 << 30)), grader_seconds)
    settings = settings_of(folder, model, job_settings, organization)
    settings = replace(settings, record=record, grading=grading)
    runs = engine_of(engine, cluster)
    log.write_all_to(sys.stderr)
    server = open_server(settings, database, opened=base_opener(settings, backend, vllm_url))
    address = Address(host, port, tls_cert, tls_key)
    with server.database.reading() as session:
        check(address, session)
    console = Terminal(highlight=False, stderr=True)
    console.print(f"serve  {address.url}  {', '.join(settings.models)}", markup=False)
    for warning in model_warnings(settings):
        console.print(f"warning  {warning}", style="yellow", markup=False)
    console.print(f'try    openai.OpenAI(base_url="{address.url}", api_key="none")', markup=False)
    with embedded_worker(settings, database, runs) if worker else contextlib.nullcontext():
        listen(server, address, connection_limits=ConnectionLimits(each=connections))


def _check_names(models: Sequence[str]) -> None:
    """
    Raises:
        UserError: two --model options have the same name.
    """
    names = [one.partition("=")[0] for one in models]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(
            f"two --model options have the name {twice}",
            "give each model a different name",
            code="duplicate_name",
            model=twice,
        )
