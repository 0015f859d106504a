"""What the fork server starts is, but for the time that it takes, what Python itself starts."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fork_server import ForkServer

FACTS = """# says what a program of burnish finds
import json, os, signal, sys, threading
told = sys.stdin.read()
print("to stderr", file=sys.stderr)
shown = open("/proc/self/cmdline").read().rstrip("\\0").split("\\0")
inherited = os.read(int(sys.argv[1]), 9).decode()
numbers = sorted(int(name) for name in os.listdir("/proc/self/fd"))
print(json.dumps({
    "told": told, "inherited": inherited, "arguments": sys.argv[2:], "folder": os.getcwd(),
    "environment": dict(os.environ), "name": __name__, "threads": threading.active_count(),
    "parent": os.getppid(), "leads its group": os.getpgid(0) == os.getpid(), "path": sys.path[:1],
    "numbers": len(numbers), "shown": shown, "imports of the folder": "" in sys.path,
    "signals": [str(signal.getsignal(n)) for n in (2, 13, 15)], "tty": sys.stdout.isatty(),
}))
raise SystemExit(7)
"""


def facts(words: list[str], **options: Any) -> tuple[dict[str, Any], bytes, int]:
    read, write = os.pipe()
    os.write(write, b"a message")
    command = [sys.executable, *words, "-c", FACTS, str(read), "é", ""]
    done = subprocess.run(
        command, input=b"hello", capture_output=True, pass_fds=(read,), check=False, **options
    )
    os.close(read)
    os.close(write)
    return json.loads(done.stdout), done.stderr, done.returncode


@pytest.mark.parametrize(
    ("words", "options", "variables"),
    [
        ([], {}, {}),
        (["-P"], {"process_group": 0}, {}),
        ([], {}, {"SOME_NAME": "a value = é", "BURNISH_CACHE": "/nowhere"}),
    ],
)
def test_a_forked_program_is_a_real_one(
    words: list[str],
    options: dict[str, Any],
    variables: dict[str, str],
    fork_server: ForkServer,
) -> None:
    before = fork_server.forked
    options = options | {"env": {**os.environ, **variables}}  # libraries' own ones left out
    forked = facts(words, **options)
    assert fork_server.forked == before + 1
    with fork_server.installed(False):
        assert facts(words, **options) == forked
    assert forked[0]["parent"] == os.getpid()


@pytest.mark.parametrize(
    ("code", "ends"),
    [
        ("raise SystemExit('burnish')", 1),
        ("1 / 0  # burnish", 1),
        ("import os; os._exit(9)  # burnish", 9),
        ("import os; os.kill(os.getpid(), 2)  # burnish", -signal.SIGINT),
        ("import os; os.kill(os.getpid(), 15)  # burnish", -signal.SIGTERM),
        ("import atexit; atexit.register(print, 'burnish')", 0),
    ],
)
def test_it_ends_as_a_real_one(code: str, ends: int, fork_server: ForkServer) -> None:
    both = []
    for forked in (True, False):
        with fork_server.installed(forked):
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        last = done.stderr.splitlines()[-1:]  # the lines above name other files
        both.append((done.returncode, done.stdout, last))
    assert both[0] == both[1]
    assert both[0][0] == ends


def test_what_would_import_otherwise_is_started_by_python(
    fork_server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fork_server.forked
    for words in (["-c", "pass"], ["-I", "-c", "'burnish'"], ["-m", "json.tool", "--help"]):
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    ours = [sys.executable, "-c", "'burnish'"]
    subprocess.run(ours, check=True, cwd=tmp_path)
    subprocess.run(ours, check=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    monkeypatch.chdir(tmp_path)
    subprocess.run(ours, check=True)
    assert fork_server.forked == before


def test_the_command_line_ends_with_its_code(fork_server: ForkServer, tmp_path: Path) -> None:
    before = fork_server.forked
    words = [sys.executable, "-m", "burnish.cli", "report", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(" [not_a_run]\n")
    assert fork_server.forked == before + 1


OUTER = """# burnish
import signal, subprocess, sys
sys.path.insert(0, "/nowhere")
signal.signal(signal.SIGTERM, lambda *_: None)
command = [sys.executable, *sys.argv[1:]]
done = subprocess.run(command, input="hello", capture_output=True, text=True)
print(done.returncode, done.stdout, done.stderr.splitlines()[-1:])
"""
INNER = """# burnish
import os, signal, sys
print(sys.stdin.read(), sys.argv, sys.path[0], signal.getsignal(15), flush=True)
print("by fork", "torch" in sys.modules, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), 9)
if sys.argv[1] == "broken":
    1 / 0
sys.exit(None if sys.argv[1] == "good" else sys.argv[1])
"""


@pytest.mark.parametrize("ends", ["good", "bad", "broken", "killed"])
def test_what_a_forked_program_starts_is_forked_too(ends: str, fork_server: ForkServer) -> None:
    shown = []
    for forked in (True, False):
        with fork_server.installed(forked):
            words = [sys.executable, "-c", OUTER, "-c", INNER, ends]
            shown.append(subprocess.check_output(words, text=True))
    assert "by fork True" in shown[0]
    assert shown[0].replace("by fork True", "by fork False") == shown[1]
