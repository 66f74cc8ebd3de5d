"""Measure the intake: python benchmarks/refusal.py [--run RUN]

False refusals on real films of patients that nothing was fitted on (2 of 5 patients of ../shared/nih), and what
becomes of films spoilt on purpose, drawn pictures, photographs and medical pictures of other kinds. With --run also the
distance in that model's feature space. Prints a table in Markdown, with hardware and versions.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import cv2
import numpy as np
from refusal_pictures import (
    DRAWN,
    FILMS,
    MEDICAL,
    PHOTOGRAPHS,
    Bytes,
    cuttings,
    films,
    is_sideways,
    most_of,
    part_of,
    shipped,
    tilted,
    upright,
)

from agcxr.data.radiograph import Radiograph, resize
from agcxr.intake import Intake, judge

if TYPE_CHECKING:
    from agcxr.inference.predictor import Predictor

CUTTINGS, DRAWINGS = 20, 100


@dataclass
class Row:
    """A kind of picture and the decisions about it."""

    kind: str
    right: str
    """What should become of it: "accept", or "refuse" (a warning is half of that)."""
    decisions: list[Intake] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, found: Intake) -> None:
        self.decisions.append(found)
        if found.decision == "accept" or self.right == "accept":
            self.examples[name] = f"{found.decision}: {'; '.join(found.reasons)}"

    def share(self, decision: str) -> str:
        hits, n = sum(one.decision == decision for one in self.decisions), len(self.decisions)
        low, high = wilson(hits, n)
        return f"{hits} ({100 * hits / n:.1f} %; {100 * low:.1f} to {100 * high:.1f})"

    def line(self) -> str:
        cells = (self.kind, len(self.decisions), *(self.share(one) for one in ("refuse", "warn", "accept")))
        return "| " + " | ".join(map(str, cells)) + " |"


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share."""
    centre, spread = hits + z * z / 2, z * np.sqrt(hits * (n - hits) / n + z * z / 4)
    return float(max(0, centre - spread) / (n + z * z)), float(min(n + z * z, centre + spread) / (n + z * z))


Decide = Callable[[list[Radiograph]], list[Intake]]
BATCH = 32


def measured(decide: Decide) -> list[Row]:
    """Every kind of picture, decided about."""
    generator = np.random.default_rng(1)
    rows: dict[str, Row] = {}

    def ask(kind: str, right: str, films: Iterable[Radiograph]) -> None:
        row = rows.setdefault(kind, Row(kind, right))
        waiting = iter(films)
        while batch := list(itertools.islice(waiting, BATCH)):
            for film, found in zip(batch, decide(batch), strict=True):
                row.add(film.name, found)

    ask("real films, upright", "accept", (film for film in films("measure") if not is_sideways(film)))
    ask("real films that the NIH stores on their side", "refuse", filter(is_sideways, films("measure")))
    for kind, spoil in SPOILT.items():
        ask(kind, "refuse", (_array(spoil(upright(film), generator), film.name) for film in films("measure")))
    for name, draw in DRAWN.items():
        ask(f"drawn: {name}", "refuse", (Radiograph(draw(generator), f"{name} {n}", "array") for n in range(DRAWINGS)))
    ask("photographs and graphics, whole", "refuse", shipped(PHOTOGRAPHS["measure"]))
    cut = (one for whole in shipped(PHOTOGRAPHS["measure"]) for one in list(cuttings(whole, CUTTINGS, generator))[1:])
    ask("cuttings of them", "refuse", cut)
    ask("medical pictures of other kinds", "refuse", shipped(MEDICAL))
    blank = (np.full((512, 512), value, np.uint8) for value in range(0, 256, 15))
    ask("blank", "refuse", (Radiograph(one, "blank", "array") for one in blank))
    for kind, film in spoilt_alone():
        ask(kind, "refuse", [film])
    return list(rows.values())


def spoilt_alone() -> Iterator[tuple[str, Radiograph]]:
    """Films of SPOILT_ALONE, with their kind."""
    for kind, spoil in SPOILT_ALONE.items():
        generator = np.random.default_rng(2)
        for film in films("measure"):
            yield kind, _array(spoil(upright(film), generator), film.name)


SPOILT: dict[str, Callable[[Bytes, np.random.Generator], Bytes]] = {
    "inverted": lambda pixels, _: 255 - pixels,
    "turned left by 90": lambda pixels, _: np.rot90(pixels, 1),
    "turned by 180": lambda pixels, _: np.rot90(pixels, 2),
    "turned right by 90": lambda pixels, _: np.rot90(pixels, 3),
    "inverted and turned by 180": lambda pixels, _: np.rot90(255 - pixels, 2),
    "a part of a film, or a film small in a frame": part_of,
}
"""What can go wrong with an upright film."""

SPOILT_ALONE: dict[str, Callable[[Bytes, np.random.Generator], Bytes]] = {
    "half to three quarters of each side": most_of,
    "tilted by 10 to 45 degrees": tilted,
    "mirrored": lambda pixels, _: pixels[:, ::-1],
    **{
        f"tilted by {least} to {most} degrees{', cut free of its corners' if cut else ''}": partial(
            tilted, least=least, most=most, cut=cut
        )
        for cut in (False, True)
        for least, most in itertools.pairwise((5, 10, 20, 30, 45))
    },
}
"""Likewise, each with random numbers of its own."""


def _array(pixels: Bytes, name: str) -> Radiograph:
    return Radiograph(np.ascontiguousarray(pixels), name, "array")


def with_distance(predictor: Predictor) -> Decide:
    """As the predictor decides, by the pixels and by the distance; only the global branch is run."""
    from agcxr.inference.describe import pooled_features
    from agcxr.inference.novelty import judge_distance

    statistics = predictor.statistics
    if statistics is None:
        raise SystemExit("this model's checkpoint does not know its training films; train or calibrate it again")

    def decide(batch: list[Radiograph]) -> list[Intake]:
        images_NSS = np.stack([resize(film.pixels_HW, predictor.prepared_size) for film in batch])
        distance_N = statistics.distance(pooled_features(predictor, images_NSS, np.arange(len(batch))))
        return [judge(film) & judge_distance(float(far)) for film, far in zip(batch, distance_N, strict=True)]

    return decide


def table(rows: list[Row]) -> str:
    head = "| pictures | n | refused (95 % interval) | warned of | accepted |\n|---|---|---|---|---|"
    return "\n".join([head, *(row.line() for row in rows)])


def tilts(rows: list[Row]) -> str:
    """How often the reason is the right one."""
    lines = []
    for row in rows:
        told = [one for one in row.decisions if one.decision != "accept"]
        if row.kind.startswith(("tilted", "real films, upright")):
            right = sum(any("turned by about" in reason for reason in one.reasons) for one in told)
            lines.append(f"- {row.kind}: {right} of {len(told)} that are not accepted are said to be tilted")
    return "\n".join(lines)


def mistakes(rows: list[Row]) -> str:
    """Films refused, and other pictures of few kinds that were accepted, by name."""
    lines = []
    for row in rows:
        wanted = row.right == "accept" or row.kind.startswith(("photo", "medical", "real"))
        named = [f"{name} ({text.strip(': ')})" for name, text in row.examples.items() if wanted]
        named = [one for one in named if row.right != "accept" or "(refuse" in one]
        if named:
            lines.append(f"- {row.kind}: {'; '.join(named[:12])}")
    return "\n".join(lines)


def speed() -> str:
    """Processor time of one decision, of a 1024 x 1024 film."""
    film = Radiograph(cv2.resize(next(iter(films("measure"))).to_uint8(), (1024, 1024)), "film", "array")
    times = []
    for _ in range(100):
        start = time.process_time()
        judge(film)
        times.append(1000 * (time.process_time() - start))
    return f"{np.median(times):.1f} ms a film of 1024 x 1024 (median of 100; {min(times):.1f} to {max(times):.1f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", help="also measure the distance in this model's feature space")
    arguments = parser.parse_args()
    if not FILMS.is_dir():
        print(f"{FILMS} is not here, so there is nothing to measure on", file=sys.stderr)
        return 2
    cv2.setNumThreads(1)
    rows = measured(lambda batch: [judge(film) for film in batch])
    print(f"## Pixels alone\n\n{table(rows)}\n\n{tilts(rows)}\n\n{mistakes(rows)}\n")
    print(f"Processor time: {speed()}, one thread.\n")
    if arguments.run:
        from agcxr.inference.predictor import Predictor

        rows = measured(with_distance(Predictor.from_pretrained(arguments.run)))
        print(f"## With the distance in the model's feature space\n\n{table(rows)}\n")
    print(
        f"{platform.machine()}, Python {platform.python_version()}, OpenCV {version('opencv-python-headless')}, ",
        end="",
    )
    print(f"NumPy {version('numpy')}, scikit-image {_version('scikit-image')}, agcxr {version('agcxr')}")
    return 0


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return "absent"


if __name__ == "__main__":
    sys.exit(main())
