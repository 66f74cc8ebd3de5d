"""bootstrap.py as one of the set: the patient bootstrap at full size beside scikit-learn, in its own words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.materials import Settings
from benchmarks.measure import Fact, Found

THEME = "patient bootstrap"

LIMITS = """
One weighted cumulative sum over the sorted scores of each label and branch for every resample: memory bandwidth.
"""


def run(settings: Settings) -> Iterator[Found]:
    """Each line that it prints. A quick run leaves it out: it knows one size only."""
    if settings.quick:
        yield Fact("bootstrap.py", "left out of a quick run")
        return
    program = Path(__file__).with_name("bootstrap.py")
    done = subprocess.run([sys.executable, str(program), "--runs", "2"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"bootstrap.py ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
    for number, line in enumerate(done.stdout.splitlines(), start=1):
        yield Fact(f"line {number}", line.strip())
