"""The other side of the sandbox: walls itself in, then grades. Run as a script, with `-I`.

It imports nothing of Burnish: it is the only file of the project that lives beside foreign code.
Walls: limits of CPU time, memory and files; Landlock, so that only Python's own files can be read
(Linux 5.13); seccomp, so that no call starts a process, opens a socket or writes a file. Where the
system has no such walls, an audit hook refuses the same; code that tries hard gets around a hook.
"""

import ctypes
import errno
import json
import math
import os
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType
from typing import Any

_NAME = "grader.py"
_LONGEST = 2000  # characters of an error that are told

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
# Bits of open's flags that write: access mode, O_CREAT, O_TRUNC, O_APPEND.
_WRITES = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Landlock's rights of its first version; reading is two files' and folders' and running one.
_RIGHTS, _READS, _READS_FILE = (1 << 13) - 1, 0b1101, 0b101

# What a program that computes asks of the kernel: name, number on x86-64, number on arm64.
CALLS = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, lseek 8 62, close 3 57, dup 32 23,
fstat 5 80, newfstatat 262 79, statx 332 291, stat 4 -, lstat 6 -, access 21 -, faccessat 269 48,
faccessat2 439 439, getdents64 217 61, readlink 89 -, readlinkat 267 78, getcwd 79 17, uname 63 160,
sysinfo 99 179, poll 7 -, ppoll 271 73, ioctl 16 29, fcntl 72 25, mmap 9 222, mprotect 10 226,
munmap 11 215, mremap 25 216, madvise 28 233, brk 12 214, futex 202 98, sched_yield 24 124,
sched_getaffinity 204 123, clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115,
nanosleep 35 101, getrandom 318 278, gettimeofday 96 169, times 100 153, getrusage 98 165,
getpid 39 172, gettid 186 178, getppid 110 173, getuid 102 174, geteuid 107 175, getgid 104 176,
getegid 108 177, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139,
sigaltstack 131 132, exit 60 93, exit_group 231 94, set_robust_list 273 99, set_tid_address 218 96,
rseq 334 293, arch_prctl 158 -, getrlimit 97 163, restart_syscall 219 128, openat 257 56
"""
_COLUMN = {"x86_64": 1, "aarch64": 2}
_MACHINE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_REFUSED = ("socket.", "subprocess.", "os.", "shutil.", "ctypes.", "winreg.", "signal.pthread_kill")
_HARMLESS = ("os.walk", "os.fwalk", "os.putenv", "os.unsetenv", "os.add_dll_directory")
_LOOKS = ("os.listdir", "os.scandir")


def numbers(machine: str) -> dict[str, int]:
    """The calls that are allowed on a machine, by name."""
    rows = [entry.split() for entry in CALLS.replace("\n", " ").split(",")]
    column = _COLUMN[machine]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def filter_program(machine: str) -> bytes:
    """The seccomp filter in classic BPF: code, jump if true, jump if not, value."""
    allowed = numbers(machine)
    openat = allowed.pop("openat")
    count = len(allowed)
    steps = [
        (0x20, 0, 0, 4),  # the machine whose numbers are meant
        (0x15, 0, count + 4, _MACHINE[machine]),
        (0x20, 0, 0, 0),  # the number of the call
        (0x15, count + 3, 0, openat),
        *((0x15, count - place, 0, number) for place, number in enumerate(allowed.values())),
        (0x05, 0, 0, 1),  # none of them
        (0x06, 0, 0, _ALLOW),
        (0x06, 0, 0, _REFUSE),
        (0x20, 0, 0, 16 + 8 * 2),  # the flags of openat
        (0x45, 0, 1, _WRITES),
        (0x06, 0, 0, _REFUSE),
        (0x06, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def limit(seconds: int, memory: int) -> None:
    """Bounds the process; a soft limit of CPU time ends it with a signal that can be told."""
    bounds = {
        "RLIMIT_CPU": (seconds, seconds + 1),
        "RLIMIT_AS": (memory, memory),
        "RLIMIT_FSIZE": (0, 0),
        "RLIMIT_NOFILE": (64, 64),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_NPROC": (0, 0),
    }
    for name, bound in bounds.items():
        if hasattr(resource, name):
            resource.setrlimit(getattr(resource, name), bound)


def readable() -> list[str]:
    """Python's own files, the system's libraries, and the empty folder that it runs in."""
    places = [*sys.path, sys.prefix, sys.base_prefix, "/lib", "/lib64", "/usr/lib", "."]
    known = {os.path.realpath(place) for place in places if place and Path(place).exists()}
    return sorted(known - {"/"})


def close_files(libc: Any, places: Iterable[str]) -> bool:
    """Landlock: nothing but `places` can be opened from here on. False where there is none."""
    if libc.syscall(444, None, 0, 1) < 1:
        return False
    rights = ctypes.c_uint64(_RIGHTS)
    rules = libc.syscall(444, ctypes.byref(rights), ctypes.sizeof(rights), 0)
    if rules < 0:
        return False
    for place in places:
        folder = os.open(place, os.O_PATH | os.O_CLOEXEC)
        allowed = _READS if Path(place).is_dir() else _READS_FILE
        rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, folder))
        libc.syscall(445, rules, 1, rule, 0)
        os.close(folder)
    closed = libc.syscall(446, rules, 0) == 0
    os.close(rules)
    return bool(closed)


def close_calls(libc: Any) -> bool:
    """Seccomp: no process, no socket, no writing. False where there is none."""
    machine = os.uname().machine
    if machine not in _MACHINE:
        return False
    code = ctypes.create_string_buffer(filter_program(machine))
    program = ctypes.create_string_buffer(
        struct.pack("@HP", (len(code) - 1) // 8, ctypes.addressof(code))
    )
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0) == 0)


def hook(places: Iterable[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that refuses what the walls would."""
    inside = tuple(f"{place}{os.sep}" for place in places)

    def outside(path: Any) -> bool:
        if isinstance(path, int):
            return False
        return not f"{os.path.realpath(os.fsdecode(path or '.'))}{os.sep}".startswith(inside)

    def refuse(event: str, values: tuple[Any, ...]) -> None:
        if event == "open":
            wrong = bool(values[2] & _WRITES) or outside(values[0])
        elif event in _LOOKS:
            wrong = outside(values[0])
        else:
            wrong = event.startswith(_REFUSED) and event not in _HARMLESS
        if wrong:
            raise PermissionError(errno.EPERM, f"{event} is not allowed in a grader")

    return refuse


def wall_in(*, walls: bool = True) -> None:
    """Files first: seccomp would refuse Landlock's own calls."""
    places = readable()
    closed = False
    if walls and sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        files = close_files(libc, places)
        closed = close_calls(libc) and files
    if not closed:
        sys.addaudithook(hook(places))


def graded(source: str, sample: Any, item: Any, *, check: bool) -> dict[str, Any]:
    """The grade, or in what way the program failed; `check` only looks for its function."""
    try:
        code: CodeType = compile(source, _NAME, "exec")
        names: dict[str, Any] = {"__name__": "grader"}
        exec(code, names)
        grade = names.get("grade")
        if not callable(grade):
            return {"error": "the source has no function grade(sample, item)"}
        return {"score": 0.0} if check else _number(grade(sample, item))
    except MemoryError:
        return {"error": "MemoryError: the memory that it may have is used up", "kind": "memory"}
    except BaseException as error:  # SystemExit too: the program ended and gave no grade
        return {"error": _told(error)}


def _number(value: Any) -> dict[str, Any]:
    # numpy's numbers are numbers: they have __float__, as texts have not.
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        return {"error": f"grade returned {type(value).__name__}, not a number"}
    number = float(value)
    if not math.isfinite(number):
        return {"error": f"grade returned {number}"}
    return {"score": number}


def _told(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == _NAME]
    said = "".join(traceback.format_exception_only(error)).strip()
    return (f"line {lines[-1]}: {said}" if lines else said)[:_LONGEST]


def main() -> None:
    """Reads what to grade from standard input, and writes the result to the pipe it was given."""
    pipe, seconds, memory = (int(value) for value in sys.argv[1:4])
    given = json.load(sys.stdin)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # no thread can be started
    sys.setrecursionlimit(1000)
    limit(seconds, memory)
    wall_in(walls=given["walls"])
    found = graded(given["source"], given["sample"], given["item"], check=given["check"])
    sys.stdout.flush()
    os.write(pipe, json.dumps(found).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
