"""Dockerfile and compose.yaml without Docker: the same steps and commands in a clean Debian root, by bubblewrap.

    debootstrap --variant=minbase --include=python3-venv,python3-pip,ca-certificates trixie BASE
    python deploy/without_docker.py BASE OUT

BASE stands for the image python:3.13-slim. Every RUN, COPY, ENV, WORKDIR and USER of the Dockerfile is done in copies
of it under OUT, in order; the last one is the image. Then the services of compose.yaml are started with their own
commands, settings and rights, in a network of their own: Orthanc as Debian has it (apt-get install orthanc), node and
page from the image. A film is stored into Orthanc; its study must come to hold the results, and the page must answer
for the film to those who show the token. Needs root, bubblewrap, util-linux and the development environment.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import ctypes
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "a-token-for-this-rehearsal"
CLONE_NEWNET = 0x40000000
LIMIT = 600
"""MB that the image may have."""
NETWORK = ("/etc/resolv.conf", "/etc/ssl/certs", "/etc/pip.conf")
"""Files by which this machine reaches its package index."""
RESULTS = {"SR", "OT", "SEG"}
"""Modalities of report, picture and segmentation."""


@dataclass
class Image:
    """A stage of the Dockerfile: its file system, and what was said of how it runs."""

    root: Path
    environ: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"})
    folder: str = "/"
    user: str = "root"
    health: tuple[str, ...] = ()
    entry: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """Each instruction and its words, continued lines joined, comments left out."""
    lines = "\n".join(line for line in dockerfile.splitlines() if not line.startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, words = line.strip().partition(" ")
            yield name, words.strip()


def build(base: Path, out: Path) -> Image:
    """Do what the Dockerfile says; returns the last stage."""
    stages: dict[str, Image] = {}
    image = Image(base)
    for name, words in instructions((ROOT / "Dockerfile").read_text(encoding="utf-8")):
        start = time.perf_counter()
        if name == "FROM":
            stage = words.partition(" AS ")[2] or "image"
            image = stages[stage] = Image(out / stage)
            subprocess.run(["cp", "-a", str(base), str(image.root)], check=True)
        else:
            DO[name](image, words, stages)
        print(f"{time.perf_counter() - start:6.1f} s  {name} {words[:90]}", flush=True)
    return image


def _run(image: Image, words: str, stages: Mapping[str, Image]) -> None:
    network = [part for path in NETWORK if Path(path).exists() for part in ("--ro-bind", os.path.realpath(path), path)]
    index = {name: value for name, value in os.environ.items() if re.match(r"(PIP|UV|SSL)_(?!FIND_LINKS)", name)}
    settings = {**index, **image.environ, "PIP_BREAK_SYSTEM_PACKAGES": "1"}  # Debian's own pip asks for that
    words_of = [part for pair in settings.items() for part in ("--setenv", *pair)]
    mounts = ["--bind", str(image.root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/root", *network]
    script = ["bwrap", *mounts, "--clearenv", *words_of, "--chdir", image.folder, "/bin/sh", "-ec", words]
    subprocess.run(script, check=True, stdout=subprocess.DEVNULL)


def _copy(image: Image, words: str, stages: Mapping[str, Image]) -> None:
    *sources, target = words.split()
    stage = sources.pop(0).removeprefix("--from=") if sources[0].startswith("--from=") else None
    place = image.root / target.lstrip("/")
    if target.endswith("/"):
        place.mkdir(parents=True, exist_ok=True)
    for source in sources:
        if stage is None and f"!{source.split('/')[0]}" not in (ROOT / ".dockerignore").read_text().split():
            raise ValueError(f"COPY {source}: .dockerignore leaves it out")
        whole = stages[stage].root / source.lstrip("/") if stage else ROOT / source
        place.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", "--no-target-directory", str(whole), str(_inside(place, whole))], check=True)


def _inside(place: Path, source: Path) -> Path:
    """Files go into a folder that is there; the content of a folder goes where it is said to."""
    return place / source.name if place.is_dir() and source.is_file() else place


def _env(image: Image, words: str, stages: Mapping[str, Image]) -> None:
    for pair in shlex.split(words):
        name, _, value = pair.partition("=")
        image.environ[name] = re.sub(r"\$(\w+)", lambda of: image.environ.get(of[1], ""), value)


def _workdir(image: Image, words: str, stages: Mapping[str, Image]) -> None:
    image.folder = words
    (image.root / words.lstrip("/")).mkdir(parents=True, exist_ok=True)


def _keep(name: str, read: Callable[[str], Any]) -> Callable[[Image, str, Mapping[str, Image]], None]:
    return lambda image, words, stages: setattr(image, name, read(words))


DO: dict[str, Callable[[Image, str, Mapping[str, Image]], None]] = {
    "RUN": _run,
    "COPY": _copy,
    "ENV": _env,
    "WORKDIR": _workdir,
    "USER": _keep("user", str),
    "VOLUME": _keep("volumes", lambda words: tuple(words.split())),
    "EXPOSE": lambda image, words, stages: None,
    "HEALTHCHECK": _keep("health", lambda words: tuple(json.loads(words.partition("CMD ")[2]))),
    "ENTRYPOINT": _keep("entry", lambda words: tuple(json.loads(words))),
    "CMD": _keep("command", lambda words: tuple(json.loads(words))),
}


def megabytes(root: Path) -> int:
    """Of an image; without what slim images leave out and Debian's root has: documentation, translations, lists."""
    for name in ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(root / name, ignore_errors=True)
    return int(subprocess.run(["du", "-sm", str(root)], check=True, capture_output=True, text=True).stdout.split()[0])


# --- running ----------------------------------------------------------------------------------------------------------


def contained(image: Image, hosts: Path, service: Mapping[str, Any], volumes: Mapping[str, Path]) -> list[str]:
    """The words before a command that runs it as a service: read-only, as the image's user, with no capability."""
    mounts = [
        "--ro-bind",
        str(image.root),
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--ro-bind",
        str(hosts),
        "/etc/hosts",
    ]
    for folder in service.get("tmpfs", ()):
        mounts += ["--perms", "1777", "--tmpfs", folder]
    for volume in service.get("volumes", ()):
        name, target = volume.split(":")
        mounts += ["--bind", str(volumes[name]), target]
    settings = {**image.environ, **{name: TOKEN for name in service.get("environment", ()) if name == "AGCXR_TOKEN"}}
    words = [part for pair in settings.items() for part in ("--setenv", *pair)]
    user = _user(image)
    becoming = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"]
    rights = ["--unshare-pid", "--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return ["bwrap", *mounts, "--clearenv", *words, "--chdir", image.folder, *rights, "--die-with-parent", *becoming]


def _user(image: Image) -> int:
    lines = (image.root / "etc/passwd").read_text().splitlines()
    return int(next(line.split(":")[2] for line in lines if line.split(":")[0] == image.user))


def archive_words(service: Mapping[str, Any], work: Path, hosts: Path, volumes: Mapping[str, Path]) -> list[str]:
    """Orthanc of this machine, with the files where compose.yaml puts them, and the settings of its variables."""
    settings: dict[str, Any] = {"StorageDirectory": "/var/lib/orthanc/db"}  # as the image has it
    for name, value in service["environment"].items():
        key = "".join(word.capitalize() for word in name.removeprefix("ORTHANC__").split("_"))
        settings[key] = json.loads(re.sub(r"\$\{AGCXR_TOKEN[^}]*\}", TOKEN, value))
    (work / "environment.json").write_text(json.dumps(settings))
    files = yaml.safe_load((ROOT / "compose.yaml").read_text())["configs"]
    mounts = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/etc/orthanc", "--tmpfs", "/tmp"]
    mounts += ["--ro-bind", str(hosts), "/etc/hosts", "--tmpfs", "/var/lib/orthanc"]
    mounts += ["--bind", str(volumes["archive"]), "/var/lib/orthanc/db"]
    for config in service["configs"]:
        mounts += ["--ro-bind", str(ROOT / files[config["source"]]["file"]), config["target"]]
    mounts += ["--ro-bind", str(work / "environment.json"), "/etc/orthanc/environment.json"]
    return ["bwrap", *mounts, "--die-with-parent", "Orthanc", "/etc/orthanc"]


def rehearse(image: Image, work: Path) -> None:
    """Start the three services, store a film, and look for what must come of it."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    work.mkdir()
    hosts = work / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {' '.join(services)}\n")
    volumes = {name: work / name for name in ("archive", "queue")}
    for folder in volumes.values():
        folder.mkdir()
    os.chown(volumes["queue"], _user(image), _user(image))  # a new volume has the owner of the folder that it covers
    within = {name: contained(image, hosts, services[name], volumes) for name in ("node", "page")}
    started = {"archive": archive_words(services["archive"], work, hosts, volumes)}
    started |= {name: [*words, *image.entry, *services[name]["command"]] for name, words in within.items()}
    healthy = {"node": tuple(services["node"]["healthcheck"]["test"][1:]), "page": image.health}
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(_started(words, work / f"{name}.log")) for name, words in started.items()}
        until("Orthanc answers", lambda: ask("http://127.0.0.1:8042/system", login=True))
        for name, test in healthy.items():
            until(f"health check of the {name}", lambda words=within[name], test=test: _quiet([*words, *test]))
        _show_rights()
        _store(running)


def _store(running: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """A film into Orthanc, and to the page."""
    sys.path.insert(0, str(ROOT / "tests" / "dicom"))
    from dicom_made import fresh, written

    film = fresh(1)
    ask("http://127.0.0.1:8042/instances", written(film), login=True)
    query = {"Level": "Instance", "Query": {"StudyInstanceUID": str(film.StudyInstanceUID), "Modality": ""}}

    def modalities() -> set[str]:
        found = ask("http://127.0.0.1:8042/tools/find", json.dumps(query | {"Expand": True}).encode(), login=True)
        tags = [ask(f"http://127.0.0.1:8042/instances/{each['ID']}/simplified-tags", login=True) for each in found]
        return {str(each["Modality"]) for each in tags}

    until("report, picture and segmentation lie in the film's study in Orthanc", lambda: modalities() >= RESULTS)
    try:
        ask("http://127.0.0.1:8000/v1/predict", written(film), kind="application/dicom")
        raise SystemExit("the page answered without a token")
    except urllib.error.HTTPError as error:
        print(f"the page without a token: status {error.code}")
    answer = ask("http://127.0.0.1:8000/v1/predict", written(film), bearer=True, kind="application/dicom")
    print(f"the page with the token: the film was {answer['films'][0]['status']}")
    assert all(process.poll() is None for process in running.values())


def _show_rights() -> None:
    """User and capabilities of the page, as the system has them."""
    pids = subprocess.run(["pgrep", "-f", "agcxr serve"], capture_output=True, text=True, check=True).stdout.split()
    facts = (Path("/proc") / pids[-1] / "status").read_text()
    print("the page runs with", ", ".join(re.findall(r"^(?:Uid|CapEff|NoNewPrivs):.*$", facts, flags=re.M)))


@contextlib.contextmanager
def _started(words: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process while the block runs."""
    with log.open("wb") as file, subprocess.Popen(words, stdout=file, stderr=file) as process:
        try:
            yield process
        finally:
            process.terminate()


def until(what: str, happens: Callable[[], object], seconds: float = 180) -> None:
    """Wait, and say how long it took."""
    start = time.monotonic()
    while True:
        try:
            if happens():
                break
        except (OSError, subprocess.CalledProcessError):
            pass
        if time.monotonic() - start > seconds:
            raise SystemExit(f"not in {seconds:.0f} s: {what}")
        time.sleep(0.5)
    print(f"{time.monotonic() - start:6.1f} s  {what}", flush=True)


def _quiet(words: Sequence[str]) -> bool:
    return subprocess.run(words, capture_output=True).returncode == 0


def ask(url: str, body: bytes | None = None, *, login: bool = False, bearer: bool = False, kind: str = "") -> Any:
    """JSON of Orthanc (login) or of the page."""
    headers = {"Content-Type": kind} if kind else {}
    if login:
        headers["Authorization"] = f"Basic {base64.b64encode(f'reader:{TOKEN}'.encode()).decode()}"
    if bearer:
        headers["Authorization"] = f"Bearer {TOKEN}"
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
        return json.loads(answer.read())


def main() -> None:
    """Build the image, then go through the rest without this machine's network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="folder that debootstrap made")
    parser.add_argument("out", type=Path, help="folder to make")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    image = build(options.base.resolve(), options.out.resolve())
    whole, own = megabytes(image.root), megabytes(image.root / "usr/local/agcxr")
    print(f"the image has {whole} MB (clean root {megabytes(options.base)} MB, /usr/local/agcxr {own} MB)")
    if whole >= LIMIT:
        raise SystemExit(f"more than {LIMIT} MB")
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network of its own for the services: run this as root")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    rehearse(image, options.out.resolve() / "room")


if __name__ == "__main__":
    main()
