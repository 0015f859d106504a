"""A pytest plugin for `bench/api_conformance.py`: real ids instead of placeholders.

openai-python's own API tests name objects that only a mock server has, such as `file-abc123`. Just
before a request leaves, its placeholders are replaced by ids that the server knows. A request that
deletes, cancels or completes something gets an object of its own. What came of each test is written
as a line of JSON; of a refused request also what was sent, and what else of it is refused once the
refused parameter is left out.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai._base_client import BaseClient

VARIABLE = "BURNISH_API_STAND_INS"
CONTENT = b"Example data"
_REFUSALS = 40  # of one request, at most
_WHOLE = re.compile(r"[^.\[\]]+")

# Method and path -> what each placeholder in it is; a method of `StandIns` by that name makes it.
_PATHS: dict[str, tuple[str, ...]] = {
    r"GET /models/([^/]+)": ("model",),
    r"DELETE /models/([^/]+)": ("own_model",),
    r"GET /files/([^/]+)(?:/content)?": ("file",),
    r"DELETE /files/([^/]+)": ("own_file",),
    r"POST /uploads/([^/]+)/(?:cancel|parts)": ("own_upload",),
    r"POST /uploads/([^/]+)/complete": ("full_upload",),
    r"GET /fine_tuning/jobs/([^/]+)(?:/events|/checkpoints)?": ("job",),
    r"POST /fine_tuning/jobs/([^/]+)/(?:cancel|pause)": ("own_job",),
    r"POST /fine_tuning/jobs/([^/]+)/resume": ("paused_job",),
    r"(?:GET|POST) /fine_tuning/checkpoints/([^/]+)/permissions": ("model",),
    r"DELETE /fine_tuning/checkpoints/([^/]+)/permissions/([^/]+)": ("model", "own_permission"),
}


class StandIns:
    """Objects of one server. `known` is what `bench/api_conformance.py` made: `url`, `key`, names
    of models (`base`, `encoder`, `model`, which was tuned, and `spare` ones), ids of `jobs`, one of
    which has finished and one runs, a training `file` and its `rows`.
    """

    def __init__(self, known: Mapping[str, Any]) -> None:
        self.known = known
        self.client = openai.OpenAI(base_url=known["url"], api_key=known["key"])
        self._jobs = cycle(known["jobs"])
        self._models: list[str] = [*known["spare"]]

    def model(self) -> str:
        return str(self.known["model"])

    def own_model(self) -> str:
        """A tuned model that nothing else needs."""
        return self._models.pop()

    def file(self) -> str:
        return str(self.known["file"])

    def own_file(self) -> str:
        rows = ("rows.jsonl", self.known["rows"].encode())
        return self.client.files.create(file=rows, purpose="fine-tune").id

    def own_upload(self) -> str:
        return self.client.uploads.create(
            bytes=len(CONTENT), filename="rows.txt", mime_type="text/plain", purpose="assistants"
        ).id

    def full_upload(self) -> str:
        """One whose only part is there."""
        upload = self.own_upload()
        self.part = self.client.uploads.parts.create(upload, data=CONTENT).id
        return upload

    def job(self) -> str:
        return str(next(self._jobs))

    def own_job(self) -> str:
        jobs = self.client.fine_tuning.jobs
        return jobs.create(model=self.known["base"], training_file=self.known["file"]).id

    def paused_job(self) -> str:
        return self.client.fine_tuning.jobs.pause(self.own_job()).id

    def own_permission(self) -> str:
        project = f"proj_{time.time_ns()}"  # one project has one permission
        grant = self.client.fine_tuning.checkpoints.permissions.create
        return str(grant(self.model(), project_ids=[project]).data[0].id)

    def stand_in(self, options: Any) -> Any:
        """The options of a request with real ids."""
        route = f"{options.method.upper()} {options.url}"
        options = options.model_copy()
        for pattern, names in _PATHS.items():
            if match := re.fullmatch(pattern, route):
                options.url = self._path(match, names).partition(" ")[2]
        if isinstance(options.json_data, dict):
            options.json_data = self._body(options.json_data)
        if "after" in (options.params or {}):
            listed: Any = self.client.get(options.url, cast_to=object)
            options.params = {**options.params, "after": listed["data"][0]["id"]}
        return options

    def _path(self, match: re.Match[str], names: tuple[str, ...]) -> str:
        route = match.string
        for number, name in reversed([*enumerate(names, 1)]):
            start, end = match.span(number)
            route = route[:start] + getattr(self, name)() + route[end:]
        return route

    def _body(self, body: dict[str, Any]) -> dict[str, Any]:
        is_encoder = str(body.get("model")).startswith("text-embedding")
        real = {
            "model": self.known["encoder" if is_encoder else "base"],
            "training_file": self.known["file"],
            "validation_file": self.known["file"],
            "md5": hashlib.md5(CONTENT).hexdigest(),
        }
        if "part_ids" in body:
            real["part_ids"] = [self.part]
        return {key: real.get(key, value) for key, value in body.items()}


def refusals(request: httpx2.Request, response: httpx2.Response) -> list[dict[str, Any]]:
    """What a request is refused for, one after the other: a refused parameter is left out and the
    request sent again, until it is taken or nothing can be left out."""
    found = []
    headers = {"Authorization": request.headers.get("Authorization", "")}
    url, body = request.url, _json(request)
    for _ in range(_REFUSALS):
        error = _error(response)
        param = error.get("param")
        query = dict(url.params)
        if param in query:
            value, sent = query.pop(param), True
            url = url.copy_with(params=query)
        else:
            value, sent = _take_out(body, param)
        named = {key: error.get(key) for key in ("param", "code", "message")}
        others = {**query, **(body if isinstance(body, dict) else {})}
        found.append({"status": response.status_code, **named, "value": value, "others": others})
        if not sent:
            break
        response = httpx2.request(request.method, url, json=body, headers=headers, timeout=120)
        if response.is_success:
            break
    return found


def _json(request: httpx2.Request) -> Any:
    is_json = request.headers.get("content-type", "").startswith("application/json")
    return json.loads(request.read()) if is_json and request.read() else None


def _error(response: httpx2.Response) -> dict[str, Any]:
    try:
        found = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {"message": response.text[:200]}
    return found if isinstance(found, dict) else {"message": str(found)}


def _take_out(body: Any, param: str | None) -> tuple[Any, bool]:
    """Removes the parameter at the top that holds `param`, such as `tools[0].function`; its value
    at `param` itself, and whether it was there."""
    steps = _WHOLE.findall(param or "")
    if not isinstance(body, dict) or not steps or steps[0] not in body:
        return None, False
    value = body.pop(steps[0])
    for step in steps[1:]:
        inside = value[step] if isinstance(value, dict) and step in value else None
        if isinstance(value, list) and step.isdecimal():
            inside = value[int(step)]
        if inside is None:
            break
        value = inside
    return value, True


class Plugin:
    """Replaces placeholders while a test runs, and writes down what came of it."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self.stand_ins, self.results = StandIns(known), Path(known["results"])
        self.routes: list[str] = []
        self.replaces = False
        self._build: Callable[..., httpx2.Request] = BaseClient._build_request
        plugin = self

        def build(client: Any, options: Any, **more: Any) -> httpx2.Request:
            return plugin.build(client, options, **more)

        BaseClient._build_request = build  # type: ignore[method-assign, assignment]

    def build(self, client: Any, options: Any, **more: Any) -> httpx2.Request:
        if client is self.stand_ins.client or not self.replaces:
            return self._build(client, options, **more)
        self.routes.append(f"{options.method.upper()} {options.url}")
        request = self._build(client, self.stand_ins.stand_in(options), **more)
        request.headers["Authorization"] = f"Bearer {self.stand_ins.known['key']}"
        return request

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        # A test with a mock of its own never asks the server.
        self.routes, self.replaces = [], "respx2_mock" not in getattr(item, "fixturenames", ())
        yield
        self.replaces = False

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Iterator[None]:
        outcome: Any = yield
        report = outcome.get_result()
        if call.when != "call" and report.passed:
            return
        line = {"test": item.nodeid, "outcome": report.outcome, "routes": self.routes}
        if report.failed:
            line |= self._failure(call.excinfo.value)
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")

    def _failure(self, error: BaseException) -> dict[str, Any]:
        if isinstance(error, openai.APIStatusError):
            return {"refusals": refusals(error.request, error.response)}
        failure: dict[str, Any] = {"error": f"{type(error).__name__}: {error}"[:500]}
        if isinstance(error, openai.APIResponseValidationError):
            failure |= {"cause": str(error.__cause__)[:1000], "sent": _json(error.request)}
        return failure


def pytest_configure(config: pytest.Config) -> None:
    """Taken as a plugin by `-p api_stand_ins`."""
    known = json.loads(Path(os.environ[VARIABLE]).read_text(encoding="utf-8"))
    config.pluginmanager.register(Plugin(known), "burnish-stand-ins")
