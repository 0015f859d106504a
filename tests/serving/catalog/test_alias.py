"""An alias stands for a model that says what was judged; else force is needed, and it is told."""

import shutil
from pathlib import Path

import pytest

from burnish.cli import main
from burnish.parity.compare import alias_blocker
from burnish.parity.record import read_parity
from burnish.runs.directory import RunDirectory
from burnish.serving.catalog.alias import point
from burnish.serving.catalog.server import open_server
from burnish.serving.state import models
from burnish.serving.state.installation import Service, Settings, open_service
from burnish.serving.state.tables import ModelRow
from tests.parity.conftest import judged as judged
from tests.parity.test_compare import break_weights
from tests.refused import refused

NAME = "ft:tiny:local:cat:x"


@pytest.fixture
def run(judged: RunDirectory, tmp_path: Path) -> RunDirectory:
    """Where a job's run lies."""
    place = tmp_path / "data" / "jobs" / "job" / "run"
    shutil.copytree(judged.path, place)
    return RunDirectory.open(place)


@pytest.fixture
def service(run: RunDirectory, tmp_path: Path) -> Service:
    found = open_service(Settings(tmp_path / "data"))
    rows = [(NAME, "jobs/job/run/adapter", None), (f"{NAME}:s", "jobs/job/run/checkpoints/s", 3)]
    with found.database.writing() as session:
        for name, folder, step in rows:
            row = ModelRow(name=name, base="tiny", job_id=None, folder=folder, created_at=1)
            row.decision, row.step = "release" if step is None else None, step
            models.add_once(session, row)
    return found


def forced(service: Service) -> list[bool]:
    return [row.forced for row in models.aliases(service.database)]


def test_a_model_of_shown_parity_is_named(service: Service) -> None:
    assert point(service, "support", NAME) is None
    assert forced(service) == [False]
    with refused("not_released", model=f"{NAME}:s", decision=None):
        point(service, "support", f"{NAME}:s")
    with refused("unknown_model", model="ft:none"):
        point(service, "support", "ft:none")


def test_no_base_is_served_in_the_place_of_an_alias(service: Service, tmp_path: Path) -> None:
    settings = Settings(tmp_path / "data", models={"support": "elsewhere"})
    open_server(settings).drain()
    point(service, "support", NAME)
    with refused("name_is_alias", name="support"):
        open_server(settings)
    models.drop_alias(service.database, "support")
    open_server(settings).drain()


def test_a_difference_blocks_unless_forced(
    service: Service, run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_weights(run)
    unmeasured = alias_blocker(run.path)
    with refused("parity_differs", model=NAME, difference=unmeasured):
        point(service, "support", NAME)
    with pytest.raises(SystemExit):
        main(["parity", str(run.path)])
    measured = alias_blocker(run.path)
    assert None is not measured != unmeasured is not None
    with refused("parity_differs", model=NAME, difference=measured):
        point(service, "support", NAME)
    assert forced(service) == []
    service.close()
    capsys.readouterr()
    main(["alias", f"support={NAME}", "--folder", str(tmp_path / "data"), "--force"])
    told = capsys.readouterr()
    assert str(measured) in told.err
    assert told.out == f"support  {NAME}  (forced)\n"


def test_a_missing_certificate_is_said(service: Service, run: RunDirectory) -> None:
    (run.path / "parity.json").unlink()
    assert read_parity(run.path) is None
    assert NAME in str(point(service, "support", NAME))
    assert forced(service) == [False]
