"""What a decoder could do to this machine if a film took it over: tried, and refused by the kernel."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from contextlib import closing

import pytest

from agcxr.data import sandbox
from agcxr.data.isolation import Child, ChildError

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="seccomp and Landlock are Linux's")
TOKEN = "token-of-the-server-0123456789"
LAYERS = ("seccomp", "landlock", "limits")


@pytest.fixture(params=["all", *LAYERS])
def escape(request, tmp_path, monkeypatch):
    """Ask a sandboxed process for something, with all layers or with one of them alone."""
    monkeypatch.setenv("AGCXR_TOKEN", TOKEN)
    child = Child("escaping_child", request.param)
    layers = json.loads(child.ask([b"layers"], 60)[0])
    if request.param != "all" and request.param not in layers:
        pytest.skip(f"this kernel has no {request.param}")

    def ask(what: str, *more: object) -> str:
        return child.ask([what.encode(), *(str(one).encode() for one in more)], 60)[0].decode()

    ask.layer, ask.child = request.param, child
    yield ask
    child.stop()


def holds(escape, *layers: str) -> None:
    """Only these layers alone forbid it."""
    if escape.layer not in ("all", *layers):
        pytest.skip(f"{escape.layer} alone does not forbid it")


@LINUX
def test_layers_are_told_in_the_kernels_words(escape):
    """What the process claims of itself is what the kernel says of it."""
    layers = json.loads(escape.child.ask([b"layers"], 60)[0])
    assert layers[0] == "no_new_privs"
    with open(f"/proc/{escape.child.start().pid}/status") as file:
        status = dict(line.split(maxsplit=1) for line in file if len(line.split()) > 1)
    assert status["NoNewPrivs:"].strip() == "1"
    assert status["Seccomp:"].strip() == ("2" if "seccomp" in layers else "0")


@LINUX
def test_the_environment_is_empty(escape):
    """What it was started with too: a process can read that of itself."""
    assert escape("environment") == "{}"
    with open(f"/proc/{escape.child.start().pid}/environ", "rb") as file:
        started = file.read()
    assert TOKEN.encode() not in started
    assert b"HOME=" not in started


@LINUX
@pytest.mark.parametrize("path", ["/proc/{parent}/environ", "/proc/self/environ", "/etc/passwd", "{secret}"])
def test_no_file_is_read(escape, tmp_path, path):
    secret = tmp_path / "token"
    secret.write_text(TOKEN)
    assert escape("read", path.format(parent=os.getpid(), secret=secret)) == "refused"


@LINUX
def test_no_file_is_made_deleted_or_renamed(escape, tmp_path):
    holds(escape, "seccomp", "landlock")
    film = tmp_path / "film.png"
    film.write_bytes(b"film")
    for what in ("delete", "rename", "truncate", "symlink", "mkdir", "rmdir"):
        target = tmp_path / "empty" if what == "rmdir" else film
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert escape(what, target) == "refused", what
    assert film.read_bytes() == b"film"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "film.png"]


@LINUX
def test_nothing_is_written(escape, tmp_path):
    assert escape("write", tmp_path / "new") == "refused"
    assert not (tmp_path / "new").exists()


@LINUX
def test_no_connection_is_opened(escape):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.settimeout(0.2)
        assert escape("connect", server.getsockname()[1]) == "refused"
        with pytest.raises(TimeoutError):
            server.accept()
    assert escape("listen") == "refused"


@LINUX
def test_no_process_is_begun(escape):
    if os.getuid() == 0:
        holds(escape, "seccomp")  # root has no limit of processes, and Landlock says nothing of them
    else:
        holds(escape, "seccomp", "limits")
    assert escape("fork") == "refused"


@LINUX
def test_nothing_is_run(escape):
    """Landlock forbids it since nothing may be executed."""
    holds(escape, "seccomp", "landlock")
    assert escape("execute") == "refused"


@LINUX
def test_no_other_process_is_touched(escape):
    holds(escape, "seccomp")
    victim = subprocess.Popen(["sleep", "60"])
    try:
        for what in ("kill", "trace", "limit another"):
            assert escape(what, victim.pid) == "refused", what
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


@LINUX
def test_memory_is_bounded(escape):
    assert escape("memory") == "refused"


@LINUX
def test_time_is_bounded():
    child = Child("escaping_child", "all")
    child.start()
    with pytest.raises(ChildError, match="took longer than 0.5 seconds"):
        child.ask([b"spin"], 0.5)


@LINUX
def test_it_cannot_be_undone(escape):
    holds(escape, "limits")
    assert escape("raise limits") == "refused"


def test_without_seccomp_and_landlock_the_limits_hold(monkeypatch):
    """An old kernel answers -1 (ENOSYS) to both."""
    monkeypatch.setattr(sandbox, "_call", lambda *_: -1)
    assert not sandbox._landlock()
    assert not sandbox._seccomp()


@pytest.mark.parametrize("machine", sorted(sandbox.CALLS))
def test_the_filter_judges_as_it_should(machine):
    """The program, run here: every call that decoding needs, none that it does not."""
    program = sandbox.seccomp_filter(machine)
    calls = {name: number for name, number in sandbox.CALLS[machine].items() if name != "seccomp"}
    audit = sandbox.AUDIT[machine]
    other = next(number for name, number in sandbox.AUDIT.items() if name != machine)
    for name, number in calls.items():
        argument, value = sandbox.ONLY_WITH.get(name, (0, 0))
        right, wrong = [0] * 6, [0] * 6
        right[argument], wrong[argument] = value, value + 1
        assert run(program, number, audit, right) == sandbox.ALLOW, name
        assert run(program, number, other, right) == sandbox.KILL
        if name in sandbox.ONLY_WITH:
            assert run(program, number, audit, wrong) == sandbox.ERRNO | 1, name
    refused = {number: run(program, number, audit, [0] * 6) for number in range(600) if number not in calls.values()}
    assert set(refused.values()) == {sandbox.ERRNO | 1}
    assert run(program, 0x40000000, audit, [0] * 6) == sandbox.ERRNO | 1  # the x32 names of the same calls


def run(program: bytes, number: int, audit: int, arguments: list[int]) -> int:
    """A machine for such programs, as linux/filter.h has it."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *arguments)
    at, loaded = 0, 0
    while True:
        code, then, otherwise, value = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if code == sandbox.LOAD:
            (loaded,) = struct.unpack_from("=I", data, value)
        elif code == sandbox.EQUAL:
            at += then if loaded == value else otherwise
        else:
            assert code == sandbox.RETURN
            return value
