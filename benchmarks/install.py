"""What an installation takes: packages, megabytes to fetch and on disk, seconds, and seconds to a first answer.

Each installation goes into an environment of its own, removed afterwards. Warm: from uv's cache, which holds the
packages; cold: from an empty cache, so everything is fetched. Fetched are the wheels' own sizes, as the index states
them; files on disk that uv links from its cache count in full. Of README's commands it is what they sync before they
begin. The first answer is `agcxr predict starter` of one film.

Run: python benchmarks/install.py                    # base, base + serve + dicom, train, README's two commands
     python benchmarks/install.py --only base --cold # some rows, everything fetched anew
     python benchmarks/install.py --at REF           # as another commit has it
     each adds its figures to FILE of --figures FILE, and makes the page of all that it holds
Page: benchmarks/results/install_<hardware>_<date>.md
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

if __name__ == "__main__":  # run as a file: the repository, not this folder, is where `benchmarks` is found
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.measure import Place, slug, table

ROOT = Path(__file__).resolve().parent.parent
RUNS = 3
MB = 10**6
ROWS = {
    "base": "uv pip install agcxr",
    "base + serve + dicom": "uv pip install 'agcxr[serve,dicom]'",
    "train": "uv pip install 'agcxr[train]'",
    "README 1": "uv run agcxr demo",
    "README 2": "uv run pytest",
}
HEADS = ("what", "commit", "packages", "MB fetched", "MB on disk", "cold, s", "warm, s", "first film, s")
EXTRAS = {"base": "", "base + serve + dicom": "[serve,dicom]", "train": "[train]"}
SYNC: dict[str, list[str]] = {"README 1": [], "README 2": ["--group", "dev"]}


@dataclass(frozen=True)
class Installed:
    """One environment after its installation. `fetched` and `on_disk` in bytes."""

    python: Path
    packages: int
    fetched: int
    on_disk: int
    seconds: float

    def __str__(self) -> str:
        size = f"{self.fetched / MB:,.0f} MB fetched, {self.on_disk / MB:,.0f} MB on disk"
        return f"{self.packages} packages, {size}, {self.seconds:.1f} s"


@dataclass(frozen=True)
class Figures:
    """Of one installation, and of the first film after it. Sizes in MB."""

    row: str
    commit: str
    cold: bool
    packages: int
    fetched: float
    on_disk: float
    seconds: float
    first: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a line for each installation, and keep the page of all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument("--cold", action="store_true", help="from an empty cache")
    parser.add_argument("--at", default="HEAD", help="commit to install (default: HEAD)")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--figures", type=Path, help="file of figures (JSON lines), of earlier runs too")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"), help="folder of the page")
    options = parser.parse_args(arguments)
    place = Place.here()
    earlier = options.figures.read_text(encoding="utf-8") if options.figures and options.figures.exists() else ""
    figures = [Figures(**json.loads(line)) for line in earlier.splitlines()]
    for _ in range(options.runs):  # in turns: what the machine does meanwhile meets every row
        for row in options.only:
            figures.append(_measure(row, options.at, options.cold))
            print(figures[-1], flush=True)
            if options.figures:
                with options.figures.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(figures[-1])) + "\n")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"install_{slug()}_{place.date}.md").write_text(page(figures, place), encoding="utf-8")
    return 0


def page(figures: Sequence[Figures], place: Place) -> str:
    """A table of all figures: a line for each row of each commit, cold beside warm."""
    kinds = list(dict.fromkeys((figure.commit, figure.row) for figure in figures))
    lines = []
    for commit, row in sorted(kinds, key=lambda kind: (list(ROWS).index(kind[1]), kind[0])):
        same = [figure for figure in figures if (figure.commit, figure.row) == (commit, row)]
        warm, cold = ([figure.seconds for figure in same if figure.cold is cold] for cold in (False, True))
        sizes = f"{same[0].packages}", f"{same[0].fetched:,.0f}", f"{same[0].on_disk:,.0f}"
        first = _spread([figure.first for figure in same])
        lines.append((f"{row}: `{ROWS[row]}`", commit, *sizes, _spread(cold), _spread(warm), first))
    return (
        f"# Installing\n\n{(__doc__ or '').partition('Run:')[0].strip()}\n\n"
        f"Made by `python benchmarks/install.py`. Seconds: the median (least to most; n).\n\n"
        f"- {place.hardware}; load {place.load} at the start of the last run\n- {place.versions}\n- {place.date}\n\n"
        f"{table(HEADS, lines)}\n"
    )


def _measure(row: str, ref: str, cold: bool) -> Figures:
    """Install a row as a commit has it, and ask for a first answer there."""
    with tempfile.TemporaryDirectory(prefix="agcxr-install-") as name:
        folder = Path(name)
        environ = {"UV_CACHE_DIR": str(folder / "cache")} if cold else {}
        clone = folder / "clone"
        _run(["git", "clone", "--quiet", str(ROOT), str(clone)])
        _run(["git", "checkout", "--quiet", ref], clone)
        commit = _run(["git", "rev-parse", "--short=10", "HEAD"], clone).strip()
        if row in SYNC:
            installed = sync(clone, SYNC[row], environ)
        else:
            wheel = build_wheel(clone, folder / "dist")
            installed = install(wheel, folder / "env", EXTRAS[row], environ)
        sizes = installed.packages, installed.fetched / MB, installed.on_disk / MB
        first = first_answer(installed.python, folder)
    return Figures(row, commit, cold, *sizes, round(installed.seconds, 2), round(first, 2))


def build_wheel(source: Path, out: Path) -> Path:
    """The wheel of a checkout."""
    _run(["uv", "build", "--quiet", "--wheel", "--out-dir", str(out), str(source)])
    (wheel,) = out.glob("*.whl")
    return wheel


def install(wheel: Path, environment: Path, extras: str = "", environ: Mapping[str, str] = {}) -> Installed:
    """A wheel of the package, with extras such as "[serve,dicom]", in a fresh environment."""
    start = time.perf_counter()
    _run(["uv", "venv", "--quiet", "--python", sys.executable, str(environment)], environ=environ)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    limit, asked = ["--exclude-newer", _newest()], f"agcxr{extras} @ {wheel.as_uri()}"
    _run(["uv", "pip", "install", "--quiet", "--python", str(python), *limit, asked], environ=environ)
    return _installed(python, environment, time.perf_counter() - start, wheel.stat().st_size)


def sync(clone: Path, groups: Sequence[str], environ: Mapping[str, str]) -> Installed:
    """A fresh clone's own environment."""
    start = time.perf_counter()
    _run(["uv", "sync", "--quiet", *groups], clone, environ)
    return _installed(clone / ".venv/bin/python", clone / ".venv", time.perf_counter() - start)


def first_answer(python: Path, folder: Path) -> float:
    """Seconds of `agcxr predict starter` on a film that `agcxr phantom` drew before."""
    _run([str(python), "-m", "agcxr", "phantom", "--out", str(folder / "phantom"), "-n", "1", "--size", "256"])
    film = next((folder / "phantom/images").iterdir())
    start = time.perf_counter()
    _run([str(python), "-m", "agcxr", "predict", "starter", str(film), "--out", str(folder / "first.csv")])
    seconds = time.perf_counter() - start
    rows = (folder / "first.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 2 and "prob_Effusion" in rows[0], rows  # noqa: PT018
    return seconds


def _installed(python: Path, environment: Path, seconds: float, own: int = 0) -> Installed:
    """Look at an environment. Files that environments share by links count in each; `own`: bytes of our wheel."""
    pins = _run(["uv", "pip", "freeze", "--quiet", "--python", str(python)]).splitlines()
    files = [path for path in environment.rglob("*") if path.is_file() and not path.is_symlink()]
    fetched = own + sum(_wheel_sizes([pin for pin in pins if "==" in pin]).values())
    return Installed(python, len(pins), fetched, sum(path.stat().st_size for path in files), seconds)


def _wheel_sizes(pins: Sequence[str]) -> dict[str, int]:
    """Bytes of the wheel of each `name==version` that fits this machine."""
    with tempfile.TemporaryDirectory(prefix="agcxr-install-") as name:
        asked, lock = Path(name) / "pins.in", Path(name) / "pylock.toml"
        asked.write_text("\n".join(pins), encoding="utf-8")
        compiled = ["uv", "pip", "compile", "--quiet", "--no-deps", "--no-header", "--format", "pylock.toml"]
        _run([*compiled, "--python", sys.executable, "--output-file", str(lock), str(asked)])
        packages = tomllib.loads(lock.read_text(encoding="utf-8")).get("packages", [])
    rank = {tag: place for place, tag in enumerate(sys_tags())}
    sizes = {}
    for package in packages:
        fits = []
        for wheel in package.get("wheels", []):
            tags = parse_wheel_filename(wheel["url"].rsplit("/", 1)[-1].replace("%2B", "+"))[3]
            places = [rank[tag] for tag in tags if tag in rank]
            fits += [(min(places), wheel["size"])] if places else []
        sizes[package["name"]] = min(fits)[1] if fits else package.get("sdist", {}).get("size", 0)
    return sizes


def _newest() -> str:
    """The cut-off of versions of this repository."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["exclude-newer"])


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    return f"{sorted(seconds)[len(seconds) // 2]:.1f} ({min(seconds):.1f} to {max(seconds):.1f}; {len(seconds)})"


def _run(command: Sequence[str], folder: Path | None = None, environ: Mapping[str, str] = {}) -> str:
    outside = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(command, cwd=folder, env=outside | dict(environ), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
