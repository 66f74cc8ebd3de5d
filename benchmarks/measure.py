"""Honest timing: both sides alternate in one run, and what is kept is the ratio within each pair.

A noisy machine slows both sides of a pair alike, so the ratio stays put where the seconds do not. Which side goes
first changes from pair to pair. The first pair is a warm-up and is thrown away.
"""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("agcxr", "torch", "timm", "lightning", "numpy", "scipy", "opencv-python-headless", "pillow")


@dataclass(frozen=True)
class Quartiles:
    """The middle of n numbers, and where half of them lie."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        """Linear interpolation between order statistics, as NumPy does. Raises ValueError without values."""
        if not len(values):
            raise ValueError("no values were measured; expected at least one")
        return cls(*(float(q) for q in np.quantile(np.asarray(values, float), (0.25, 0.5, 0.75))))

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(self.low)} to {short(self.high)})"


@dataclass(frozen=True)
class Timed:
    """One side: seconds of each round; the highest resident memory of the process and of the GPU meanwhile, in MB."""

    seconds: tuple[float, ...]
    peak_mb: float = float("nan")
    gpu_mb: float = 0.0

    @property
    def memory(self) -> str:
        """In words: `1,234`, or `1,234 + 567 GPU`."""
        return f"{self.peak_mb:,.0f}" + (f" + {self.gpu_mb:,.0f} GPU" if self.gpu_mb else "")


@dataclass(frozen=True)
class Row:
    """Ours beside something else that did the same work in the same rounds.

    images: that one round of each side handles. peer: what people use today, else the side is a limit. target: the
    ratio to reach, None where none is set.
    """

    what: str
    beside: str
    images: int
    ours: Timed
    other: Timed
    peer: bool
    target: float | None = None
    note: str = ""
    other_images: int | None = None
    """Where the other side handles another number of images a round."""

    @property
    def ratios(self) -> tuple[float, ...]:
        """Of each pair: ours in images/s over the other in images/s. Above 1, ours is faster; of a limit, its share."""
        scale = self.images / (self.other_images or self.images)
        pairs = zip(self.ours.seconds, self.other.seconds, strict=True)
        return tuple(scale * other / ours for ours, other in pairs)

    @property
    def ratio(self) -> Quartiles:
        """Of the pairs, not of the medians."""
        return Quartiles.of(self.ratios)

    @property
    def rate(self) -> float:
        """Our images/s, median."""
        return self.images / Quartiles.of(self.ours.seconds).median

    @property
    def other_rate(self) -> float:
        """Images/s of the other side, median."""
        return (self.other_images or self.images) / Quartiles.of(self.other.seconds).median

    def line(self) -> str:
        """For the screen."""
        goal = "" if self.target is None else f"; to reach {self.in_unit(self.target)}: {verdict(self)}"
        return (
            f"{self.what}: {short(self.rate)} images/s beside {short(self.other_rate)} ({self.side}), n = "
            f"{len(self.ratios)}, {self.spread}{goal}; peak {self.ours.memory} MB"
            + (f"\n    {self.note}" if self.note else "")
        )

    @property
    def side(self) -> str:
        """The other side, with a word that says when it is a limit."""
        return self.beside if self.peer else f"limit: {self.beside}"

    @property
    def spread(self) -> str:
        """The paired ratio as people read it: times as fast, or the share of the limit reached."""
        found = self.ratio
        return f"{self.in_unit(found.median)} ({self.in_unit(found.low)} to {self.in_unit(found.high)})"

    def in_unit(self, ratio: float) -> str:
        """`4.20 x` beside a peer, `95.2 %` of a limit."""
        return f"{short(ratio)} x" if self.peer else f"{100 * ratio:.1f} %"

    def cells(self) -> tuple[str, ...]:
        """For a Markdown table: see HEADS."""
        goal = "-" if self.target is None else f"{self.in_unit(self.target)}: {verdict(self)}"
        return (
            self.what,
            self.side,
            str(len(self.ratios)),
            short(self.rate),
            short(self.other_rate),
            self.spread,
            goal,
            f"{self.ours.memory} / {self.other.memory}",
        )


HEADS = (
    "what",
    "beside",
    "n",
    "ours, images/s",
    "theirs, images/s",
    "paired ratio, or share of the limit",
    "to reach",
    "peak MB, ours / theirs",
)


@dataclass(frozen=True)
class Fact:
    """A figure that stands by itself."""

    what: str
    value: str
    note: str = ""

    def line(self) -> str:
        """For the screen."""
        return f"{self.what}: {self.value}" + (f"\n    {self.note}" if self.note else "")


Found = Row | Fact


def verdict(row: Row) -> str:
    """Whether the median pair reaches the target."""
    assert row.target is not None
    return "reached" if row.ratio.median >= row.target else "short of it"


def short(value: float) -> str:
    """Three significant digits, whole numbers in full: 0.0123, 1.23, 12.3, 12,345."""
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    digits = 3 if value == 0 else max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{min(digits, 5)}f}"


# --- measuring --------------------------------------------------------------------------------------------------------


def alternate(sides: dict[str, Callable[[], Any]], rounds: int, *, warm_up: int = 1) -> dict[str, Timed]:
    """Run every side once a round, `rounds` times after `warm_up` rounds that do not count; the order rotates."""
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; expected at least 1")
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    gc.collect()
    gc.freeze()  # what was there before need not be looked through again between two sides
    try:
        for i in range(warm_up + rounds):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                gc.collect()
                reset_peak()
                sync()
                start = time.perf_counter()
                sides[name]()
                sync()
                if i >= warm_up:
                    seconds[name].append(time.perf_counter() - start)
                    peaks[name].append((peak_mb(), gpu_mb()))
    finally:
        gc.unfreeze()
    return {
        name: Timed(tuple(seconds[name]), *(max(peak) for peak in zip(*peaks[name], strict=True))) for name in names
    }


def sync() -> None:
    """Wait for the GPU, where there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak() -> None:
    """Let the peaks of memory start anew (resident: Linux; elsewhere it covers the whole process)."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # the figure is then an upper bound


def peak_mb() -> float:
    """Highest resident memory since `reset_peak`, in MB; NaN where the system does not say."""
    return _status("VmHWM")


def gpu_mb() -> float:
    """Highest memory that tensors held on the GPU since `reset_peak`, in MB; 0 without one."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0


def processor_seconds() -> float:
    """Processor time of this process and of those it started that still run (Linux; elsewhere of this one alone). Other
    work on the machine slows a wall clock down, and this hardly."""
    own = os.times()
    seconds, ticks = own.user + own.system + own.children_user + own.children_system, os.sysconf("SC_CLK_TCK")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            numbers = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(numbers[1]) == os.getpid():
            seconds += (int(numbers[11]) + int(numbers[12])) / ticks
    return seconds


def resident_mb(kind: str = "Rss") -> float:
    """Resident memory now, in MB. kind: "Rss" all, "Anon" the process's own, "File" mapped files."""
    return _status({"Rss": "VmRSS", "Anon": "RssAnon", "File": "RssFile"}[kind])


def _status(field_name: str) -> float:
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    found = [line.split()[1] for line in lines if line.startswith(field_name + ":")]
    return int(found[0]) / 1024 if found else float("nan")


# --- where it was measured --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """The machine, the versions and the code that figures belong to."""

    hardware: str
    load: str
    versions: str
    commit: str
    date: str

    @classmethod
    def here(cls) -> Place:
        """This machine, now."""
        found = []
        for name in PACKAGES:
            try:
                found.append(f"{name} {version(name)}")
            except PackageNotFoundError:
                found.append(f"{name} absent")
        return cls(
            hardware=hardware(),
            load=f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown",
            versions=", ".join([f"Python {platform.python_version()}", *found]),
            commit=commit(),
            date=datetime.now(UTC).strftime("%Y-%m-%d"),
        )

    def line(self) -> str:
        """For the screen."""
        return f"{self.hardware}; load {self.load} at the start; {self.versions}; commit {self.commit}"


def hardware() -> str:
    """Processor, cores this process may use, what they compute in, memory, and GPU where there is one."""
    import torch

    from agcxr.machine import cores, processor
    from agcxr.training.stages import uses_bf16

    parts = [f"{processor()}, {cores()} cores"]
    width = torch.backends.cpu.get_cpu_capability()
    parts.append(f"{width} with bf16" if uses_bf16("auto") else f"{width} without bf16, so networks run in float32")
    if hasattr(os, "sysconf"):
        parts.append(f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB")
    if torch.cuda.is_available():
        parts.append(f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")
    return ", ".join(parts)


def slug() -> str:
    """The hardware as a part of a file name: `cpu2` (`cpu2-fp32` where it has no bf16), or the GPU's name."""
    import torch

    from agcxr.machine import cores
    from agcxr.training.stages import uses_bf16

    if torch.cuda.is_available():
        return "".join(c if c.isalnum() else "-" for c in torch.cuda.get_device_name(0).lower())
    return f"cpu{cores()}{'' if uses_bf16('auto') else '-fp32'}"


def commit() -> str:
    """The commit, with a mark where tracked files differ from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+changes", "--abbrev=10"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({type(error).__name__})"
    return done.stdout.strip()


# --- pages ------------------------------------------------------------------------------------------------------------


@dataclass
class Page:
    """What one theme found."""

    theme: str
    about: str
    limits: str = ""
    """What limits it, in words: printed under the table."""
    rows: list[Row] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    problem: str = ""

    def add(self, found: Found) -> None:
        """Put it where it belongs."""
        (self.rows if isinstance(found, Row) else self.facts).append(found)  # type: ignore[arg-type]

    def markdown(self, place: Place) -> str:
        """The whole page: one table, what limits it, further figures."""
        parts = [f"# {self.theme[:1].upper()}{self.theme[1:]}", self.about.strip()]
        parts += [
            f"- {place.hardware}; load {place.load} at the start\n- {place.versions}\n"
            f"- commit {place.commit}, {place.date}"
        ]
        if self.rows:
            parts += ["## Measured", table(HEADS, [row.cells() for row in self.rows])]
            parts += ["\n".join(f"- {row.what}, beside {row.beside}: {row.note}" for row in self.rows if row.note)]
        if self.limits:
            parts += ["## What limits it", self.limits.strip()]
        if self.facts:
            cells = [(fact.what, fact.value, fact.note or "-") for fact in self.facts]
            parts += ["## Further figures" if self.rows else "## Measured", table(("what", "figure", "note"), cells)]
        if self.problem:
            parts += ["## This run did not finish", f"    {self.problem}"]
        return "\n\n".join(part for part in parts if part) + "\n"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def to_json(found: Found) -> dict[str, Any]:
    """As `from_json` reads it."""
    return {"kind": type(found).__name__, **asdict(found)}


def from_json(values: dict[str, Any]) -> Found:
    """What `to_json` wrote."""
    values = dict(values)
    if values.pop("kind") == "Fact":
        return Fact(**values)
    for side in ("ours", "other"):
        values[side] = Timed(**(values[side] | {"seconds": tuple(values[side]["seconds"])}))
    return Row(**values)
