"""Run the benchmarks: `uv run python -m benchmarks [--only NAME ...] [--quick] [--backbone resnet18]`.

Every theme runs in a process of its own, under a time limit, so that one that fails or hangs neither stops the others
nor shares its memory with them. Results: benchmarks/results/<theme>_<hardware>_<date>.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

FAST = "resnet18"
# Name -> seconds it may take with the fast network (another one: three times as long). The order is that of the run.
THEMES: dict[str, int] = {
    "attention_crop": 180,
    "training_step": 300,
    "fusion_cache": 180,
    "lite_schedule": 360,
    "prepare_films": 180,
    "compressed_films": 120,
    "predict_films": 180,
    "growth": 300,
    "patient_bootstrap": 240,
    "processes": 240,
    "paper_plan": 300,
}
BY_THEMSELVES = (
    "serve_load.py",
    "onnx_predict.py",
    "onnx_parity.py",
    "refusal.py",
    "same_weights.py",
    "second_opinion.py",
    "start.py",
)
"""Programs with pages of their own: run them by `python benchmarks/<name>`."""

RESULTS = Path(__file__).with_name("results")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; the status is the number of themes that failed."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(THEMES), default=list(THEMES), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run? The figures mean nothing")
    parser.add_argument("--backbone", default=FAST, help=f"a timm network (default: {FAST}, for time)")
    parser.add_argument("--out", type=Path, help="folder of the pages (default: benchmarks/results; quick: none)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        return _child(options.only[0], options)
    return _all(options)


def _all(options: argparse.Namespace) -> int:
    from benchmarks.measure import Place, slug

    place, failed, begun = Place.here(), [], time.perf_counter()
    print(place.line(), flush=True)
    out = options.out or (None if options.quick else RESULTS)
    for name in options.only:
        start = time.perf_counter()
        print(f"\n== {name}", flush=True)
        page = _theme(name, options)
        if page.problem:
            failed.append(name)
            print(f"!! {name}: {page.problem}", flush=True)
        if out and (page.rows or page.facts):
            out.mkdir(parents=True, exist_ok=True)
            backbone = "" if options.backbone == FAST else f"-{options.backbone}"
            path = out / f"{name}{backbone}_{slug()}_{place.date}.md"
            path.write_text(page.markdown(place), encoding="utf-8")
            print(f"-> {_relative(path)}", flush=True)
        print(f"   {time.perf_counter() - start:.0f} s", flush=True)
    here = [name for name in BY_THEMSELVES if Path(__file__).with_name(name).exists()]
    print(f"\n{time.perf_counter() - begun:.0f} s in all. By themselves: {', '.join(here)}", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    return len(failed)


def _theme(name: str, options: argparse.Namespace):  # -> measure.Page, which is imported where it is needed
    """Run a theme in a process of its own and read what it found, also where it did not come to its end."""
    from benchmarks.measure import Page, from_json

    module = importlib.import_module(f"benchmarks.{name}")
    limit = THEMES[name] * (1 if options.backbone == FAST else 3)
    page = Page(module.THEME, f"{module.__doc__.strip()}\n\nMade by `{_command(name, options)}`.", module.LIMITS)
    with tempfile.TemporaryDirectory(prefix="agcxr-bench-") as folder:
        found = Path(folder).resolve() / "found.jsonl"
        command = [sys.executable, "-u", "-W", "ignore", "-m", "benchmarks", "--only", name, "--child", str(found)]
        command += ["--backbone", options.backbone, *(["--quick"] if options.quick else [])]
        try:
            done = subprocess.run(command, cwd=RESULTS.parents[1], timeout=limit)
            if done.returncode:
                page.problem = f"ended with status {done.returncode}"
        except subprocess.TimeoutExpired:
            page.problem = f"took longer than {limit} s and was stopped"
        lines = found.read_text(encoding="utf-8").splitlines() if found.exists() else []
    for line in lines:
        values = json.loads(line)
        if "problem" in values:
            page.problem = values["problem"]
        else:
            page.add(from_json(values))
    return page


def _command(name: str, options: argparse.Namespace) -> str:
    """What to type for this page."""
    backbone = "" if options.backbone == FAST else f" --backbone {options.backbone}"
    return f"uv run python -m benchmarks --only {name}{backbone}{' --quick' if options.quick else ''}"


def _child(name: str, options: argparse.Namespace) -> int:
    """One theme in this process: print and keep each finding as it comes."""
    import logging

    from benchmarks.materials import Settings
    from benchmarks.measure import to_json

    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    module = importlib.import_module(f"benchmarks.{name}")
    with tempfile.TemporaryDirectory(prefix="work-", dir=options.child.parent) as folder:
        settings = Settings(quick=options.quick, backbone=options.backbone, folder=Path(folder))
        with options.child.open("a", encoding="utf-8") as file:
            try:
                for found in module.run(settings):
                    print("  " + found.line(), flush=True)
                    file.write(json.dumps(to_json(found)) + "\n")
                    file.flush()
            except Exception as error:  # told here, in the page and in the status; the other themes go on
                traceback.print_exc()
                file.write(json.dumps({"problem": f"{type(error).__name__}: {error}"}) + "\n")
                return 1
    return 0


def _relative(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(RESULTS.parents[1].resolve()))
    except ValueError:
        return path.name


if __name__ == "__main__":
    sys.exit(main())
