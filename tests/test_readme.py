"""README and First steps as a newcomer meets them: their commands one after the other in a fresh clone, with `uv` and
nothing prepared but films and their table. Slow: it installs, and trains. As written but for the replacements below."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from agcxr.data import phantom
from dicom.dicom_made import film as dicom_film

ROOT = Path(__file__).resolve().parents[1]
FILMS = 36
SHORTER = {
    r"uv run agcxr demo\b": "uv run agcxr demo --films 120",
    r"uv run pytest\b": "uv run pytest tests/test_geometry.py",
}
"""In place of minutes."""
SERVED = """uv run --extra serve agcxr serve MODEL --port PORT & server=$!
for _ in $(seq 120); do curl -fs http://127.0.0.1:PORT/health && break; kill -0 $server; sleep 1; done
curl -fsF file=@film.png http://127.0.0.1:PORT/v1/predict | grep -o '"status": *"[a-z]*"'
kill $server
"""
"""The page is asked for a film, and ended."""
MADE = {
    "README.md": (
        *("agcxr-demo/results/report.html", "answer/film.png", "prepared/plan.json", "predictions.csv"),
        *("runs/own/model/model.safetensors", "runs/own/evaluation/test/report.html", "pictures/00.png"),
    ),
    "docs/first_steps.md": ("answer/predictions.csv", "agcxr-demo/results/report.html"),
}
"""What a page's commands leave behind."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed, which README begins with"),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout here, so nothing to clone"),
]


def blocks(page: str, language: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S))


def script(page: str) -> str:
    """A page's commands; of README also its Python, which uses what they made."""
    lines = blocks(page, "bash")
    for written, shorter in SHORTER.items():
        lines = re.sub(written, shorter, lines)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        served = SERVED.replace("PORT", str(free.getsockname()[1]))
    served = served.replace("MODEL", r"\1")
    lines, count = re.subn(
        r"^uv run --extra serve agcxr serve (\S+).*\n", served.replace("\n", "\\n"), lines, flags=re.M
    )
    assert count == 1
    if page == "README.md":
        lines += f"uv run --extra dicom python - <<'END'\n{blocks(page, 'python')}print(film.box)\nEND\n"
    return lines


def lay_out(folder: Path) -> None:
    """What README takes for granted: a film, films, and their table."""
    rng = np.random.default_rng(0)
    rows = ["file,patient,Effusion,Nodule"]
    (folder / "films").mkdir()
    for i in range(FILMS):
        effusion, nodule = i % 2, i // 2 % 2
        findings = [name for name, there in (("Effusion", effusion), ("Nodule", nodule)) if there]
        cv2.imwrite(str(folder / f"films/{i:02}.png"), phantom.film(rng, findings, size=256).pixels_HW)
        rows.append(f"{i:02}.png,p{i},{effusion},{nodule}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    shutil.copy(folder / "films/01.png", folder / "film.png")
    dicom_film().save_as(folder / "film.dcm", enforce_file_format=True)


@pytest.mark.parametrize("page", list(MADE))
def test_a_page_runs_in_a_fresh_clone_from_its_first_command_to_its_last(page, tmp_path):
    clone = tmp_path / "agcxr"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    lay_out(clone)
    environ = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    locked = subprocess.run(["uv", "lock", "--quiet"], cwd=clone, env=environ, capture_output=True, text=True)
    if locked.returncode and "connect" in locked.stderr:
        pytest.skip(f"no package index can be reached: {locked.stderr[-300:]}")
    words = ["bash", "-euxo", "pipefail", "-c", script(page)]
    done = subprocess.run(words, cwd=clone, env=environ, text=True, capture_output=True)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    assert [name for name in MADE[page] if not (clone / name).is_file()] == []
    assert re.search(r'"status": *"(read|refused)"$', done.stdout, flags=re.M)
    if page == "README.md":
        assert len((clone / "predictions.csv").read_text().splitlines()) == FILMS + 1
