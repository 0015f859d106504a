"""Programs that must not do what they try, each in a process of its own."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from burnish.evaluation.graders.jail import CALLS, filter_program, numbers
from burnish.evaluation.graders.sandbox import Limits, check_source, run_grade
from burnish.evaluation.graders.subject import GradingError

LIMITS = Limits(seconds=20.0, memory=256 << 20, output=4096)
HOOKED = Limits(seconds=20.0, memory=256 << 20, output=4096, walls=False)
RUNTIME, SERVER = "python_grader_runtime_error", "python_grader_server_error"


def program(body: str) -> str:
    return f"import os, sys, time\ndef grade(sample, item):\n    {body}\n"


def failure(source: str, limits: Limits = LIMITS) -> GradingError:
    with pytest.raises(GradingError) as caught:
        run_grade(source, {"output_text": "yes"}, {}, limits)
    return caught.value


def test_a_program_grades() -> None:
    source = (
        "def grade(sample, item):\n    print('noise')\n    return item['a'] * len(sample['t'])\n"
    )
    assert run_grade(source, {"t": "four"}, {"a": 0.125}) == 0.5
    numpy = "import numpy\ndef grade(sample, item):\n    return numpy.float32(0.25)\n"
    assert run_grade(numpy, {}, {}) == 0.25


@pytest.mark.parametrize("limits", [LIMITS, HOOKED], ids=["walls", "hook"])
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("while True: os.fork()", "PermissionError"),
        ("__import__('subprocess').run([sys.executable, '-c', ''])", "PermissionError"),
        ("os.execv(sys.executable, ['python'])", "PermissionError"),
        ("os.kill(os.getppid(), 9)", "PermissionError"),
        ("open('/etc/passwd').read()", "PermissionError"),
        ("os.listdir('/')", "PermissionError"),
        ("open('note', 'w')", "PermissionError"),
        ("os.open('note', os.O_CREAT | os.O_RDWR)", "PermissionError"),
        ("__import__('socket').socket()", "PermissionError"),
        ("__import__('socket').create_connection(('127.0.0.1', 9))", "PermissionError"),
        ("return 1 / 0", "line 3: ZeroDivisionError: division by zero"),
        ("return 'good'", "grade returned str, not a number"),
        ("return float('nan')", "grade returned nan"),
        ("return grade(sample, item)", "RecursionError"),
        ("sys.exit(0)", "SystemExit"),
    ],
)
def test_a_program_that_is_refused(body: str, said: str, limits: Limits) -> None:
    error = failure(program(body), limits)
    assert (error.flag, error.kind) == (RUNTIME, None)
    assert said in error.said


def test_neither_a_thread_nor_its_parents_limits() -> None:
    assert (
        "can't start new thread"
        in failure(program("__import__('threading').Thread(target=print).start()")).said
    )
    body = "__import__('resource').prlimit(os.getppid(), 7, (1, 1))"
    assert "PermissionError" in failure(program(body)).said


def test_another_way_to_the_kernel_is_refused_too() -> None:
    """Calls without Python's own functions: socket(AF_INET, SOCK_STREAM, 0)."""
    source = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "def grade(sample, item):\n    return libc.socket(2, 1, 0) * 100 - ctypes.get_errno()\n"
    )
    assert run_grade(source, {}, {}, LIMITS) == -101.0  # refused with EPERM, which is 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("while True: pass", "timeout"),
        ("time.sleep(60)", "timeout"),
        ("return len([bytearray(1 << 20) for _ in range(10_000)])", "memory"),
        ("while True: print('x' * 1000)", "output"),
        ("os._exit(0)", "crash"),
        ("__import__('ctypes').string_at(0)", "crash"),
        ("while True: os.write(int(sys.argv[1]), b'x' * 1000)", "output"),
        ("os.write(int(sys.argv[1]), b'[1]'); os._exit(0)", "crash"),
        ("os.write(int(sys.argv[1]), b'{\"score\": NaN}'); os._exit(0)", "crash"),
    ],
)
def test_a_program_that_is_stopped(body: str, kind: str) -> None:
    seconds = 1.0 if kind == "timeout" else LIMITS.seconds
    error = failure(program(body), replace(LIMITS, seconds=seconds))
    assert (error.flag, error.kind) == (SERVER, kind)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("SECRET", "of the server")
    before = set(Path("/proc/self/fd").iterdir())
    source = (
        "import os\n"
        "def grade(sample, item): return 'SECRET' in os.environ or len(os.listdir('.'))\n"
    )
    assert run_grade(source, {}, {}) == 0.0
    failure(program("time.sleep(60)"), Limits(seconds=0.3))
    assert list(tmp_path.iterdir()) == []
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_a_source_is_checked_without_grading() -> None:
    check_source("def grade(sample, item):\n    return 1 / 0\n")
    for source, said in [
        ("def score(sample, item): return 1\n", "no function grade"),
        ("def grade(sample, item) return 1\n", "SyntaxError"),
        ("grade = 3\n", "no function grade"),
        ("import nothing_of_the_kind\n", "ModuleNotFoundError"),
    ]:
        with pytest.raises(GradingError, match=said):
            check_source(source)


@pytest.mark.parametrize(
    ("machine", "header", "pattern"),
    [
        ("x86_64", "x86_64-linux-gnu/asm/unistd_64.h", r"#define __NR_(\w+)\s+(\d+)"),
        ("aarch64", "asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+)\s+(\d+)"),
    ],
)
def test_numbers_are_the_kernels(machine: str, header: str, pattern: str) -> None:
    path = Path("/usr/include", header)
    if not path.exists():
        pytest.skip(f"{path} is not installed")
    known = {name: int(number) for name, number in re.findall(pattern, path.read_text())}
    known.setdefault("newfstatat", known.get("fstatat", -1))
    assert {name: known[name] for name in numbers(machine)} == numbers(machine)


def test_the_filter_by_hand() -> None:
    """Walks the filter as the kernel would: what is in the list passes, all else does not."""
    steps = memoryview(filter_program("x86_64"))
    program = [steps[place : place + 8] for place in range(0, len(steps), 8)]
    opened = numbers("x86_64")["openat"]
    assert [walk(program, number) for number in (0, 1, 231)] == ["pass"] * 3
    assert [walk(program, number) for number in (41, 56, 57, 59, 62, 435, 0x40000001)] == (
        ["refuse"] * 7
    )
    assert walk(program, opened, flags=os.O_RDONLY | os.O_CLOEXEC) == "pass"
    assert walk(program, opened, flags=os.O_WRONLY) == "refuse"
    assert walk(program, opened, flags=os.O_CREAT) == "refuse"
    assert walk(program, 0, machine=0x40000003) == "refuse"
    assert CALLS.count("openat") == 1


def walk(program: list[Any], number: int, flags: int = 0, machine: int = 0xC000003E) -> str:
    data, register, place = {0: number, 4: machine, 32: flags}, 0, 0
    while True:
        code = int.from_bytes(program[place][:2], "little")
        right, wrong = program[place][2], program[place][3]
        value = int.from_bytes(program[place][4:], "little")
        place += 1
        if code == 0x20:
            register = data[value]
        elif code == 0x15:
            place += right if register == value else wrong
        elif code == 0x45:
            place += right if register & value else wrong
        elif code == 0x05:
            place += value
        else:
            return "pass" if value == 0x7FFF0000 else "refuse"
