"""Programs that must not do what they try, each in a process of its own."""

import ctypes
import fcntl
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from burnish.evaluation.graders.sandbox import Limits, check_source, run_grade, sweep
from burnish.evaluation.graders.sandbox_child import CALLS, filter_program, numbers
from burnish.evaluation.graders.template import GradingError

LIMITS = Limits(seconds=20.0, memory=256 << 20, output=4096)
HOOKED = Limits(seconds=20.0, memory=256 << 20, output=4096, walls=False)
F_SETSIG, F_SETOWN_EX, FIOSETOWN, SIOCSPGRP = 10, 15, 0x8901, 0x8902
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
        ("return 'good'", " str"),
        ("return float('nan')", " nan"),
        ("return grade(sample, item)", "RecursionError"),
        ("sys.exit(0)", "SystemExit"),
    ],
)
def test_a_program_that_is_refused(body: str, said: str, limits: Limits) -> None:
    error = failure(program(body), limits)
    assert (error.flag, error.kind) == (RUNTIME, None)
    assert said in error.message


def test_neither_a_thread_nor_its_parents_limits() -> None:
    assert (
        "can't start new thread"
        in failure(program("__import__('threading').Thread(target=print).start()")).message
    )
    body = "__import__('resource').prlimit(os.getppid(), 7, (1, 1))"
    assert "PermissionError" in failure(program(body)).message


def test_another_way_to_the_kernel_is_refused_too() -> None:
    """Calls without Python's own functions: socket(AF_INET, SOCK_STREAM, 0)."""
    source = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "def grade(sample, item):\n    return libc.socket(2, 1, 0) * 100 - ctypes.get_errno()\n"
    )
    assert run_grade(source, {}, {}, LIMITS) == -101.0  # refused with EPERM, which is 1


# Ways to have the kernel signal a process, or to reach it without a signal; each is tried on a
# child of the test's own. `v` is its number.
ESCAPES = {
    "the owner of a pipe": "control(1, 8, v); control(1, 10, 9); control(1, 4, 0x2000 | 1)",
    "the owner, as a group": "control(1, 8, -v); control(1, 4, 0x2000)",
    "the owner, extended": "control(1, 15, ctypes.byref((ctypes.c_int * 2)(1, v)))",
    "commands with an upper half": "control(1, (1 << 32) | 8, v); control(1, (7 << 32) | 10, 9)",
    "asynchronous by ioctl": "request(1, 0x5452, ctypes.byref(ctypes.c_int(1)))",
    "the owner by ioctl": "request(1, 0x8901, ctypes.byref(ctypes.c_int(v)))",
    "the group by ioctl": "request(1, 0x8902, ctypes.byref(ctypes.c_int(v)))",
    "typing into a terminal": "request(0, 0x5412, b'x')",
    "a notice of a folder": "control(libc.open(b'.', 0), 1026, 1)",
    "a lease": "control(0, 1024, 0)",
    "prctl": "call(157, 1, 9, 0, 0, 0)",
    "kill": "call(62, v, 9)",
    "kill with the bit of x32": "call(0x40000000 | 62, v, 9)",
    "tkill": "call(200, v, 9)",
    "tgkill": "call(234, v, v, 9)",
    "rt_sigqueueinfo": "call(129, v, 9, ctypes.create_string_buffer(128))",
    "rt_tgsigqueueinfo": "call(297, v, v, 9, ctypes.create_string_buffer(128))",
    "pidfd_open": "call(434, v, 0)",
    "a timer": "call(222, 0, None, ctypes.create_string_buffer(8))",
    "an alarm": "call(37, 1)",
    "a queue's notice": "call(244, 0, None)",
    "its limits": "call(302, v, 7, (ctypes.c_ulong * 2)(0, 0), None)",
    "its priority": "call(141, 0, v, 19)",
    "its processors": "call(203, v, 8, (ctypes.c_ulong * 1)(1))",
    "its memory": "call(311, v, None, 0, None, 0, 0)",
    "ptrace": "call(101, 16, v, 0, 0)",
    "shared memory": "call(29, 1, 4096, 0o1777)",
    "a memory file": "call(319, b'x', 0)",
    "another user": "call(117, 0, 0, 0)",
    "another root": "call(161, b'.')",
    "a namespace": "call(272, 0x10000000)",
    "a mount": "call(165, b'x', b'.', b'tmpfs', 0, None)",
    "io_uring": "call(425, 1, ctypes.create_string_buffer(120))",
    "a filter of its own": "call(317, 1, 0, None)",
    "bpf": "call(321, 0, None, 0)",
    "a look past Landlock": "call(257, -100, b'.', os.O_PATH)",
}
_TRIES = """
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
made = []
def tell(result):
    made.append(-ctypes.get_errno() if result == -1 else result)
def long(value):
    return ctypes.c_long(value) if isinstance(value, int) else value
def call(number, *values):
    tell(libc.syscall(ctypes.c_long(number), *map(long, values)))
def control(file, command, value):
    call(72, file, command, value)
def request(file, command, value):
    call(16, file, command, value)
def grade(sample, item):
    v = item["victim"]
    os.write(1, b"x")
    BODY
    os.write(1, b"x")
    time.sleep(0.1)
    return sum(value != -1 for value in made)
"""


@contextmanager
def victim() -> Iterator["subprocess.Popen[bytes]"]:
    """A sleeping process in a group of its own."""
    asleep = [sys.executable, "-I", "-c", "print(flush=True); import time; time.sleep(60)"]
    with subprocess.Popen(asleep, stdout=subprocess.PIPE, process_group=0) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def has_walls() -> str | None:
    """Why escapes cannot be tried here, if they cannot."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "the calls are written with the numbers of Linux on x86-64"
    status = Path("/proc/self/status").read_text()
    return None if "Seccomp:" in status else "this kernel has no seccomp"


def landlock() -> int:
    if sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(444, None, 0, 1)))


needs_walls = pytest.mark.skipif(has_walls() is not None, reason=str(has_walls()))
needs_landlock = pytest.mark.skipif(landlock() < 1, reason="this kernel has no Landlock")


@needs_walls
def test_no_escape_reaches_another_process() -> None:
    """Each is refused by number or argument, with EPERM, and leaves the victim as it was."""
    with victim() as process:
        limits, priority = os.sched_getaffinity(process.pid), os.getpriority(0, process.pid)
        for name, body in ESCAPES.items():
            source = _TRIES.replace("BODY", body)
            got_through = run_grade(source, {}, {"victim": process.pid}, LIMITS)
            assert (name, got_through) == (name, 0.0)
            assert process.poll() is None, name
        assert (os.sched_getaffinity(process.pid), os.getpriority(0, process.pid)) == (
            limits,
            priority,
        )


@pytest.mark.parametrize("limits", [LIMITS, HOOKED], ids=["walls", "hook"])
@pytest.mark.parametrize(
    "body",
    [
        "import fcntl; fcntl.fcntl(1, fcntl.F_SETOWN, item['victim'])",
        "import fcntl; fcntl.fcntl(1, fcntl.F_SETFL, os.O_ASYNC)",
        "import fcntl; fcntl.flock(0, fcntl.LOCK_EX)",
        "import fcntl, termios; fcntl.ioctl(1, termios.FIOASYNC, 1)",
        "os.killpg(item['victim'], 9)",
        "os.stat('/etc/passwd')",
        "os.lstat('/etc/passwd')",
        "os.readlink('/proc/self/exe')",
        "os.statvfs('/')",
        "__import__('pathlib').Path('/etc/passwd').stat()",
        "__import__('posix').stat('/etc')",
        "os.scandir('/etc')",
        "open('/proc/self/environ')",
    ],
)
def test_python_says_what_is_refused(body: str, limits: Limits) -> None:
    with victim() as process:
        with pytest.raises(GradingError, match="PermissionError"):
            run_grade(program(body), {}, {"victim": process.pid}, limits)
        assert process.poll() is None


def test_what_programs_ask_of_files_and_paths_still_works() -> None:
    assert run_grade(program("return os.access('/etc/passwd', 0)"), {}, {}, LIMITS) == 0.0
    body = (
        "import fcntl\n    os.set_blocking(1, False)\n    fcntl.fcntl(1, fcntl.F_GETFL)\n"
        "    import decimal, statistics, difflib, sqlite3, zoneinfo\n"
        "    return os.stat('.').st_nlink > 0 and not sys.stdout.isatty() and os.path.isdir('.')"
    )
    assert run_grade(program(body), {}, {}, LIMITS) == 1.0


_LOOK = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
room = ctypes.create_string_buffer(4096)
def grade(sample, item):
    found = [libc.stat(b"/etc/passwd", room), libc.access(b"/etc", 0), libc.open(b"/etc", 0x200000)]
    found += [libc.readlink(b"/proc/self/exe", room, 4096), libc.stat(item["here"].encode(), room)]
    return sum(value != -1 for value in found)
"""


@needs_landlock
def test_no_other_path_exists() -> None:
    """Also to calls that Landlock does not see, where the system gives a root of one's own."""
    probe = (
        "import ctypes; libc = ctypes.CDLL(None); import os\n"
        "flags = 0x20000 if os.geteuid() == 0 else 0x10020000\n"
        "print(libc.unshare(flags) == 0 and libc.mount(b'n', b'/', None, 0x44000, None) == 0)"
    )
    made = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    if made.stdout.strip() != "True":
        pytest.skip("neither root nor a user namespace here, so stat by the C library sees paths")
    assert run_grade(_LOOK, {}, {"here": __file__}, LIMITS) == 0.0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@needs_landlock
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_root_grades_as_another_user(umask: int) -> None:
    body = "return os.getuid() == os.geteuid() == os.getgid() > 60000"
    before = os.umask(umask)  # a server's files are its user's alone
    try:
        assert run_grade(program(body), {}, {}, LIMITS) == 1.0
    finally:
        os.umask(before)


def test_a_grader_that_nobody_waits_for_is_ended() -> None:
    stop, began = threading.Event(), time.monotonic()
    threading.Timer(0.5, stop.set).start()
    assert failure(program("time.sleep(60)"), replace(LIMITS, stop=stop)).kind == "cancelled"
    assert time.monotonic() - began < 10
    assert failure(program("return 1"), replace(LIMITS, stop=stop)).kind == "cancelled"
    assert failure(program("return 1"), replace(LIMITS, ends=0.0)).kind == "timeout"


def test_folders_of_killed_servers_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "burnish-grader-left"
    left.mkdir()
    (left / "task.json").write_text("{}")
    others = tmp_path / "grader-of-another-program"
    others.mkdir()
    (tmp_path / "burnish-grader-link").symlink_to(others)
    code = (
        "from burnish.evaluation.graders.sandbox import run_grade\n"
        "run_grade('import time\\ndef grade(s, i): time.sleep(60)', {}, {})"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as server:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("burnish-grader-*"))) < 3:
            assert time.monotonic() < deadline, "the server started no grader"
            time.sleep(0.05)
        sweep()
        names = {path.name for path in tmp_path.iterdir()}
        assert left.name not in names
        assert len(names) == 3
        server.send_signal(signal.SIGKILL)
    sweep()
    assert {path.name for path in tmp_path.iterdir()} == {others.name, "burnish-grader-link"}


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
        ("def score(sample, item): return 1\n", r"\bgrade\(sample, item\)"),
        ("def grade(sample, item) return 1\n", "SyntaxError"),
        ("grade = 3\n", r"\bgrade\(sample, item\)"),
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
    opened, control, request = (numbers("x86_64")[name] for name in ("openat", "fcntl", "ioctl"))
    assert [walk(program, number) for number in (0, 1, 231)] == ["pass"] * 3
    assert [walk(program, number) for number in (41, 56, 57, 59, 62, 435, 0x40000001)] == (
        ["refuse"] * 7
    )
    assert walk(program, opened, flags=os.O_RDONLY | os.O_CLOEXEC) == "pass"
    assert walk(program, opened, flags=os.O_WRONLY) == "refuse"
    assert walk(program, opened, flags=os.O_CREAT) == "refuse"
    assert walk(program, opened, flags=os.O_PATH) == "refuse"
    assert walk(program, 0, machine=0x40000003) == "refuse"
    assert CALLS.count("openat") == 1
    for command, flags, ends in [
        (fcntl.F_GETFD, 0, "pass"),
        (fcntl.F_SETFD, 1, "pass"),
        (fcntl.F_DUPFD_CLOEXEC, 3, "pass"),
        (fcntl.F_SETFL, os.O_WRONLY | os.O_NONBLOCK, "pass"),
        (fcntl.F_SETFL, os.O_ASYNC, "refuse"),
        (fcntl.F_SETOWN, 0, "refuse"),
        (F_SETOWN_EX, 0, "refuse"),
        (F_SETSIG, 0, "refuse"),
        (fcntl.F_NOTIFY, 0, "refuse"),
        (fcntl.F_SETLEASE, 0, "refuse"),
        (fcntl.F_SETLK, 0, "refuse"),
        (fcntl.F_SETPIPE_SZ, 0, "refuse"),
    ]:
        assert walk(program, control, flags=flags, command=command) == ends, command
    known = [termios.TCGETS, termios.FIONREAD, termios.FIOCLEX]
    assert [walk(program, request, command=value) for value in known] == ["pass"] * 3
    for value in (termios.FIOASYNC, FIOSETOWN, SIOCSPGRP, termios.TIOCSTI, termios.TIOCSPGRP):
        assert walk(program, request, command=value) == "refuse", value
    prctl, signals = 157, (62, 200, 234, 129, 297, 424, 222, 240, 302, 141, 203)
    assert {walk(program, call) for call in (prctl, *signals)} == {"refuse"}


def walk(
    program: list[Any], number: int, flags: int = 0, machine: int = 0xC000003E, command: int = 0
) -> str:
    """Of the arguments the lower halves are given: the filter must ask for no other."""
    data, register, place = {0: number, 4: machine, 24: command, 32: flags}, 0, 0
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
