"""Training steps beside another job on the same cores: how many threads, and do they spin or sleep while they wait?

Each setting is a process of its own, as OpenMP reads its variables when it starts: stage I steps (bf16 where there is
it) on views in memory, alone, and beside as many busy processes as there are cores, one after the other in every round.
A fair share beside n busy processes on n cores is half of what the same cores do alone.

Run: python benchmarks/shared_cores.py [--backbone resnet18] [--size 224] [--rounds 3] [--steps 6]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

from benchmarks.measure import Quartiles, commit, hardware, table

WAITING = {"as they come": {}, "passive": {"OMP_WAIT_POLICY": "passive"}, "active": {"OMP_WAIT_POLICY": "active"}}
BUSY = "while True: pass"

STEPS = """
import sys, time
import torch
from agcxr.models.backbones import Backbone
from agcxr.training.stages import uses_bf16
backbone, size, steps, threads = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)
torch.manual_seed(0)
net = Backbone(backbone, weights="none").train().to(memory_format=torch.channels_last)
optimiser = torch.optim.AdamW(net.parameters(), fused=True)
image = torch.rand(32, 1, size, size).to(memory_format=torch.channels_last)
def step():
    with torch.autocast("cpu", torch.bfloat16, enabled=uses_bf16("auto")):
        loss = net(image).float().square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
step()
print("ready", flush=True)
for _ in range(2):
    sys.stdin.readline()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    print(32 * steps / (time.perf_counter() - start), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{hardware()}; load {os.getloadavg()[0]:.1f}; commit {commit()}", flush=True)
    settings = [(1, "as they come"), *((cores, waiting) for waiting in WAITING)]
    rates: dict[tuple[int, str], list[tuple[float, float]]] = {setting: [] for setting in settings}
    for turn in range(given.rounds):
        for setting in settings[turn % len(settings) :] + settings[: turn % len(settings)]:
            rates[setting].append(films_per_second(given, *setting, cores))
    best = statistics.median(alone for alone, _ in rates[cores, "as they come"])
    rows = []
    for (threads, waiting), each in rates.items():
        alone, beside = (Quartiles.of([pair[i] for pair in each]) for i in (0, 1))
        kept = Quartiles.of([pair[1] / best for pair in each])
        rows.append(
            [str(threads), waiting, str(alone), str(beside), f"{kept.median:.0%} ({kept.low:.0%} to {kept.high:.0%})"]
        )
    print(f"\n{given.backbone}, {given.size} px, {given.rounds} rounds of {given.steps} steps of 32; films/s")
    print(table(["threads", "waiting", "alone", f"beside {cores} busy processes", "of all cores alone"], rows))


def films_per_second(given: argparse.Namespace, threads: int, waiting: str, cores: int) -> tuple[float, float]:
    """Alone, and beside busy processes."""
    arguments = [given.backbone, str(given.size), str(given.steps), str(threads)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    with subprocess.Popen(
        [sys.executable, "-c", STEPS, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment | WAITING[waiting],
    ) as training:
        assert training.stdin is not None
        assert training.stdout is not None
        training.stdout.readline()
        rates = []
        for neighbours in (0, cores):
            busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(neighbours)]
            try:
                training.stdin.write("go\n")
                training.stdin.flush()
                rates.append(float(training.stdout.readline()))
            finally:
                for process in busy:
                    process.kill()
                    process.wait()
    return rates[0], rates[1]


if __name__ == "__main__":
    main()
