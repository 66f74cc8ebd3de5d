"""`agcxr prepare` beside bare decoding on all cores (OpenCV, nothing written or checked) and Pillow on one.

1024 x 1024 PNGs to 256 x 256. The bare decoders are running before the clock starts; ours starts its processes every
time, which a hundred thousand films do not notice and these few do. So the rate between a small and a large run,
in which the start cancels out, is given as well: it is the rate of a large collection.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator

from agcxr.machine import cores
from benchmarks import materials
from benchmarks.decoding import bare, one_thread, pillow
from benchmarks.materials import Settings
from benchmarks.measure import Fact, Found, Row, Timed, alternate, resident_mb

THEME = "prepare"

LIMITS = """
Decoding PNGs (inflate, then undoing the filters) by the fastest library at hand, on all cores. Ours adds checks of the
file, the report of what was done to it, and writing 64 KB a film; the start of its processes is a fixed cost that a
large collection does not notice.
"""


def run(settings: Settings) -> Iterator[Found]:
    """Rows for the whole call and for the rate without its start."""
    few, many, on_one = settings.pick(192, 16), settings.pick(768, 32), settings.pick(48, 4)
    small, large = settings.folder / "small", settings.folder / "large"
    paths = {small: materials.film_files(small, few), large: materials.film_files(large, many)}
    texts = [str(path) for path in paths[large]]
    out = settings.folder / "out"
    resident: list[float] = []

    def ours(folder: object) -> None:
        shutil.rmtree(out, ignore_errors=True)
        assert folder in (small, large)
        names = [path.name for path in paths[folder]]  # type: ignore[index]
        # from 128 films on prepare takes all cores by itself; said here so that a quick run takes the same way
        materials.prepared(folder, names, out, workers=cores())  # type: ignore[arg-type]
        resident.append(resident_mb())

    with multiprocessing.get_context("spawn").Pool(cores(), one_thread) as pool:
        sides = {
            "small": lambda: ours(small),
            "large": lambda: ours(large),
            "bare": lambda: pool.map(bare, texts, chunksize=8),
            "pillow": lambda: [pillow(path) for path in texts[:on_one]],
        }
        found = alternate(sides, settings.pick(3, 1))
    large_s, small_s = found["large"].seconds, found["small"].seconds
    rest = Timed(tuple(max(a - b, 1e-9) for a, b in zip(large_s, small_s, strict=True)), found["large"].peak_mb)
    width = f"{cores()} cores"
    title = f"prepare, {many} films"
    yield Row(title, "Pillow, 1 core", many, found["large"], found["pillow"], peer=True, other_images=on_one)
    yield Row(
        title, f"bare decode, {width}", many, found["large"], found["bare"], peer=False, note="its start included"
    )
    yield Row(
        f"prepare, its start left out ({many} less {few} films)",
        f"bare decode, {width}",
        many - few,
        rest,
        found["bare"],
        peer=False,
        target=0.9,
        other_images=many,
    )
    yield Fact("resident memory of prepare after each call, MB", ", ".join(f"{mb:,.0f}" for mb in resident))
    yield Fact("films", materials.films_are())
