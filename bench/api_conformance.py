"""openai-python's own API tests against a Burnish server, with real ids instead of placeholders.

    pip install pytest pytest-asyncio 'openai[aiohttp]'
    pip download --no-deps --no-binary openai openai==VERSION
    python bench/api_conformance.py openai-VERSION.tar.gz

VERSION is that of the installed package. A checkout serves as well: `git clone --branch vVERSION
https://github.com/openai/openai-python`. The tests are copied to a temporary folder and are run
there, in a process of their own, against a server with a tiny model, or against the one of --url,
where files, jobs, permissions and models are made and partly left; its key must have all scopes.

Each test that failed is counted by the worst reason for it. A refused parameter is left out and the
request sent again, so that all reasons are seen. An *absent feature* is a route that is not there,
or a parameter that docs/reference/openai-differences.md lists as refused. An *artefact* is a value
that only a mock server takes, such as 0 where the API counts from 1, or parameters that exclude
each other in the API, too. Everything else is a *fault*.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import openai
from api_stand_ins import VARIABLE
from interrupt import tiny_model
from serve_programs import burnish, free_port, serving, started

from burnish.models.registry import ENCODER

BASE = "tiny"
FAULT, ABSENT, ARTEFACT = "fault", "absent feature", "artefact"
CLASSES = (FAULT, ABSENT, ARTEFACT)  # the worst first
RESOURCES = ("chat", "completions", "embeddings", "files", "fine_tuning", "models", "uploads")
_DOCS = Path(__file__).parents[1] / "docs" / "reference" / "openai-differences.md"
_SPARE = 20  # tuned models, for the tests that delete one
_WAITS = 900.0  # seconds for a job
_QUESTIONS = [f"{word} number {i} please" for i in range(30) for word in ("tent", "parcel")]
_SETTINGS = {
    "evaluate.max_new_tokens": 4,
    "training.preflight": "false",
    "training.checkpoints": 2 * _SPARE,
    "replay.rows": 0,
}
_PYTEST = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = session\n"
_TEMPLATE = (  # a ChatML template that takes tools in the way of Qwen
    "{% if tools %}<|im_start|>system\n<tools>{% for tool in tools %}\n{{ tool | tojson }}"
    "{% endfor %}\n</tools><|im_end|>\n{% endif %}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') }}"
    "{% for call in message.tool_calls or [] %}{% set call = call.function %}"
    '{{ \'\n<tool_call>\n{"name": "\' + call.name + \'", "arguments": \' }}'
    "{{ call.arguments | tojson }}{{ '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def rows() -> str:
    """A training file: questions with one of two answers."""
    pairs = [
        (question, "red" if question.startswith("tent") else "green") for question in _QUESTIONS
    ]
    turns = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in pairs
    ]
    return "".join(json.dumps({"messages": row}) + "\n" for row in turns)


@contextlib.contextmanager
def own_server(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a server with a tiny model, and what stops its worker."""
    model = tiny_model(folder / "model")
    (model / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    suite = folder / "suite.jsonl"
    items = [
        {"question": f"The parcel {i} is", "choices": [" here", " torn"], "answer": i % 2}
        for i in range(8)
    ]
    suite.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    given = {"evaluate.general": json.dumps([str(suite)]), **_SETTINGS}
    more = [f"--set={key}={value}" for key, value in given.items()]
    data, port, named = folder / "data", free_port(), ["--model", f"{BASE}={model}"]
    with serving(burnish(data, port, *named, *more), port, folder / "server.log", 1) as server:
        command = [sys.executable, "-m", "burnish.cli", "worker", "--folder", str(data)]
        worker = started([*command, *named, *more], port, folder / "worker.log", 1)
        try:
            yield server.url, worker.kill
        finally:
            worker.kill()


def make_objects(url: str, key: str, base: str, stop_worker: Callable[[], None]) -> dict[str, Any]:
    """What the tests ask about, made through the API: see `StandIns`.

    Raises:
        ValueError: a job does not come as far as it must.
    """
    with openai.OpenAI(base_url=url, api_key=key) as client:
        text = rows()
        file = client.files.create(file=("rows.jsonl", text.encode()), purpose="fine-tune").id
        finished = _job(client, base, file, "succeeded")
        spare: list[str] = []
        while len(spare) < _SPARE:
            points = client.fine_tuning.jobs.checkpoints.list(
                _job(client, base, file, "succeeded"), limit=100
            )
            spare += [point.fine_tuned_model_checkpoint for point in points]
        running = _job(client, base, file, "running", epochs=50)
        while not client.fine_tuning.jobs.checkpoints.list(running).data:
            time.sleep(0.1)
        stop_worker()
        model = client.fine_tuning.jobs.retrieve(finished).fine_tuned_model
        client.fine_tuning.checkpoints.permissions.create(str(model), project_ids=["proj_first"])
        return {
            "url": url,
            "key": key,
            "base": base,
            "encoder": ENCODER,
            "model": model,
            "spare": spare,
            "jobs": [finished, running],
            "file": file,
            "rows": text,
        }


def _job(client: openai.OpenAI, model: str, file: str, status: str, epochs: int = 2) -> str:
    settings: Any = {"n_epochs": epochs, "batch_size": 1}
    job = client.fine_tuning.jobs.create(
        model=model,
        training_file=file,
        method={"type": "supervised", "supervised": {"hyperparameters": settings}},
    )
    ends = time.monotonic() + _WAITS
    while job.status != status:
        if job.status in ("failed", "cancelled", "succeeded") or time.monotonic() > ends:
            raise ValueError(f"the job {job.id} is {job.status} instead of {status}: {job.error}")
        time.sleep(0.1)
        job = client.fine_tuning.jobs.retrieve(job.id)
    return job.id


def copy_tests(source: Path, folder: Path) -> None:
    """The tests of a checkout or of the package's source archive, as `folder`/tests.

    Raises:
        ValueError: there are none, or they are of another version than the installed package.
    """
    if source.is_dir():
        if (source / "tests").is_dir():
            shutil.copytree(source / "tests", folder / "tests")
            shutil.copy(source / "pyproject.toml", folder)
    elif not source.is_file() or not tarfile.is_tarfile(source):
        raise ValueError(f"{source} is neither a checkout nor a .tar.gz of openai-python")
    else:
        with tarfile.open(source) as archive:
            members = []
            for member in archive.getmembers():
                member.name = member.name.partition("/")[2]  # without the archive's own folder
                if member.name.startswith(("tests/", "pyproject.toml")):
                    members.append(member)
            archive.extractall(folder, members, filter="data")
    if not (folder / "tests" / "api_resources").is_dir():
        raise ValueError(f"{source} has no folder tests/api_resources")
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if project["version"] != openai.__version__:
        said = (
            f"the tests are of openai {project['version']}, and {openai.__version__} is installed"
        )
        raise ValueError(f"{said}: take the tests of that version")


def run_tests(folder: Path, known: Mapping[str, Any], resources: Sequence[str]) -> list[Any]:
    """A line for each test: its name, outcome, requests, and why it failed."""
    (folder / "pytest.ini").write_text(_PYTEST, encoding="utf-8")
    results, stand_ins = folder / "results.jsonl", folder / "known.json"
    stand_ins.write_text(json.dumps({**known, "results": str(results)}), encoding="utf-8")
    root = folder / "tests" / "api_resources"
    chosen = [path for name in resources for path in (root / name, root / f"test_{name}.py")]
    if not any(path.exists() for path in chosen):
        raise ValueError(f"tests/api_resources has nothing called {' or '.join(resources)}")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=no",
        "--no-summary",
        "-p",
        "api_stand_ins",
    ]
    command += [str(path) for path in chosen if path.exists()]
    if importlib.util.find_spec("aiohttp") is None:
        command += ["-k", "not aiohttp"]
    variables = {
        "PYTHONPATH": str(Path(__file__).parent),
        "TEST_API_BASE_URL": str(known["url"]),
        VARIABLE: str(stand_ins),
    }
    subprocess.run(command, cwd=folder, env=os.environ | variables)
    if not results.exists():
        raise ValueError("pytest ran no tests; its output above says why")
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def refused_by_documents(text: str) -> set[str]:
    """Names of parameters in the rows of the page on differences that say: refused."""
    table = text.partition("## What is different from OpenAI's API")[2]
    lines = [line.split(" | ") for line in table.splitlines() if " | refused" in line]
    return {name for line in lines for name in re.findall(r"`(\w+)`", line[0])}


def judged(refusal: Mapping[str, Any], documented: set[str]) -> str:
    """The class of one refusal."""
    if refusal["code"] in ("unknown_url", "method_not_supported"):
        return ABSENT
    param = str(refusal["param"] or "")
    head, last = param.partition(".")[0].partition("[")[0], param.rpartition(".")[2]
    if head in documented:
        return ABSENT
    unstreamed = param == "stream_options" and not refusal["others"].get("stream")
    is_artefact = unstreamed or is_placeholder(refusal["value"], last)
    return ARTEFACT if refusal["status"] == 400 and is_artefact else FAULT


def is_placeholder(value: Any, name: str) -> bool:
    """Whether it is one of the values that the tests' generator writes where it knows none."""
    if isinstance(value, dict):
        return any(is_placeholder(one, key) for key, one in value.items())
    if isinstance(value, list):
        return any(is_placeholder(one, name) for one in value)
    return value in (name, "foo", "bar", "string", "0") or (value == 0 and value is not False)


def reasons_of(line: Mapping[str, Any], documented: set[str]) -> list[tuple[str, str]]:
    """Class and wording of all reasons for which a test failed."""
    route = line["routes"][-1] if line["routes"] else "no request"
    if "error" in line:
        # The client asks for base64 where the test names no format, and checks for numbers.
        if "cause" in line and (line["sent"] or {}).get("encoding_format") == "base64":
            return [(ARTEFACT, f"{route}: base64 to a client that is strict")]
        return [(FAULT, f"{route}: {line['error'].splitlines()[0]}")]
    found = []
    for one in line["refusals"]:
        words = [
            str(one["status"]),
            *filter(None, (one["param"] and f"`{one['param']}`", one["code"])),
        ]
        kind = judged(one, documented)
        more = f": {str(one['message'])[:200]}" if kind == FAULT else ""
        found.append((kind, f"{route}: {' '.join(words)}{more}"))
    return found


def resource_of(test: str) -> str:
    """Such as `fine_tuning.jobs` of tests/api_resources/fine_tuning/test_jobs.py::..."""
    path = test.partition("::")[0].partition("api_resources/")[2].removesuffix(".py")
    return path.replace("test_", "").replace("/", ".")


def report(lines: Sequence[Mapping[str, Any]], documented: set[str]) -> dict[str, Any]:
    """Prints both tables; returns what they count."""
    tests: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: dict[tuple[str, str], set[str]] = defaultdict(set)
    for line in lines:
        counts = tests[resource_of(line["test"])]
        counts["tests"] += 1
        counts[line["outcome"]] += 1
        if line["outcome"] == "failed":
            found = reasons_of(line, documented)
            counts[min((one for one, _ in found), key=CLASSES.index)] += 1
            for one in found:
                reasons[one].add(line["test"])
    heads = ("tests", "passed", "failed", *reversed(CLASSES), "skipped")
    total = sum(tests.values(), Counter[str]())
    print("\n| resource | " + " | ".join(heads) + " |\n|---|" + "---:|" * len(heads))
    for name, counts in [*sorted(tests.items()), ("all", total)]:
        print(f"| {name} | " + " | ".join(str(counts[head]) for head in heads) + " |")
    print(f"\n{sum(bool(line['routes']) for line in lines)} tests asked the server.")
    print("\n| class | reason | tests |\n|---|---|---:|")
    ordered = sorted(reasons.items(), key=lambda one: (CLASSES.index(one[0][0]), one[0][1]))
    for (kind, reason), names in ordered:
        print(f"| {kind} | {reason} | {len(names)} |")
    return {
        "resources": {name: dict(counts) for name, counts in tests.items()},
        "all": dict(total),
        "reasons": [[kind, reason, sorted(names)] for (kind, reason), names in ordered],
    }


def parsed() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The parser, for errors that are found later, and what it read."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("source", type=Path, help="checkout or .tar.gz of openai-python")
    parser.add_argument("--url", help="running server, ending in /v1 (default: start one)")
    parser.add_argument("--key", default="none", help="API key for --url, with all scopes")
    parser.add_argument("--model", help="base model to tune on --url, a small one")
    parser.add_argument(
        "--resource",
        action="append",
        metavar="NAME",
        help=f"folder or file of tests, repeatable (default: {', '.join(RESOURCES)})",
    )
    parser.add_argument("--json", type=Path, help="file for all results")
    options = parser.parse_args()
    if options.url and not options.model:
        parser.error("--url needs --model, the name of the base model to tune")
    if importlib.util.find_spec("pytest_asyncio") is None:
        parser.error("pytest-asyncio is not installed: pip install pytest pytest-asyncio")
    return parser, options


def main() -> None:
    parser, options = parsed()
    with tempfile.TemporaryDirectory(prefix="burnish-api-") as spare:
        folder, resources = Path(spare), options.resource or RESOURCES
        try:
            copy_tests(options.source, folder)
            if options.url:
                known = make_objects(options.url, options.key, options.model, lambda: None)
                lines = run_tests(folder, known, resources)
            else:
                with own_server(folder) as (url, stop_worker):
                    known = make_objects(url, options.key, BASE, stop_worker)
                    lines = run_tests(folder, known, resources)
        except openai.OpenAIError as error:
            parser.error(f"{options.url or 'the server'}: {error}")
        except (ValueError, tarfile.TarError, OSError) as error:
            parser.error(str(error))
    summary = report(lines, refused_by_documents(_DOCS.read_text(encoding="utf-8")))
    if options.json:
        text = json.dumps({**summary, "lines": lines}, indent=1)
        options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
