"""How long a command takes to start: whole commands from the shell, one film each, beside what Python itself takes.

Every command is a process of its own, its end awaited; the commands take turns, after one round that does not count
(files come into the system's cache). What counts is the best of the rounds, as all that others do on the machine only
adds to it; the median says how much that was, and the least CPU time (of a command and the processes it waits for, on
however many cores) what the command itself works. RUN is an untrained ResNet-18: its weights cost what trained ones do.

Run: python benchmarks/start.py [--rounds 7]
Page: benchmarks/results/start_<hardware>_<date>.md
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a file: the repository, not this folder, is where `benchmarks` is found
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.materials import film_files
from benchmarks.measure import Place, short, slug, table

HEADS = ("command", "best, s", "median, s", "CPU, s", "times `python -c pass`", "times the imports", "to reach, s")
PASS, IMPORTS = "python -c pass", 'python -c "import onnxruntime, cv2"'
AGCXR = (sys.executable, "-m", "agcxr")
TARGETS = {"agcxr --help": 0.2, "agcxr predict starter film.png": 1.0, "agcxr predict RUN film.png": 4.0}


def commands(folder: Path) -> dict[str, Sequence[str]]:
    """What is timed, by the words of the page; the film and the model that they need are made in `folder`."""
    from agcxr.models.agcnn import AGCNN

    film = str(film_files(folder / "films", 1)[0])
    AGCNN("resnet18", weights="none").save_pretrained(folder / "run")
    out = ("--out", str(folder / "rows.csv"), "--overwrite")
    words = {
        "agcxr --help": ["--help"],
        "agcxr predict starter film.png": ["predict", "starter", film, *out],
        "agcxr predict RUN film.png": ["predict", str(folder / "run"), film, *out],
    }
    limits = {PASS: "pass", IMPORTS: "import onnxruntime, cv2"}
    return {
        **{name: (sys.executable, "-c", code) for name, code in limits.items()},
        **{name: (*AGCXR, *given) for name, given in words.items()},
    }


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Seconds from start to end, and of CPU time. Raises CalledProcessError where the command fails."""
    start, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, cpu


def rows(seconds: dict[str, list[tuple[float, float]]]) -> list[tuple[str, ...]]:
    """For the table: of each command the best, the median and the CPU time, and its best over the limits'."""
    best = {name: min(wall for wall, _ in each) for name, each in seconds.items()}
    found = []
    for name, each in seconds.items():
        goal = TARGETS.get(name)
        reached = "-" if goal is None else f"{goal:g}: {'reached' if best[name] <= goal else 'short of it'}"
        ratios = (f"{short(best[name] / best[limit])} x" for limit in (PASS, IMPORTS))
        median, cpu = statistics.median(wall for wall, _ in each), min(cpu for _, cpu in each)
        found.append((f"`{name}`", short(best[name]), short(median), short(cpu), *ratios, reached))
    return found


def main() -> int:
    """Measure, print the page and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"), help="folder of the page")
    given = parser.parse_args()
    place = Place.here()
    with tempfile.TemporaryDirectory(prefix="agcxr-start-") as folder:
        each = commands(Path(folder))
        rounds = [{name: timed(command) for name, command in each.items()} for _ in range(given.rounds + 1)][1:]
    seconds = {name: [one[name] for one in rounds] for name in each}
    page = (
        f"# Start\n\n{(__doc__ or '').partition('Run:')[0].strip()}\n\n"
        f"Made by `python benchmarks/start.py --rounds {given.rounds}`; {given.rounds} rounds.\n\n"
        f"- {place.hardware}; load {place.load} at the start, {os.getloadavg()[0]:.1f} at the end\n"
        f"- {place.versions}\n- commit {place.commit}, {place.date}\n\n{table(HEADS, rows(seconds))}\n"
    )
    print(page)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"start_{slug()}_{place.date}.md").write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
