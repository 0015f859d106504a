"""Files and uploads through the official client, on both databases."""

import asyncio
import bz2
import gzip
import hashlib
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import httpx2
import openai
import pytest
from openai.types import FileObject
from sqlalchemy import update

from burnish.serving.state import files, uploads
from burnish.serving.state.blobs import ReceivedBlob
from burnish.serving.state.installation import Service
from burnish.serving.state.tables import FileRow, UploadRow
from tests.serving.api_refused import api_refused
from tests.serving.conftest import assert_listed_as_retrieved

ROWS = b'{"messages": []}\n' * 40


def kept(service: Service) -> list[str]:
    return list(service.content.hashes())


def test_a_file_comes_back_as_it_went(client: openai.OpenAI, service: Service) -> None:
    made = client.files.create(file=("../../rows ü.jsonl", ROWS), purpose="fine-tune")
    assert FileObject.model_validate(made.model_dump()) == made
    assert (made.bytes, made.filename) == (len(ROWS), "../../rows ü.jsonl")
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == ROWS
    assert kept(service) == [hashlib.sha256(ROWS).hexdigest()]
    assert not list(service.settings.folder.parent.rglob("*rows*"))


def test_a_text_in_the_place_of_a_file_is_told_so(client: openai.OpenAI) -> None:
    sent = {"file": (None, "rows.jsonl"), "purpose": (None, "fine-tune")}
    answer = httpx2.post(f"{client.base_url}files", files=sent)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "file", "invalid_type")


def test_files_of_equal_bytes_share_them_until_the_last_goes(
    client: openai.OpenAI, service: Service
) -> None:
    first, second = (
        client.files.create(file=(name, ROWS), purpose="fine-tune") for name in ("a", "b")
    )
    assert len(kept(service)) == 1
    assert client.files.delete(first.id).deleted
    assert client.files.content(second.id).read() == ROWS
    client.files.delete(second.id)
    assert kept(service) == []
    with pytest.raises(openai.NotFoundError) as error:
        client.files.retrieve(second.id)
    assert error.value.body == {
        "message": f"No such File object: {second.id}",
        "type": "invalid_request_error",
        "param": "id",
        "code": "not_found",
    }


def test_lists_have_pages_filters_and_two_orders(client: openai.OpenAI) -> None:
    names = [
        client.files.create(file=(f"{i}", b"%d" % i), purpose="fine-tune" if i % 2 else "evals").id
        for i in range(7)
    ]
    assert [file.id for file in client.files.list(limit=2)] == names[::-1]
    assert_listed_as_retrieved(client, "/files")
    assert [file.id for file in client.files.list(limit=3, order="asc")] == names
    odd = client.files.list(purpose="fine-tune", limit=2)
    assert odd.has_more
    assert [file.id for file in odd] == [names[5], names[3], names[1]]
    with api_refused("invalid_cursor", "file-none", param="after"):
        client.files.list(after="file-none")


def test_who_deletes_what_a_page_shows_gets_the_next_one(client: openai.OpenAI) -> None:
    names = [client.files.create(file=("a", b"%d" % i), purpose="evals").id for i in range(7)]
    seen = []
    for file in client.files.list(limit=2):
        seen.append(file.id)
        client.files.delete(file.id)
    assert seen == names[::-1]
    with pytest.raises(openai.NotFoundError):
        client.files.delete(names[0])


def test_a_list_shows_each_file_as_it_is_retrieved(client: openai.OpenAI) -> None:
    for name, seconds in (("ü", 3600), ("b", None)):
        lasts = {"anchor": "created_at", "seconds": seconds} if seconds else openai.omit
        client.files.create(file=(name, ROWS), purpose="user_data", expires_after=lasts)
    raw = client.files.with_raw_response
    listed = raw.list()
    names = [file.id for file in listed.parse()]
    alone = ",".join(raw.retrieve(name).text for name in names)
    ends = f'"first_id":"{names[0]}","last_id":"{names[1]}"'
    assert listed.text == f'{{"object":"list","data":[{alone}],"has_more":false,{ends}}}'
    assert listed.headers["content-type"] == "application/json"


def test_files_expire(client: openai.OpenAI, service: Service) -> None:
    made = client.files.create(
        file=("a", ROWS),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    batch = client.files.create(file=("b", b"b"), purpose="batch")
    assert (made.expires_at, batch.expires_at) == (
        made.created_at + 3600,
        batch.created_at + 2592000,
    )
    with service.database.writing() as session:
        session.execute(update(FileRow).values(expires_at=int(time.time())))
    with pytest.raises(openai.NotFoundError):
        client.files.content(made.id)
    assert list(client.files.list()) == []
    assert len(kept(service)) == 2
    files.expire(service.database, service.content)
    assert kept(service) == []


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"purpose": "fun"}, "purpose", "invalid_value"),
        (
            {"expires_after": {"anchor": "created_at", "seconds": 1}},
            "expires_after[seconds]",
            "integer_below_min_value",
        ),
        (
            {"expires_after": {"seconds": 3600}},
            "expires_after.anchor",
            "missing_required_parameter",
        ),
    ],
)
def test_bad_files_are_refused(client: openai.OpenAI, given: dict, param: str, code: str) -> None:
    with api_refused(code, param=param):
        client.files.create(**{"file": ("a", b"a"), "purpose": "fine-tune"} | given)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b" \n\r\n\t", "empty"),
        (b"\xef\xbb\xbf\n", "empty"),
        (b"%PDF-1.7\n%\xe2\xe3\n", "a PDF"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\2\0", "a PNG image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0", "a JPEG image"),
        (b"\x7fELF\2\1\1" + bytes(40), "an executable program"),
        (b"rows.jsonl" + bytes(502), "a binary file"),
        (b"PK\x03\x04\x14", "a ZIP archive"),
        (gzip.compress(ROWS, mtime=0), "compressed"),
        (bz2.compress(ROWS), "compressed"),
        (bytes(range(256)) * 20, "a binary file"),
    ],
)
def test_what_cannot_hold_rows_is_refused_when_it_comes(
    client: openai.OpenAI, service: Service, content: bytes, kind: str
) -> None:
    with api_refused("invalid_file", kind, param="file"):
        client.files.create(file=("rows.jsonl", content), purpose="fine-tune")
    if content:
        upload = client.uploads.create(
            bytes=len(content), filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune"
        )
        part = client.uploads.parts.create(upload.id, data=content)
        with api_refused("invalid_file", kind, param="part_ids"):
            client.uploads.complete(upload.id, part_ids=[part.id])
    assert list(client.files.list()) == []
    assert client.files.create(file=("a", content), purpose="user_data").bytes == len(content)


@pytest.mark.parametrize(
    "content",
    [
        ROWS,
        "{'a': 'Größe 包裹'}\n".encode("latin-1", "ignore"),
        '{"a": "包裹"}\n'.encode("utf-16"),
        '{"a": "Größe"}\n'.encode("utf-16-le"),
        b'{"a": "one stray \x01"}\n',
        ("x" * 4094 + "包裹" * 4000).encode(),
    ],
)
def test_texts_of_any_encoding_are_taken(client: openai.OpenAI, content: bytes) -> None:
    made = client.files.create(file=("rows.jsonl", content), purpose="fine-tune")
    assert client.files.content(made.id).read() == content


def test_a_part_named_twice_is_named(client: openai.OpenAI) -> None:
    upload = client.uploads.create(
        bytes=2, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )
    part = client.uploads.parts.create(upload.id, data=b"{}").id
    with api_refused("duplicate_part", part, param="part_ids"):
        client.uploads.complete(upload.id, part_ids=[part, part])


def test_a_long_file_is_refused_and_leaves_nothing(client: openai.OpenAI, service: Service) -> None:
    limit = service.settings.max_file_bytes
    for length in (limit + 1, limit + (1 << 20)):
        with pytest.raises(openai.APIStatusError) as error:
            client.files.create(file=("a", b"x" * length), purpose="fine-tune")
        assert error.value.status_code == 413
    assert client.files.create(file=("a", b"x" * limit), purpose="fine-tune").bytes == limit
    assert len(list(service.content.folder.rglob("*"))) == 2  # one folder, one file


def test_the_async_client(client: openai.OpenAI) -> None:
    async def asked() -> bytes:
        async with openai.AsyncOpenAI(api_key="none", base_url=client.base_url) as other:
            made = await other.files.create(file=("a", ROWS), purpose="fine-tune")
            assert [file.id async for file in other.files.list(limit=1)] == [made.id]
            return (await other.files.content(made.id)).read()

    assert asyncio.run(asked()) == ROWS


def test_an_upload_becomes_a_file(client: openai.OpenAI, service: Service) -> None:
    upload = client.uploads.create(
        bytes=len(ROWS), filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )
    assert upload.status == "pending"
    cut = 7
    second, first = (
        client.uploads.parts.create(upload.id, data=part) for part in (ROWS[cut:], ROWS[:cut])
    )
    order = [first.id, second.id]
    with api_refused("unknown_part", "part_none", param="part_ids"):
        client.uploads.complete(upload.id, part_ids=["part_none"])
    with api_refused("size_mismatch", cut, len(ROWS), param="part_ids"):
        client.uploads.complete(upload.id, part_ids=order[:1])
    with api_refused("md5_mismatch", hashlib.md5(ROWS).hexdigest(), param="md5"):
        client.uploads.complete(upload.id, part_ids=order[::-1], md5=hashlib.md5(ROWS).hexdigest())
    done = client.uploads.complete(upload.id, part_ids=order, md5=hashlib.md5(ROWS).hexdigest())
    assert done.status == "completed"
    assert done.file
    assert client.files.content(done.file.id).read() == ROWS
    assert len(kept(service)) == 1
    again = client.uploads.complete(upload.id, part_ids=order)
    assert again.file == done.file
    with api_refused("invalid_state", upload.id, "completed", param="upload_id"):
        client.uploads.parts.create(upload.id, data=b"more")


def test_a_part_that_is_sent_again_takes_no_room(client: openai.OpenAI) -> None:
    """A client that lost the answer sends it once more, and names the part that it heard of."""
    upload = client.uploads.create(bytes=6, filename="a", mime_type="text/plain", purpose="batch")
    heard = []
    for data in (b"ab", b"cd", b"ab"):
        client.uploads.parts.create(upload.id, data=data)
        heard.append(client.uploads.parts.create(upload.id, data=data).id)
    with api_refused("upload_too_large", 6, param="data"):
        client.uploads.parts.create(upload.id, data=b"efg")
    done = client.uploads.complete(upload.id, part_ids=heard)
    assert done.file
    assert client.files.content(done.file.id).read() == b"abcdab"


@pytest.mark.parametrize("late", [False, True])
def test_an_upload_completed_twice_at_once_is_one_file(
    client: openai.OpenAI, service: Service, monkeypatch: pytest.MonkeyPatch, *, late: bool
) -> None:
    """Another call ends it while this one reads its parts, or has read them."""
    upload = client.uploads.create(bytes=3, filename="a", mime_type="text/plain", purpose="batch")
    parts = [client.uploads.parts.create(upload.id, data=data).id for data in (b"ab", b"c")]

    def complete() -> str:
        return uploads.complete(service.database, service.content, upload.id, parts, None)[1].id

    other: list[str] = []
    receive = service.content.receive

    def slow(pieces: Iterable[bytes]) -> ReceivedBlob:
        monkeypatch.undo()
        received = receive(pieces) if late else None
        other.append(complete())
        return received or receive(pieces)

    monkeypatch.setattr(service.content, "receive", slow)
    assert [complete()] == other
    assert len(kept(service)) == 1


def test_large_files_go_up_in_chunks(client: openai.OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROWS)
    done = client.uploads.upload_file_chunked(
        file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=100
    )
    assert done.file
    assert client.files.content(done.file.id).read() == ROWS


def test_uploads_end(client: openai.OpenAI, service: Service) -> None:
    def begun() -> str:
        made = client.uploads.create(bytes=3, filename="a", mime_type="text/plain", purpose="batch")
        client.uploads.parts.create(made.id, data=b"abc")
        return made.id

    cancelled, expired = begun(), begun()
    assert client.uploads.cancel(cancelled).status == "cancelled"
    assert len(kept(service)) == 1
    with api_refused("upload_too_large", 3, param="data"):
        client.uploads.parts.create(expired, data=b"d")
    with service.database.writing() as session:
        session.execute(update(UploadRow).values(expires_at=0))
    with api_refused("invalid_state", expired, "expired", param="upload_id"):
        client.uploads.parts.create(expired, data=b"d")
    files.expire(service.database, service.content)
    assert kept(service) == []
    with pytest.raises(openai.NotFoundError):
        client.uploads.cancel("upload_none")


def test_bytes_are_never_lost_between_two_who_add_and_delete(service: Service) -> None:
    """One deletes the last row of some bytes while another adds a row of the same bytes."""

    def again_and_again() -> None:
        for _ in range(15):
            received = service.content.receive([ROWS])
            row = files.file_row(received, "batch", "a")
            files.add(service.database, service.content, received, row)
            assert b"".join(service.content.read(row.sha256)) == ROWS
            files.delete(service.database, service.content, row.id)

    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            again_and_again()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert kept(service) == []


def test_what_killed_processes_left_is_swept(service: Service) -> None:
    left, torn, good = (service.content.receive([text]) for text in (b"left", b"torn", b"good"))
    service.content.keep(left)
    files.add(service.database, service.content, good, files.file_row(good, "batch", "a"))
    os.utime(torn.path, (1, 1))
    files.sweep(service.database, service.content)
    assert kept(service) == [good.sha256]
    assert not torn.path.exists()
