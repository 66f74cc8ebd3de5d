"""A decoding process that was taken over: it does what its question says, in the sandbox or in one layer of it."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
from collections.abc import Callable

from agcxr.data import sandbox
from agcxr.data.isolation import Answer, address_space, confine, serve


def prepare(layer: object) -> Answer:
    for name in ("landlock", "seccomp", "limits"):
        if layer not in ("all", name):
            setattr(sandbox, f"_{name}", lambda: False)
    layers = confine(address_space() + (1 << 28))

    def answer(question: list[bytes]) -> list[bytes]:
        what, *more = (part.decode() for part in question)
        if what == "layers":
            return [json.dumps(layers).encode()]
        if what == "environment":
            return [json.dumps(dict(os.environ)).encode()]
        try:
            TRIED[what](*more)
        except (OSError, MemoryError, ValueError):
            return [b"refused"]
        return [b"done"]

    return answer


def fork() -> None:
    if not os.fork():
        os._exit(0)


def connect(port: str) -> None:
    with socket.socket() as line:
        line.connect(("127.0.0.1", int(port)))


def listen() -> None:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))


def read(path: str) -> None:
    os.read(os.open(path, os.O_RDONLY), 64)


def write(path: str) -> None:
    os.write(os.open(path, os.O_WRONLY | os.O_CREAT), b"x")


def truncate(path: str) -> None:
    os.truncate(path, 0)


def trace(pid: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, int(pid), None, None):
        raise OSError(ctypes.get_errno(), "ptrace")


def spin() -> None:
    while True:
        pass


def limit_another(pid: str) -> None:
    resource.prlimit(int(pid), resource.RLIMIT_NOFILE, (0, 0))


def raise_limits() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


TRIED: dict[str, Callable[..., object]] = {
    "read": read,
    "write": write,
    "delete": os.remove,
    "rename": lambda path: os.rename(path, f"{path}.away"),
    "truncate": truncate,
    "symlink": lambda path: os.symlink(path, f"{path}.link"),
    "mkdir": lambda path: os.mkdir(f"{path}.folder"),
    "rmdir": os.rmdir,
    "connect": connect,
    "listen": listen,
    "fork": fork,
    "execute": lambda: os.execv("/bin/true", ["/bin/true"]),
    "kill": lambda pid: os.kill(int(pid), signal.SIGKILL),
    "trace": trace,
    "limit another": limit_another,
    "memory": lambda: bytearray(1 << 30),
    "spin": spin,
    "raise limits": raise_limits,
}

if __name__ == "__main__":
    serve(prepare)
