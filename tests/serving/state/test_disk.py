"""The data folder is its user's alone, and a full disk is named; files can be deleted on it."""

import contextlib
import errno
import io
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from sqlalchemy.exc import OperationalError

from burnish.cli import main
from burnish.serving.jobs.worker import Worker
from burnish.serving.state.disk import Reserve, is_full, make_private
from burnish.serving.state.installation import Service, Settings, open_service
from tests.refused import refused
from tests.serving.api_refused import api_refused
from tests.serving.conftest import served


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o000)  # the most careless of all
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    found = [folder, *folder.rglob("*")]
    return {f"{path.relative_to(folder)}": oct(path.lstat().st_mode & 0o777) for path in found}


def test_whatever_the_umask_nobody_else_may_read(tmp_path: Path) -> None:
    service = open_service(Settings(tmp_path / "data", models={"tiny": "tiny"}))
    with served(service) as address, openai.OpenAI(api_key="none", base_url=address) as client:
        client.files.create(file=("a", b"{}"), purpose="fine-tune")
        (service.settings.job_folder("ftjob-1") / "run").mkdir(parents=True)
        found = modes(service.settings.folder)
    service.close()
    assert {"burnish.db", "burnish.db-wal", "content", "jobs/ftjob-1/run"} <= found.keys()
    assert len(found) > 8
    for name, mode in found.items():
        assert mode == ("0o700" if (tmp_path / "data" / name).is_dir() else "0o600"), name


def test_what_was_open_is_tightened_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("")
    outside.chmod(0o666)
    folder = tmp_path / "data"
    open_service(Settings(folder)).close()
    os.umask(0)
    (folder / "jobs" / "ftjob-1").mkdir(parents=True)
    (folder / "jobs" / "ftjob-1" / "rows").write_text("")
    (folder / "jobs" / "link").symlink_to(outside)
    (folder / "jobs" / "program").touch(0o755)
    for path in (folder, folder / "burnish.db", folder / "content"):
        path.chmod(0o777)
    monkeypatch.setattr("burnish.serving.log.LOGGER.propagate", True)
    caplog.set_level("INFO", "burnish.serving")
    open_service(Settings(folder)).close()
    assert "other users to 7 files" in caplog.text
    assert {mode for name, mode in modes(folder).items() if name != "jobs/link"} == {
        "0o700",
        "0o600",
    }
    assert outside.stat().st_mode & 0o777 == 0o666
    caplog.clear()
    open_service(Settings(folder)).close()
    assert "rights" not in caplog.text


def test_only_what_is_the_servers_is_tightened(tmp_path: Path) -> None:
    (tmp_path / "mine").touch(0o644)
    assert make_private(tmp_path, "content") <= 1
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o644


def test_the_keys_command_makes_a_private_folder(tmp_path: Path) -> None:
    main(["keys", "make", "one", "--folder", str(tmp_path / "data"), "--json"])
    assert set(modes(tmp_path / "data").values()) == {"0o700", "0o600"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root alone, where the kernel allows")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def service(small_disk: Path) -> Iterator[Service]:
    found = open_service(Settings(small_disk / "data", models={"tiny": "tiny"}))
    yield found
    found.close()


def fill(folder: Path) -> None:
    """Until not one more byte goes there."""
    with (folder / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk(service: Service, small_disk: Path) -> None:
    """Every route that writes names it; files are deleted nevertheless, and then there is room."""
    rows = b'{"messages": []}\n' * 20_000
    with (
        served(service) as address,
        openai.OpenAI(api_key="none", base_url=address, max_retries=0) as client,
    ):
        kept = client.files.create(file=("a", rows), purpose="fine-tune")
        upload = client.uploads.create(
            filename="b", purpose="fine-tune", bytes=9, mime_type="text/jsonl"
        )
        fill(small_disk)
        writes = [
            lambda: client.files.create(file=("b", rows + b"\n"), purpose="fine-tune"),
            lambda: client.uploads.parts.create(upload.id, data=io.BytesIO(b"x" * 9000)),
            lambda: [
                client.uploads.create(filename="c" * 900, purpose="evals", bytes=1, mime_type="a/b")
                for _ in range(200)
            ],
            lambda: [
                client.fine_tuning.jobs.create(model="tiny", training_file=kept.id)
                for _ in range(200)
            ],
        ]
        for write in writes:
            with api_refused("disk_full", status=507):
                write()
        assert client.files.retrieve(kept.id).id == kept.id
        assert client.files.delete(kept.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(kept.id)
        assert client.files.create(file=("c", b"{}"), purpose="fine-tune").bytes == 2
        assert service.content.reserve.path.exists()
        fill(small_disk)
        assert client.uploads.cancel(upload.id).status == "cancelled"


def test_a_server_that_begins_on_a_full_disk_says_so_at_once(small_disk: Path) -> None:
    fill(small_disk)
    begun = time.monotonic()
    with refused("disk_full"):
        open_service(Settings(small_disk / "data", models={"tiny": "tiny"}))
    assert time.monotonic() - begun < 20


def test_a_worker_names_the_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = open_service(Settings(tmp_path / "data", models={"tiny": "tiny"}))
    own = Worker(found)

    def step() -> bool:
        own.stop()
        cause = sqlite3.OperationalError("database or disk is full")
        cause.sqlite_errorname = "SQLITE_FULL"
        raise OperationalError("x", {}, cause)

    monkeypatch.setattr(own, "step", step)
    own.run()
    found.close()
    assert [record.message for record in caplog.records] == ["disk full"]


def test_errors_of_a_full_disk() -> None:
    class FullError(Exception):
        sqlite_errorname = "SQLITE_FULL"

    class FullOfRowsError(Exception):
        sqlstate = "53100"

    assert is_full(OSError(errno.ENOSPC, "x"))
    assert is_full(OSError(errno.EDQUOT, "x"))
    assert is_full(OperationalError("x", {}, FullError()))
    assert is_full(OperationalError("x", {}, FullOfRowsError()))
    wrapped = ValueError("x")
    wrapped.__cause__ = OSError(errno.ENOSPC, "x")
    assert is_full(wrapped)
    assert not is_full(OperationalError("x", {}, ValueError()))
    assert not is_full(PermissionError(errno.EACCES, "x"))
    assert not is_full(None)


def test_the_reserve_is_kept_once(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve")
    reserve.keep()
    before = reserve.path.stat()
    reserve.keep()
    assert reserve.path.stat().st_ino == before.st_ino
    assert before.st_blocks * 512 >= 1 << 19
    assert reserve.give_up()
    assert not reserve.give_up()
