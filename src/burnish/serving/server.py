"""The server's own share of an installation: the models that answer, and what ends with them."""

from collections.abc import Sequence
from dataclasses import dataclass

from burnish.models.load import DeviceChoice
from burnish.serving.engine.batch import Limits
from burnish.serving.engines import EMBEDDER, Engines
from burnish.serving.service import Service, Settings, open_service


@dataclass(slots=True)
class Server(Service):
    """What `request.app.state.service` is to every route."""

    engines: Engines

    def embedder(self, texts: Sequence[str]) -> list[list[float]]:
        """How graders compare meanings."""
        found = self.engines.embedder(EMBEDDER)
        return found.embed([found.encoded(text) for text in texts])

    def drain(self, seconds: float | None = None) -> None:
        """Answers that are under way are finished, for so long; then all is closed."""
        self.engines.close(seconds)
        self.close()


def open_server(
    settings: Settings,
    url: str | None = None,
    device: DeviceChoice = "auto",
    limits: Limits | None = None,
) -> Server:
    """The installation in the settings' folder, with its models; none is loaded yet.

    Raises:
        UserError: the database cannot be opened.
    """
    service = open_service(settings, url)
    engines = Engines(service.database, settings.folder, settings.models, device, limits)
    return Server(settings, service.database, service.content, engines)
