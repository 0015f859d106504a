"""Run the fine-tuning jobs of a server; several workers can share one folder or database.

Example: burnish worker --folder burnish-data
"""

import signal
import sys
from typing import Annotated

import typer

from burnish.cli.options import (
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


def command(
    folder: Folder = SERVED,
    database: DatabaseUrl = None,
    model: Models = None,
    organization: Organization = "local",
    job_settings: Set = None,
    engine: EngineName = "local",
    cluster: RayAddress = None,
    parent: Annotated[int | None, typer.Option(help="exit when this process id ends")] = None,
) -> None:
    from burnish.processes import die_with
    from burnish.serving import log
    from burnish.serving.jobs.worker import Worker
    from burnish.serving.state.installation import open_service

    if parent is not None:
        die_with(parent)
    runs = engine_of(engine, cluster)
    log.write_all_to(sys.stderr)
    service = open_service(settings_of(folder, model, job_settings, organization), database)
    worker = Worker(service, engine=runs)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()
    service.close()
