"""Names that are no names: paths, NUL, half characters, endless ones; none reaches a file."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from burnish.serving.state.installation import Service
from tests.serving.conftest import served

# As they go over the line.
NAMES = [
    "..%2F..%2Fetc%2Fpasswd",
    "%2e%2e%2f%2e%2e%2fburnish.db",
    "..%5C..%5Cburnish.db",
    "%2Fetc%2Fpasswd",
    "file-%00",
    "%00",
    "%FF%FE",
    "x%0Ay",
    "x" * 5000,
]
PLACES = [
    ("GET", "/files/{}"),
    ("GET", "/files/{}/content"),
    ("DELETE", "/files/{}"),
    ("POST", "/uploads/{}/cancel"),
    ("GET", "/fine_tuning/jobs/{}"),
    ("POST", "/fine_tuning/jobs/{}/cancel"),
    ("GET", "/fine_tuning/jobs/{}/events"),
    ("GET", "/fine_tuning/checkpoints/{}/permissions"),
    ("DELETE", "/fine_tuning/checkpoints/ft:a/permissions/{}"),
    ("GET", "/files?after={}"),
    ("GET", "/files?purpose={}"),
    ("GET", "/fine_tuning/jobs?after={}"),
    ("GET", "/fine_tuning/jobs?metadata[a]={}"),
]


@pytest.fixture
def http(service: Service) -> Iterator[httpx2.Client]:
    with served(service) as address, httpx2.Client(base_url=address) as found:
        yield found


def refused(answer: httpx2.Response) -> bool:
    """In the API's shape, unless it is an empty list: a filter may find nothing."""
    if answer.status_code == 200:
        return answer.json().get("data") == []
    error = answer.json()["error"]
    return 400 <= answer.status_code < 500 and {"message", "type", "param", "code"} == set(error)


def test_paths_and_queries(http: httpx2.Client) -> None:
    wrong = [
        (method, place, name[:30])
        for method, place in PLACES
        for name in NAMES
        if not refused(http.request(method, place.format(name)))
    ]
    assert wrong == []


@pytest.mark.parametrize("name", ["../../x", "\x00", "\ud800", "x" * 5000])
def test_bodies(http: httpx2.Client, service: Service, url: str, name: str) -> None:
    """PostgreSQL keeps no NUL; all else is refused for its length, or since it is no text."""
    kept = name == "../../x" or (name == "\x00" and url.startswith("sqlite"))

    def post(place: str, body: Any) -> httpx2.Response:
        headers = {"content-type": "application/json"}
        return http.post(place, content=json.dumps(body).encode(), headers=headers)

    file = http.post("/files", files={"file": b"{}"}, data={"purpose": "fine-tune"}).json()["id"]
    job = {"model": "tiny", "training_file": file}
    assert refused(post("/fine_tuning/jobs", job | {"model": name}))
    assert refused(post("/fine_tuning/jobs", job | {"training_file": name}))
    for body in (job | {"suffix": name}, job | {"metadata": {"a": name}}):
        answer = post("/fine_tuning/jobs", body)
        assert answer.json()["id"].startswith("ftjob-") if kept else refused(answer)
    upload = {"filename": name, "purpose": "user_data", "bytes": 1, "mime_type": "a/b"}
    answer = post("/uploads", upload)
    assert answer.json()["filename"] == name if kept else refused(answer)
    assert refused(post("/fine_tuning/checkpoints/ft:a/permissions", {"project_ids": [name]}))
    assert not [path for path in service.settings.folder.parent.rglob("x*") if path.is_file()]
