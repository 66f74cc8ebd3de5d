"""The files for containers and services: what they start has these flags, and runs with as few rights as it can."""

import functools
import re
import runpy
import shlex
from pathlib import Path

import pytest
import yaml

from agcxr import commands
from agcxr.cli import main

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SETTINGS = dict(re.findall(r"^#?(AGCXR_\w+)=(.*)$", (ROOT / "deploy" / "agcxr.env").read_text(), flags=re.M))


def started() -> dict[str, list[str]]:
    """What each service hands to `agcxr`."""
    calls = {name: COMPOSE["services"][name]["command"] for name in ("node", "page")}
    for unit in ("agcxr-node", "agcxr-page"):
        text = (ROOT / "deploy" / f"{unit}.service").read_text(encoding="utf-8")
        line = re.search(r"^ExecStart=/usr/local/agcxr/bin/agcxr (.*)$", text, flags=re.M)
        assert line is not None
        calls[unit] = shlex.split(re.sub(r"\$\{(\w+)\}", lambda name: SETTINGS[name[1]], line[1]))
    return calls


@pytest.mark.parametrize("service", ["node", "page", "agcxr-node", "agcxr-page"])
def test_what_a_service_starts_has_these_flags(service: str, monkeypatch: pytest.MonkeyPatch):
    for name, command in commands.COMMANDS.items():
        monkeypatch.setitem(commands.COMMANDS, name, functools.wraps(command)(lambda *_, **__: 0))
    assert main(started()[service]) == 0


@pytest.mark.parametrize("name", ["node", "page"])
def test_containers_have_no_more_rights_than_they_need(name: str):
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    recipe = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^USER agcxr$", recipe, flags=re.M)
    assert re.search(r"^HEALTHCHECK ", recipe, flags=re.M)


def test_ports_are_open_to_this_machine_alone_and_the_page_asks_for_a_token():
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert COMPOSE["services"]["page"]["environment"]["AGCXR_TOKEN"].startswith("${AGCXR_TOKEN:?")


def test_files_that_compose_names_exist():
    for config in COMPOSE["configs"].values():
        assert (ROOT / config["file"]).is_file()


def test_the_rehearsal_without_docker_knows_every_step_of_the_dockerfile(tmp_path):
    made = runpy.run_path(str(ROOT / "deploy" / "without_docker.py"))
    steps = list(made["instructions"]((ROOT / "Dockerfile").read_text(encoding="utf-8")))
    assert [words for name, words in steps if name == "FROM"] == ["python:3.13-slim AS build", "python:3.13-slim"]
    assert {name for name, _ in steps} - {"FROM"} <= set(made["DO"])
    image = made["Image"](tmp_path)
    for name, words in steps[steps.index(("FROM", "python:3.13-slim")) + 1 :]:
        if name not in ("RUN", "COPY"):
            made["DO"][name](image, words, {})
    assert image.environ["PATH"].startswith("/usr/local/agcxr/bin:/usr/local/bin:")
    assert (image.user, image.folder, image.volumes) == ("agcxr", "/var/lib/agcxr", ("/var/lib/agcxr",))
    assert (image.entry, image.command) == (("agcxr",), ("serve", "starter"))
    assert image.health[:2] == ("python", "-c")
    assert (tmp_path / "var/lib/agcxr").is_dir()


def test_lines_of_a_dockerfile_that_go_on_are_one_step():
    instructions = runpy.run_path(str(ROOT / "deploy" / "without_docker.py"))["instructions"]
    assert list(instructions("# why\nRUN a \\\n    && b\n\nUSER c\n")) == [("RUN", "a      && b"), ("USER", "c")]
