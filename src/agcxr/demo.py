"""`agcxr demo`: the whole method on synthetic films, in one folder, in minutes on two CPU cores."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agcxr import config
from agcxr.data.phantom_collection import write_phantom
from agcxr.data.prepare import prepare_nih
from agcxr.data.prepared import open_prepared
from agcxr.data.storing import Storing
from agcxr.evaluation.report import conclusion
from agcxr.evaluation.study import Study, study
from agcxr.experiments.calibrate import calibrate
from agcxr.findings import CHESTXRAY14
from agcxr.inference.batch import Pictures, predict_files
from agcxr.training.stages import train

FILM_SIZE = 256
"""Side of the synthetic films. The global branch sees them at 64; crops come from the full 256."""

T = TypeVar("T")


@dataclass(frozen=True)
class Demo:
    """What a demo left behind."""

    study: Study
    pictures: tuple[Path, ...]
    seconds: float


def run_demo(out: Path, *, films: int = 2000, seed: int = 0, settings: config.Train | None = None) -> Demo:
    """Make, prepare, train, evaluate and explain. Parts that an earlier call finished in `out` are kept.

    Raises ValueError where `out` holds anything but an earlier demo, or a part of it was made with other settings.
    """
    start = time.perf_counter()
    check_place(out)
    settings = (settings or config.demo()).model_copy(update={"seed": seed})
    raw, prepared, run, results = (out / name for name in ("phantom", "prepared", "run", "results"))
    _step(1, f"draw {films:,} synthetic chest films", lambda: _once(raw, lambda: _draw(raw, films, seed)))
    _step(2, "prepare them", lambda: _once(prepared, lambda: _prepare(raw, prepared, seed)))
    _step(3, "train: global, local, fusion", lambda: _train(prepared, settings, run))
    found = _step(4, "evaluate on the test films", lambda: study(run, prepared, out=results, maps=False))
    pictures = _step(5, "explain three films", lambda: _explain(run, raw, prepared, out / "explained"))
    done = Demo(found, pictures, time.perf_counter() - start)
    print(f"\n{closing(done, run)}")
    return done


def closing(done: Demo, run: Path) -> str:
    """What came of it, in words, what to open, and the next command."""
    opened = "\n".join(f"  {path}" for path in (done.study.report.html, *done.pictures))
    return (
        f"Done in {done.seconds / 60:.1f} minutes. {conclusion(done.study.results)} It learnt on synthetic films only: "
        f"what it says of a real film means nothing.\n\nOpen:\n{opened}\n\n"
        f"Next: agcxr serve {run}  (a page in the browser with synthetic films to try)"
    )


def check_place(out: Path) -> None:
    """Raises ValueError for a folder that holds anything but an earlier demo, so that nothing is written among other
    files, nor a part of them taken for the demo's."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give --out a folder to make, or that of an earlier demo")
    held = sorted(entry.name for entry in out.iterdir()) if out.exists() else []
    begun = not {"phantom", "phantom.partial"}.isdisjoint(held)
    if held and (not begun or not {"plan.json", "config.yaml", "config.json"}.isdisjoint(held)):
        few = ", ".join(held[:3]) + (", ..." if len(held) > 3 else "")
        raise ValueError(
            f"{out} holds other things than a demo ({few}); give --out a new or an empty folder, or that of an earlier "
            "demo"
        )


def _step(number: int, what: str, work: Callable[[], T]) -> T:
    print(f"\n[{number}/5] {what}", flush=True)
    start = time.perf_counter()
    made = work()
    print(f"      {time.perf_counter() - start:.1f} s", flush=True)
    return made


def _once(folder: Path, make: Callable[[], object]) -> None:
    """Folders appear whole, so one that is there is finished."""
    if folder.exists():
        print(f"      {folder} is there already")
    else:
        make()


def _draw(raw: Path, films: int, seed: int) -> None:
    write_phantom(raw, films, seed=seed, size=FILM_SIZE)


def _prepare(raw: Path, prepared: Path, seed: int) -> None:
    prepare_nih(
        raw / "images",
        raw / "Data_Entry_2017_v2020.csv",
        prepared,
        boxes=raw / "BBox_List_2017.csv",
        lists=raw,
        split="official",
        storing=Storing(size=FILM_SIZE, seed=seed),
    )


def _train(prepared: Path, settings: config.Train, run: Path) -> None:
    train(prepared, settings, run, resume=run.exists())
    calibrate(run, prepared, progress=False)


def _explain(run: Path, raw: Path, prepared: Path, pictures: Path) -> tuple[Path, ...]:
    """Three test films, with a small, a middling and a large finding where there are such."""
    index = open_prepared(prepared).index
    test = index[index["split"] == "test"]
    order = ("Nodule", "Effusion", "Cardiomegaly", *CHESTXRAY14.labels)
    films = [film for finding in order for film in test.loc[test[finding] == 1, "image_id"].head(1)]
    chosen = [str(raw / "images" / film) for film in dict.fromkeys(films)][:3]
    truth = {
        str(row["image_id"]): [label for label in CHESTXRAY14.labels if row[label] == 1] for _, row in test.iterrows()
    }
    predict_files(str(run), chosen, pictures / "predictions.csv", also=[lambda engine: Pictures(pictures, truth)])
    return tuple(sorted(pictures.glob("*.png")))
