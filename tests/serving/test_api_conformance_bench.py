"""How bench/api_conformance.py replaces placeholders, and what it calls a refusal."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

BENCH = Path(__file__).parents[2] / "bench"
DOCUMENTS = """
## What is different from OpenAI's API

| there | here |
|---|---|
| `verbosity` but `medium`, `audio` | refused by name |
| `store` | taken, and changes nothing |
"""


@pytest.fixture
def conformance(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("api_conformance")


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("api_stand_ins")


def refusal(param: str | None, value: Any, **more: Any) -> dict[str, Any]:
    return {"status": 400, "code": None, "param": param, "value": value, "others": {}, **more}


@pytest.mark.parametrize(
    ("refused", "kind"),
    [
        (refusal(None, None, status=404, code="unknown_url"), "absent feature"),
        (refusal("audio", {"voice": "alloy"}), "absent feature"),
        (refusal("verbosity", "low"), "absent feature"),
        (refusal("limit", "0"), "artefact"),
        (refusal("max_tokens", 0), "artefact"),
        (refusal("logit_bias", {"foo": 0}), "artefact"),
        (refusal("method", {"grader": {"input": "input"}}), "artefact"),
        (refusal("stream_options", {"include_usage": True}), "artefact"),
        (refusal("stream_options", {}, others={"stream": True}), "fault"),
        (refusal("store", True), "fault"),
        (refusal("store", False), "fault"),
        (refusal("seed", 42), "fault"),
        (refusal("limit", "0", status=500), "fault"),
        (refusal(None, None, status=404, code="not_found"), "fault"),
    ],
)
def test_a_refusal_is_classed_by_what_was_sent(
    conformance: Any, refused: dict[str, Any], kind: str
) -> None:
    assert conformance.judged(refused, conformance.refused_by_documents(DOCUMENTS)) == kind


def test_a_failed_test_counts_by_its_worst_reason(
    conformance: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "tests/api_resources/fine_tuning/test_jobs.py::TestJobs::test_method_list[loose]"
    refused = [refusal("limit", "0", message="a"), refusal("seed", 42, message="b")]
    lines = [
        {"test": name, "outcome": "failed", "routes": ["GET /x"], "refusals": refused},
        {"test": name.replace("loose", "strict"), "outcome": "passed", "routes": []},
    ]
    counts = conformance.report(lines, set())
    assert counts["resources"] == {
        "fine_tuning.jobs": {"tests": 2, "failed": 1, "fault": 1, "passed": 1}
    }
    assert [reason[:2] for reason in counts["reasons"]] == [
        ["fault", "GET /x: 400 `seed`: b"],
        ["artefact", "GET /x: 400 `limit`"],
    ]
    assert "| fine_tuning.jobs | 2 | 1 | 1 | 0 | 0 | 1 | 0 |" in capsys.readouterr().out


def test_placeholders_are_replaced_in_path_and_body(stand_ins: Any) -> None:
    known = {
        "url": "http://127.0.0.1:1/v1",
        "key": "none",
        "base": "tiny",
        "encoder": "small",
        "model": "ft:tiny:local::1",
        "spare": ["ft:tiny:local::2"],
        "jobs": ["ftjob-1", "ftjob-2"],
        "file": "file-1",
    }
    objects = stand_ins.StandIns(known)

    def sent(method: str, url: str, body: Any = None) -> tuple[str, Any]:
        options = SimpleNamespace(method=method, url=url, json_data=body, params={})
        options.model_copy = lambda: SimpleNamespace(**vars(options))
        found = objects.stand_in(options)
        return found.url, found.json_data

    assert sent("get", "/files/file_id/content") == ("/files/file-1/content", None)
    assert sent("delete", "/models/ft:gpt") == ("/models/ft:tiny:local::2", None)
    jobs = [sent("get", "/fine_tuning/jobs/ft-AF1/events")[0] for _ in range(3)]
    assert jobs == [f"/fine_tuning/jobs/ftjob-{number}/events" for number in (1, 2, 1)]
    assert sent("post", "/embeddings", {"model": "text-embedding-3-small"})[1] == {"model": "small"}
    body = {"model": "gpt-6", "training_file": "file-abc123", "seed": 42}
    assert sent("post", "/fine_tuning/jobs", body)[1] == {
        "model": "tiny",
        "training_file": "file-1",
        "seed": 42,
    }


def test_all_reasons_for_a_refusal_are_seen(
    stand_ins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(url: Any, body: Any) -> httpx2.Response:
        refused = [*(name for name in ("limit",) if name in dict(url.params)), *(body or {})]
        if "limit" not in refused and refused == ["kept"]:
            return httpx2.Response(200)
        param = next(name for name in refused if name != "kept")
        inside = {"tools": "tools[0].name"}.get(param, param)
        return httpx2.Response(400, json={"error": {"param": inside, "code": "c", "message": "m"}})

    def send(_: str, url: Any, json: Any, **__: Any) -> httpx2.Response:
        return answer(url, json)

    monkeypatch.setattr(stand_ins.httpx2, "request", send)
    body = {"tools": [{"name": "find"}], "user": "u", "kept": 1}
    request = httpx2.Request(
        "POST",
        "http://127.0.0.1/v1/x?limit=0",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
    )
    found = stand_ins.refusals(request, answer(request.url, body))
    assert [(one["param"], one["value"]) for one in found] == [
        ("limit", "0"),
        ("tools[0].name", "find"),
        ("user", "u"),
    ]
