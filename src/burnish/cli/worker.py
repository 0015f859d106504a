"""Work on the fine-tuning jobs of a server's folder; several workers share them.

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
    given: Set = None,
    engine: EngineName = "local",
    cluster: RayAddress = None,
    beside: Annotated[int | None, typer.Option(help="process to end with")] = None,
) -> None:
    from burnish.processes import die_with
    from burnish.serving import log
    from burnish.serving.jobs.worker import Worker
    from burnish.serving.state.installation import open_service

    if beside is not None:
        die_with(beside)
    runs = engine_of(engine, cluster)
    log.write_all_to(sys.stderr)
    service = open_service(settings_of(folder, model, given, organization), database)
    worker = Worker(service, engine=runs)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()
    service.close()
