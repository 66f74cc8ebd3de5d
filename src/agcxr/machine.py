"""What computes here: the processor, its cores and instructions, and versions of what decides a result."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def processor() -> str:
    """The processor's model, as the system names it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instructions() -> frozenset[str]:
    """What the processor can do, as Linux names it: `avx512_bf16`, ...; empty elsewhere."""
    return frozenset(_cpuinfo("flags").split())


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(*packages: str) -> dict[str, str]:
    """Of Python and of packages; "absent" for what is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _cpuinfo(name: str) -> str:
    """A line of the first processor; empty where there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
