"""The code on the pages: Python runs, commands have the flags they are given, and the first pages run whole."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from agcxr import commands
from agcxr.cli import main
from agcxr.data import phantom
from agcxr.experiments.calibrate import calibrate
from agcxr.starter import FILE as STARTER
from dicom.dicom_made import film as dicom_film
from evaluation.evaluated import write_prepared, write_run

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = ("first_steps.md", "own_films.md")
"""Pages whose commands are run, all but these:"""
PARSED = ("demo", "serve", "prepare", "train", "evaluate")
"""Commands that take minutes, never end, or need more films; each has tests of its own."""
TESTED_ELSEWHERE = {"nginx": "tests/serve/test_proxy.py", "lua": "tests/dicom/test_orthanc.py"}


class Block(NamedTuple):
    """A fenced block: where it stands, what the fence says it is, and its text without the page's indentation."""

    page: str
    line: int
    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    made = []
    for fence in re.finditer(r"^( *)```(\S*)\n(.*?)^\1```$", text, flags=re.M | re.S):
        lines = [line.removeprefix(fence[1]) for line in fence[3].splitlines()]
        made.append(Block(page.name, text[: fence.start()].count("\n") + 1, fence[2], "\n".join(lines) + "\n"))
    return made


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def place(block: Block) -> str:
    return f"{block.page}:{block.line}"


@pytest.fixture
def parsed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands read their flags as they do, and then do nothing."""

    def idle(command: Callable[..., int | None]) -> Callable[..., int]:
        return functools.wraps(command)(lambda *_, **__: 0)

    for name, command in commands.COMMANDS.items():
        monkeypatch.setitem(commands.COMMANDS, name, idle(command))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages name: a run, a prepared folder, films, an exported file, tables."""
    folder = tmp_path_factory.mktemp("pages")
    write_prepared(folder / "PREPARED")
    write_run(folder / "RUN")
    calibrate(folder / "RUN", folder / "PREPARED")
    (folder / "runs").mkdir()
    for name in ("lite", "own"):
        (folder / "runs" / name).symlink_to(folder / "RUN")
    (folder / "films").mkdir()
    for seed, name in enumerate("abc"):
        pixels = phantom.film(np.random.default_rng(seed), ["Effusion"], size=512).pixels_HW
        cv2.imwrite(str(folder / "films" / f"{name}.png"), pixels)
    shutil.copy(folder / "films" / "a.png", folder / "film.png")
    dicom_film().save_as(folder / "film.dcm", enforce_file_format=True)
    shutil.copy(STARTER, folder / "model.onnx")
    for page in ("score.md", "own_films.md"):
        for name, table in re.findall(r"`(\w+\.csv)`:?\n\n```(?:text)?\n(.*?)```", _text(page), flags=re.S):
            (folder / name if page == "score.md" else folder / "films" / name).write_text(table)
    return folder


def _text(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def test_every_block_says_what_it_is_and_is_tried_here_or_elsewhere():
    known = {"bash", "python", "json", "text", "", *TESTED_ELSEWHERE}
    assert {block.language for block in BLOCKS} <= known
    for language, test in TESTED_ELSEWHERE.items():
        assert (ROOT / test).is_file(), language
    bare = [place(block) for block in BLOCKS if block.language == "" and block.page != "score.md"]
    assert not bare, f"say what these blocks are (bash, python, text, ...): {', '.join(bare)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_stands_in_fences(page: Path):
    """Code that is only indented says nothing of its language, so nothing here would try it."""
    prose = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for paragraph, indented in re.findall(r"(.*)\n\n {4}(\S.*)", prose):
        assert re.match(r" |[-*] |\d+\. ", paragraph), f"{page.name}: put this into a fence: {indented}"


@pytest.mark.parametrize("block", of("json"), ids=place)
def test_json_can_be_read(block: Block):
    assert json.loads(block.text)


def calls_of_agcxr(script: str) -> list[list[str]]:
    """The words after `agcxr` of each command of a script: behind `uv run`, launchers, settings or pipes as well."""
    words = shlex.shlex(script.replace("\\\n", " ").replace("\n", " ; "), posix=True, punctuation_chars="();|&")
    words.whitespace_split = True
    words.commenters = ""
    calls: list[list[str]] = [[]]
    for word in words:
        if set(word) <= set("();|&"):
            calls.append([])
        else:
            calls[-1].append(word)
    return [call[call.index("agcxr") + 1 :] for call in calls if "agcxr" in call and call[0] != "conda"]


def without_comments(script: str) -> str:
    return re.sub(r"(?m)(^|\s)#.*$", "", script)


def test_calls_are_found_behind_launchers_settings_and_pipes():
    script = "A=$(python -c 'x; y') uv run agcxr serve R # why\n(cd x && xargs agcxr predict R \\\n --out y)\nls demo"
    assert calls_of_agcxr(without_comments(script)) == [["serve", "R"], ["predict", "R", "--out", "y"]]


@pytest.mark.parametrize("block", of("bash"), ids=place)
def test_commands_are_shell_and_their_flags_exist(block: Block, parsed_only, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spelled = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
    assert spelled.returncode == 0, spelled.stderr
    for call in calls_of_agcxr(without_comments(block.text)):
        try:
            status = main(call)
        except SystemExit as end:
            status = int(end.code or 0)
        assert status == 0, f"agcxr {' '.join(call)}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("page", sorted({block.page for block in of("python")}))
def test_python_on_a_page_runs_from_its_first_block_to_its_last(page: str, filled: Path, tmp_path, monkeypatch):
    shutil.copytree(filled, tmp_path / "pages", symlinks=False)
    monkeypatch.chdir(tmp_path / "pages")
    names: dict[str, object] = {"__name__": page}
    for block in of("python"):
        if block.page == page:
            exec(compile(block.text, place(block), "exec"), names)


@pytest.mark.parametrize("page", RUN)
def test_the_first_pages_run_from_top_to_end(page: str, filled: Path, tmp_path):
    shutil.copytree(filled / "films", tmp_path / "films")
    for table in (tmp_path / "films").glob("*.csv"):
        table.rename(tmp_path / table.name)
    skipped = "|".join(PARSED)
    start = f'pip() {{ :; }}\nagcxr() {{ case "$1" in {skipped}) ;; *) command agcxr "$@" ;; esac; }}\n'
    start += 'uv() { [ "$1" != run ] || { shift; [ "$1" != --extra ] || shift 2; "$@"; }; }\n'
    script = start + "".join(block.text for block in of("bash") if block.page == page)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert list(tmp_path.rglob("predictions.csv"))
