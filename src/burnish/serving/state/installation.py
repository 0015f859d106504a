"""What the routes and the workers share: settings, the database, the files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from burnish.errors import UserError, quantity
from burnish.models.registry import BUILT_IN, ENCODER
from burnish.serving import log
from burnish.serving.state.blobs import BlobStore
from burnish.serving.state.database import Database
from burnish.serving.state.disk import keep_private, make_private

SQLITE = "burnish.db"


def _built_in() -> dict[str, str]:
    """Return the built-in models that generate text, all of which can be tuned."""
    return {name: name for name in BUILT_IN if name != ENCODER}


@dataclass(frozen=True, slots=True)
class GradingBounds:
    """What all graders of a server may use together.

    Attributes:
        processes: graders that compute at once.
        memory: bytes that their programs have together.
        seconds: of computing that a key has per minute; a minute's worth may be saved up.
        request: seconds that the graders of one request have together.
        waiting: requests that wait for their turn; half of them may be one key's.
    """

    processes: int = 2
    memory: int = 4 << 30
    seconds: float = 60.0
    request: float = 60.0
    waiting: int = 32


@dataclass(frozen=True, slots=True)
class Settings:
    """How one installation is set up.

    Attributes:
        folder: holds everything that lasts, unless a database elsewhere holds the rows.
        organization: as it stands in the names of tuned models.
        models: base models that can be tuned and asked: the name in the API to a Burnish name.
        embedders: names under which the built-in encoder embeds.
        max_file_bytes: of an uploaded file.
        recipe: dotted recipe values for every job, below what the job itself asks for.
        stops: tokens, texts or ids, that end the answers of the base models along with their own.
        thinking: whether base models are asked to think first; None leaves it to their templates.
        record: whether the server's log holds prompts and answers.
        lease: seconds after its worker's last heartbeat in which a job is left alone.
        grading: what graders that requests bring may use together.
    """

    folder: Path
    organization: str = "local"
    models: Mapping[str, str] = field(default_factory=_built_in)
    embedders: tuple[str, ...] = (ENCODER,)
    max_file_bytes: int = 512 << 20
    recipe: Mapping[str, Any] = field(default_factory=dict)
    stops: Sequence[str | int] = ()
    thinking: bool | None = None
    record: bool = False
    lease: float = 30.0
    grading: GradingBounds = field(default_factory=GradingBounds)

    def job_folder(self, job_id: str) -> Path:
        """Where a job works; its run is `run` in there."""
        return self.folder / "jobs" / job_id


@dataclass(slots=True)
class Service:
    """What the server and its workers share."""

    settings: Settings
    database: Database
    content: BlobStore

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def open_service(settings: Settings, url: str | None = None) -> Service:
    """Open the installation in the settings' folder; without a URL, its database is SQLite there.

    Raises:
        UserError: the folder cannot be made, or the database cannot be opened.
    """
    folder = settings.folder
    keep_private()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create the folder {folder} ({error.strerror})",
            "choose another folder with --folder",
            code="folder_not_made",
            path=str(folder),
        ) from error
    names = [SQLITE, f"{SQLITE}-wal", f"{SQLITE}-shm", "content", "jobs", "reserve"]
    if count := make_private(folder, *names):
        files = quantity(count, "file")
        log.note(f"removed the access of other users to {files} of the data folder")
    database = Database(url or f"sqlite:///{folder.resolve() / SQLITE}")
    return Service(settings, database, BlobStore(folder / "content"))
