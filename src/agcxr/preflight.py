"""What is refused before torch is imported, which takes seconds: films, models, devices, networks that are not there,
and results that are there already."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from agcxr.starter import model_path

PLAN = "plan.json"
"""Of a prepared folder; a run keeps a copy, beside its own RUN_FILE."""
RUN_FILE = "config.yaml"
CURE = (
    "make one with `agcxr prepare nih --images DIR --labels CSV --out FOLDER`, or of films of your own with "
    "`agcxr prepare table`"
)
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
"""Of the drivers of NVIDIA, of Windows under Linux, and of AMD; without one of them Linux has no GPU that computes."""


def check_prepared(folder: str | os.PathLike[str]) -> None:
    """Raises ValueError for anything but a prepared folder, saying what it is instead."""
    folder = Path(folder)
    if is_prepared(folder):
        return
    partial = Path(f"{folder}.partial")  # with_name refuses "." and "/"
    if (folder / RUN_FILE).is_file():
        raise ValueError(
            f"{folder} is a run folder: it holds a trained model, and no films. Give the prepared folder that it was "
            f"trained on{_films_of_run(folder)}, or {CURE}"
        )
    hint = f"{partial.name} is unfinished: run the same command again to continue" if partial.is_dir() else CURE
    raise ValueError(f"{folder} is not a prepared folder (no {PLAN}); {hint}")


def is_prepared(folder: Path) -> bool:
    """Whether it holds films, and not a run on them."""
    return (folder / PLAN).is_file() and not (folder / RUN_FILE).is_file()


def _films_of_run(run: Path) -> str:
    try:
        films = json.loads((run / "run.json").read_text(encoding="utf-8")).get("data")
    except (OSError, ValueError, AttributeError):
        return ""
    return f" ({films})" if isinstance(films, str) else ""


def check_model(model: str | os.PathLike[str]) -> None:
    """Raises ValueError for a prepared folder, and for what neither is there nor may be on the hub."""
    path, name = model_path(model), str(model)
    if is_prepared(path):
        raise ValueError(f"{name} is a prepared folder: it holds films, and no model. Give the run trained on it")
    if not path.exists() and not HUB_ID.fullmatch(name):
        raise ValueError(
            f"no folder {name}; expected a run folder, a model folder, or a hub id such as `owner/name`; "
            "where films are answered for, also an exported file (.onnx) or `starter`"
        )


def check_free(
    files: Iterable[str | os.PathLike[str]] = (),
    folders: Iterable[str | os.PathLike[str]] = (),
    *,
    overwrite: bool,
) -> None:
    """Raises ValueError where a file that a command would write is there already, or a folder for its files holds any;
    `overwrite` allows both."""
    if overwrite:
        return
    for file in map(Path, files):
        if file.is_file():
            raise ValueError(f"{file} is there already; give another name, or --overwrite to replace it")
    for folder in map(Path, folders):
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(
                f"{folder} holds files already; give a new folder, or --overwrite to replace those of the same names"
            )


def may_have_gpus() -> bool:
    """False only where there is certainly no GPU."""
    return sys.platform != "linux" or any(os.path.exists(path) for path in GPU_FILES)


def check_devices(devices: int) -> None:
    """Raises ValueError for more devices than cores on a machine that has no GPU. (What a GPU can do, torch knows.)"""
    cores = os.cpu_count() or 1
    if devices > cores and not may_have_gpus():
        raise ValueError(
            f"{devices} devices were asked for, but this machine has {cores} core{'s' * (cores > 1)} and no GPU; "
            f"give --devices {cores} or fewer"
        )


def check_backbone(name: str) -> None:
    """Raises ValueError for the name of a network that timm's source nowhere defines, with the nearest one."""
    timm = find_spec("timm")
    if timm is None or timm.origin is None or ":" in name:  # a hub id or a folder: timm itself looks there
        return
    folder = Path(timm.origin).parent / "models"
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py")))
    networks = re.findall(r"^@register_model\s+def (\w+)\(", source, flags=re.M)
    architecture = name.partition(".")[0]
    if networks and architecture not in networks and not re.search(rf"['\"]{re.escape(architecture)}['\"]", source):
        near = difflib.get_close_matches(architecture, networks, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown backbone {name!r}{hint}; expected a timm model such as 'resnet50'")
