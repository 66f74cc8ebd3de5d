"""What the kernel keeps from a process that decodes: files, sockets, other processes.

Three layers, each enough for most of it, in case one is missing. Linux's seccomp lets through the few system calls that
decoding needs (x86-64 and ARM64); Linux's Landlock closes the file system and TCP; everywhere but on Windows the limits
of the process allow no new file descriptor, no byte in a file and (unless it is root's) no process. Where there is
neither seccomp nor Landlock, files can still be deleted and renamed, and signals sent.

Called by ctypes: the Python packages for seccomp and Landlock are not maintained, or need a library of the system.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38

# --- seccomp: see seccomp(2) and linux/filter.h -----------------------------------------------------------------------

SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC = 1, 1
KILL, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data; an argument has 8 bytes, the lower half first."""
AT_EMPTY_PATH = 0x1000

CALLS = {
    "x86_64": {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12,
        "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "readv": 19, "writev": 20, "sched_yield": 24,
        "mremap": 25, "madvise": 28, "nanosleep": 35, "alarm": 37, "setitimer": 38, "getpid": 39, "exit": 60,
        "gettimeofday": 96, "getrusage": 98, "sysinfo": 99, "sigaltstack": 131, "gettid": 186, "futex": 202,
        "sched_getaffinity": 204, "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229,
        "clock_nanosleep": 230, "exit_group": 231, "newfstatat": 262, "prlimit64": 302, "getcpu": 309, "getrandom": 318,
        "seccomp": 317,
    },
    "aarch64": {
        "close": 57, "lseek": 62, "read": 63, "write": 64, "readv": 65, "writev": 66, "newfstatat": 79, "fstat": 80,
        "exit": 93, "exit_group": 94, "futex": 98, "nanosleep": 101, "setitimer": 103, "clock_gettime": 113,
        "clock_getres": 114, "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124,
        "restart_syscall": 128, "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139,
        "getrusage": 165, "getcpu": 168, "gettimeofday": 169, "getpid": 172, "gettid": 178, "sysinfo": 179, "brk": 214,
        "munmap": 215, "mremap": 216, "mmap": 222, "mprotect": 226, "madvise": 233, "prlimit64": 261, "getrandom": 278,
        "seccomp": 277,
    },
}  # fmt: skip
"""Numbers of the system calls that decoding needs: memory, time, pipes that are open, the end. And seccomp's own, which
is not allowed afterwards."""
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

ONLY_WITH = {"newfstatat": (3, AT_EMPTY_PATH), "prlimit64": (0, 0)}
"""Calls let through with one value of one argument: of open files, not of names; of this process, not of others."""

# --- Landlock: see landlock(7) ----------------------------------------------------------------------------------------

LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_CREATE_RULESET_VERSION = 1
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Version of Landlock -> how many rights of the file system it knows, the lowest bits."""


def lock_down() -> tuple[str, ...]:
    """Give up what decoding does not need, for good. All imports come first. Returns the layers that hold, of
    "no_new_privs", "landlock", "seccomp" and "limits"."""
    layers = {"landlock": _landlock, "limits": _limits, "seccomp": _seccomp}
    if not _no_new_privileges():
        return ("limits",) if _limits() else ()
    return ("no_new_privs", *(name for name, close in layers.items() if close()))


def _no_new_privileges() -> bool:
    if sys.platform != "linux":
        return False
    _libc().prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # others of this user neither trace it nor read its memory
    return bool(_libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)


def _landlock() -> bool:
    """No file is opened, made, changed or deleted, no TCP spoken; with newer kernels no signal leaves this process."""
    version = _call(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    if version < 1:
        return False
    rights = max(count for first, count in FILE_RIGHTS.items() if first <= version)
    network, scope = (0b11 if version >= 4 else 0), (0b11 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _call(LANDLOCK_CREATE_RULESET, struct.pack("<QQQ", (1 << rights) - 1, network, scope), size, 0)
    if ruleset < 0:
        return False
    try:
        return _call(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0  # no rule was added, so nothing is allowed
    finally:
        os.close(ruleset)


def _seccomp() -> bool:
    """All system calls but those of `CALLS` fail with EPERM; those of another architecture end the process."""
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    if machine not in CALLS or struct.calcsize("P") != 8:
        return False
    program = seccomp_filter(machine)
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    number = CALLS[machine]["seccomp"]
    return _call(number, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, header) == 0


def seccomp_filter(machine: str) -> bytes:
    """The program that judges system calls, 8 bytes an instruction. machine: "x86_64" or "aarch64"."""
    calls = {name: number for name, number in CALLS[machine].items() if name != "seccomp"}
    program = [
        _instruction(LOAD, ARCHITECTURE),
        _instruction(EQUAL, AUDIT[machine], then=1),
        _instruction(RETURN, KILL),
        _instruction(LOAD, NUMBER),
    ]
    for name, number in calls.items():
        if name not in ONLY_WITH:
            program += [_instruction(EQUAL, number, otherwise=1), _instruction(RETURN, ALLOW)]
    for name, (argument, value) in ONLY_WITH.items():
        program += [
            _instruction(EQUAL, calls[name], otherwise=4),
            _instruction(LOAD, ARGUMENTS + 8 * argument),
            _instruction(EQUAL, value, otherwise=1),
            _instruction(RETURN, ALLOW),
            _instruction(RETURN, ERRNO | errno.EPERM),
        ]
    return b"".join([*program, _instruction(RETURN, ERRNO | errno.EPERM)])


def _instruction(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """struct sock_filter. then, otherwise: instructions to skip."""
    return struct.pack("=HBBI", code, then, otherwise, value)


def _limits() -> bool:
    """No byte in a file, no file or socket opened, no process begun, no memory written to disk."""
    held = [limit(name, 0) for name in ("RLIMIT_FSIZE", "RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_NPROC")]
    return all(held)


def limit(name: str, value: int, soft_only: bool = False) -> bool:
    """A limit of this process, at most as it is. soft_only: a later call may raise it again. False where the system
    does not have it."""
    if resource is None:
        return False
    what = getattr(resource, name)
    hard = resource.getrlimit(what)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS does not know them all
        resource.setrlimit(what, (value, hard if soft_only else value))
        return True
    return False


def _call(number: int, *values: bytes | int | None) -> int:
    """A system call; -1 where it fails, as on kernels that do not know it."""
    given = [ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value) for value in values]
    return int(_libc().syscall(ctypes.c_long(number), *given))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
