"""How many processes `agcxr predict` is, and which of them this one is.

One, unless `--devices` or `--nodes` ask for more, or torchrun or srun started several: those say so in the environment
(RANK, WORLD_SIZE, LOCAL_RANK; SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from agcxr import __version__
from agcxr.calibration import Point, parse_prevalence
from agcxr.inference.batch import MakeSink, Summary, checked_target, open_films, predict_files
from agcxr.inference.ensemble import all_runs, average_file
from agcxr.inference.onnx_engine import RuntimeName, is_exported
from agcxr.inference.prediction import Precision, ViewSet
from agcxr.inference.shards import Foreman, Job, Shard, Words, do_shard, fingerprint
from agcxr.inference.stream import cores

OURS = "AGCXR_LAUNCH"
"""Set for the processes that `--devices` starts: which start they belong to."""


@dataclass(frozen=True)
class Local:
    """A process among those of its machine."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Place:
    """Which of all processes this one is."""

    shard: Shard
    local: Local
    foreman: bool
    """Whether it merges at the end."""


@dataclass(frozen=True)
class Start:
    """Processes to start here, one a device: their ranks among `world`."""

    ranks: range
    world: int
    launch: str


@dataclass(frozen=True)
class Request:
    """What `agcxr predict` was asked for, as far as the table goes."""

    model: str
    inputs: tuple[str, ...]
    out: Path
    explain: Path | None = None
    dicom: Path | None = None
    objects: str = "sr,sc,seg"
    """DICOM results."""
    fhir: Path | None = None
    point: Point = "youden"
    prevalence: str | None = None
    batch_size: int = 16
    precision: Precision = "fp32"
    runtime: RuntimeName = "onnxruntime"
    others: tuple[str, ...] = ()
    """Models averaged with `model`."""
    views: ViewSet = "plain"

    def flags(self) -> list[str]:
        """Those that change rows or what is written beside them."""
        pairs = (
            *(("explain", self.explain), ("dicom", self.dicom), ("fhir", self.fhir), ("prevalence", self.prevalence)),
            ("objects", self.objects if self.dicom else None),
        )
        given = [word for name, value in pairs if value is not None for word in (f"--{name}", str(value))]
        given += [word for other in self.others for word in ("--also", other)]
        return [
            *given,
            "--views",
            self.views,
            "--point",
            self.point,
            "--precision",
            self.precision,
            "--runtime",
            self.runtime,
        ]

    def words(self) -> list[str]:
        """The command line of a process that does a share."""
        size = ["--batch-size", str(self.batch_size)]
        return ["predict", self.model, *self.inputs, "--out", str(self.out), *self.flags(), *size]


def predict(request: Request, devices: int = 1, nodes: int = 1, also: Sequence[MakeSink] = ()) -> int:
    """Do the request, in as many processes as it takes. Returns the exit status of this one.

    Of processes that others started, the foreman's status is that of the whole; the others' only says whether they did
    their share, since torchrun ends all processes when one fails.

    Raises:
        ValueError: devices or nodes that are not there, or as `predict_files`.
        ChildProcessError: a process died; what is finished is kept, and it says how to go on.
    """
    where = place(devices, nodes, os.environ)
    target = checked_target(request.out)
    prevalence = None if request.prevalence is None else parse_prevalence(request.prevalence)
    leave_out = tuple(folder for folder in (request.dicom, request.fhir) if folder)
    if where is None:
        summary = predict_files(
            request.model,
            request.inputs,
            target,
            explain_dir=request.explain,
            batch_size=request.batch_size,
            point=request.point,
            prevalence=prevalence,
            precision=request.precision,
            runtime=request.runtime,
            others=request.others,
            views=request.views,
            also=also,
            leave_out=leave_out,
        )
        return summary.status
    if isinstance(where, Start):
        check_devices(len(where.ranks), request.model)
    words = Words(
        version=__version__,
        model=request.model,
        fingerprint=_fingerprint(request),
        inputs=request.inputs,
        options=tuple(request.flags()),
        processes=where.world if isinstance(where, Start) else where.shard.world,
    )
    job = Job(words, target, request.explain, leave_out, tuple(also), request.batch_size)
    if isinstance(where, Start):
        return _start(job, request, where)
    arithmetic = {"precision": request.precision, "runtime": request.runtime}
    looks = {"others": request.others, "views": request.views}
    job = replace(job, engine={"point": request.point, "prevalence": prevalence, **arithmetic, **looks})
    return _share(job, request.model, where)


def _fingerprint(request: Request) -> str:
    """Of all that answers."""
    runs = all_runs(request.model, request.others)
    averaged = len(runs) > 1 or request.views != "plain"
    return " ".join(map(fingerprint, (*runs, *[str(average_file(request.model, request.views))] * averaged)))


# --- which process ----------------------------------------------------------------------------------------------------


def place(devices: int, nodes: int, environ: Mapping[str, str]) -> Place | Start | None:
    """What to do about several processes: be one of them, start some, or (None) do everything alone.

    Raises ValueError for fewer than one device or node, numbers that contradict the environment, and several nodes
    where nothing says which one this is.
    """
    if devices < 1 or nodes < 1:
        raise ValueError(f"--devices is {devices} and --nodes {nodes}; expected at least 1 of each")
    launch = _launch(environ)
    for names in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    ):
        if names[0] in environ and names[1] in environ:
            rank, world = (_number(environ, name) for name in names[:2])
            if world == 1:
                continue
            if not 0 <= rank < world:
                raise ValueError(f"{names[0]} is {rank} and {names[1]} is {world}; expected a rank from 0, below that")
            if devices * nodes in (1, world):
                local = Local(_number(environ, names[2], 0), max(1, _number(environ, names[3], 1)))
                return Place(Shard(rank, world, launch), local, rank == 0 and OURS not in environ)
            if world == nodes:
                return Start(range(rank * devices, (rank + 1) * devices), nodes * devices, launch)
            raise ValueError(
                f"{names[1]} says that {world} processes were started, and --devices {devices} --nodes {nodes} ask for "
                f"{devices * nodes}; start one process a device (leave both flags out), or one a node"
            )
    if nodes > 1:
        node = next((_number(environ, name) for name in ("NODE_RANK", "SLURM_NODEID") if name in environ), None)
        if node is None or not 0 <= node < nodes:
            raise ValueError(
                f"--nodes is {nodes}, and nothing says which of them this is: start the command with srun or torchrun, "
                f"or on each node with NODE_RANK=0 to {nodes - 1} before it (see docs/scale.md)"
            )
        return Start(range(node * devices, (node + 1) * devices), nodes * devices, launch)
    return Start(range(devices), devices, uuid.uuid4().hex) if devices > 1 else None


def _launch(environ: Mapping[str, str]) -> str:
    """What tells one start of the command from another, as far as the environment knows."""
    names = (OURS, "TORCHELASTIC_RUN_ID", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_STEP_ID")
    return environ.get(OURS) or " ".join(environ[name] for name in names if name in environ)


def _number(environ: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    text = environ.get(name, "" if otherwise is None else str(otherwise))
    digits = text.partition("(")[0].partition(",")[0]  # SLURM writes 4(x2),3
    try:
        return int(digits)
    except ValueError:
        raise ValueError(f"the environment variable {name} is {text!r}; expected a number, or unset it") from None


def check_devices(devices: int, model: str) -> None:
    """Raises ValueError where this machine has fewer devices: GPUs, or without any, processor cores."""
    gpus = 0 if is_exported(model) else _gpus()
    if devices <= (gpus or cores()):
        return
    have = f"{gpus} GPUs" if gpus else f"{cores()} processor cores and no GPU"
    raise ValueError(
        f"{devices} devices were asked for, but this machine has {have}; give --devices {gpus or cores()} or fewer"
    )


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


# --- being one of several ---------------------------------------------------------------------------------------------


def _share(job: Job, model: str, where: Place) -> int:
    """This process's share; the foreman also merges."""
    threads = _threads(where.local.world)
    engine = {**job.engine, "threads": threads}
    if not is_exported(model):
        engine["device"] = _device(where.local)
        if "OMP_NUM_THREADS" not in os.environ:
            _limit_torch(threads)
    job = replace(job, engine=engine, workers=threads)
    if not where.foreman:
        do_shard(job, where.shard)
        return 0
    foreman = Foreman(job, where.shard.world, where.shard.launch)
    try:
        do_shard(job, where.shard, foreman.look)
        foreman.wait()
        return foreman.merge().status
    finally:
        foreman.close()


def _threads(processes: int) -> int:
    """For each of so many processes here: its part of the cores, or all that it is bound to."""
    bound = cores() < (os.cpu_count() or 1)
    return cores() if bound and OURS not in os.environ else max(1, cores() // processes)


def _limit_torch(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _device(local: Local) -> str | None:
    """The GPU of a process; None: the CPU. Where only one GPU is seen, that: so schedulers deal them out."""
    gpus = _gpus()
    if not gpus:
        return None
    if local.rank >= gpus > 1:
        raise ValueError(
            f"this is process {local.rank + 1} of its machine, which has {gpus} GPUs; start one process a GPU"
        )
    return f"cuda:{local.rank if gpus > 1 else 0}"


# --- starting several -------------------------------------------------------------------------------------------------


def _start(job: Job, request: Request, start: Start) -> int:
    """Start this machine's processes and wait for them; with the first of all among them, also merge."""
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = not job.folder.exists()
    job.check()
    open_films(request.inputs, job.leave_out)  # a mistyped folder is told once, and before anything is started
    job.folder.mkdir(exist_ok=True)
    first = start.ranks[0] == 0
    foreman = Foreman(job, start.world, start.launch, progress=first)
    try:
        _run(job, request, start, foreman)
        if not first:
            return 0
        foreman.wait()
        summary: Summary = foreman.merge()
        return summary.status
    except ChildProcessError:
        if fresh and start.world == len(start.ranks) and not any(record and record.rows for record in foreman.look()):
            job.clear()
        raise
    finally:
        foreman.close()


def _run(job: Job, request: Request, start: Start, foreman: Foreman) -> None:
    """Raises ChildProcessError where a process died, after the others came to their ends."""
    logs = {rank: job.folder / f"{rank:05d}.log" for rank in start.ranks}
    children: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for local, rank in enumerate(start.ranks):
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", OURS)
            values = (str(rank), str(start.world), str(local), str(len(start.ranks)), start.launch)
            with open(logs[rank], "wb") as log:
                children[rank] = subprocess.Popen(
                    [sys.executable, "-m", "agcxr", *request.words()],
                    env={**os.environ, **dict(zip(names, values, strict=True))},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        while any(child.poll() is None for child in children.values()):
            foreman.look()
            time.sleep(0.2)
    finally:
        for child in children.values():
            if child.poll() is None:
                child.terminate()
        for child in children.values():
            with suppress(subprocess.TimeoutExpired):
                child.wait(10)
    dead = {rank: _last_words(child.returncode, logs[rank]) for rank, child in children.items() if child.returncode}
    if dead:
        told = "; ".join(
            f"process {', '.join(str(rank) for rank in dead if dead[rank] == words)}: {words}"
            for words in dict.fromkeys(dead.values())
        )
        raise ChildProcessError(f"{len(dead)} of {start.world} processes did not finish: {told}. {foreman.kept()}")


def _last_words(code: int, log: Path) -> str:
    """Why a process ended, as far as can be told."""
    if code < 0:
        name = signal.Signals(-code).name
        cure = "; out of memory? Try a smaller --batch-size, or fewer --devices" if name == "SIGKILL" else ""
        return f"ended by {name}{cure}"
    said = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return (said[-1].removeprefix("agcxr predict: ") if said else f"exit status {code}")[:500]
