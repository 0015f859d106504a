"""A server or a worker with recipe values for every job, which the command line does not take.

    python bench/serve_role.py server|worker SETTINGS

SETTINGS is JSON: `folder`, `models`, `recipe`, `lease` and, for a server, `port`.
"""

import json
import signal
import sys
from pathlib import Path

from burnish.serving.app.listen import Address, listen
from burnish.serving.catalog.server import open_server
from burnish.serving.jobs.worker import Worker
from burnish.serving.state.installation import Settings, open_service


def main() -> None:
    role, given = sys.argv[1], json.loads(sys.argv[2])
    port = given.pop("port", 0)
    settings = Settings(**given | {"folder": Path(given["folder"])})
    if role == "server":
        listen(open_server(settings), Address(port=port))
        return
    worker = Worker(open_service(settings))
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    worker.run()


if __name__ == "__main__":
    main()
