"""Where the server listens is looked at before anything is loaded; its worker is kept running."""

import contextlib
import errno
import os
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from burnish.cli import main
from burnish.serving.app import listen
from burnish.serving.app.listen import Address, check, embedded_worker
from burnish.serving.state.installation import Service, Settings
from tests.refused import refused


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state.db'}"


def test_what_cannot_be_listened_on(service: Service) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            service.database.reading() as session,
            refused("cannot_listen", host="127.0.0.1", port=port) as error,
        ):
            check(Address(port=port), session)
        assert os.strerror(errno.EADDRINUSE) in str(error.value)
    with service.database.reading() as session:
        check(Address(port=port), session)
        with refused("no_api_keys", host="0.0.0.0"):
            check(Address("0.0.0.0"), session)
        with refused("half_of_tls"):
            check(Address(certificate=Path("cert.pem")), session)
        with refused("file_missing", path="cert.pem"):
            check(Address(certificate=Path("cert.pem"), key=Path("key.pem")), session)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_is_none(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--folder", str(tmp_path / name)])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "[folder_not_made]" in told
    assert str(tmp_path / name) in told


def test_two_models_of_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", f"tiny={tmp_path}/a", "--model", f"tiny={tmp_path}/b"]
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--folder", str(tmp_path / "data"), *given])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "[duplicate_name]" in told
    assert "--model" in told
    assert "tiny" in told


def test_a_worker_that_is_killed_is_started_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "_AGAIN", 0.01)
    own = psutil.Process()

    def worker(not_this: int = 0) -> int:
        ends = time.monotonic() + 30
        while time.monotonic() < ends:
            for child in own.children():
                with contextlib.suppress(psutil.Error):  # one that was killed a moment ago
                    if "worker" in child.cmdline() and child.pid != not_this:
                        return child.pid
            time.sleep(0.02)
        raise AssertionError("there is no worker")

    with embedded_worker(settings, None):
        first = worker()
        os.kill(first, signal.SIGKILL)
        second = worker(not_this=first)
    assert not psutil.pid_exists(second)
