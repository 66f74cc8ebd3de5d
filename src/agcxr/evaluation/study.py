"""All that `agcxr evaluate` measures on a split, in order: scores, then where it looks, then the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agcxr.data.prepared import Prepared, open_prepared
from agcxr.evaluation.evaluate import evaluate
from agcxr.evaluation.localization import Localization, summary
from agcxr.evaluation.localize import PICTURE, localize
from agcxr.evaluation.page import Section
from agcxr.evaluation.report import Written, report
from agcxr.evaluation.report_looks import looks
from agcxr.evaluation.results import Results


@dataclass(frozen=True)
class Study:
    """What was measured, and the report on it. `localization`: None where the split has no boxes to measure by."""

    folder: Path
    results: Results
    localization: Localization | None
    report: Written


def study(
    run: str | Path,
    prepared: str | Path | Prepared,
    split: str = "test",
    *,
    out: str | Path | None = None,
    resamples: int = 1000,
    seed: int = 0,
    allow_leak: bool = False,
    device: str | None = None,
    progress: bool = True,
) -> Study:
    """Evaluate a run on a split of a prepared folder and write its report; see `evaluate` for the arguments."""
    films = prepared if isinstance(prepared, Prepared) else open_prepared(prepared)
    done = evaluate(
        run,
        films,
        split,
        out=out,
        resamples=resamples,
        seed=seed,
        allow_leak=allow_leak,
        device=device,
        progress=progress,
    )
    found: Localization | None = None
    extra: tuple[Section, ...] = ()
    if has_boxes(films, split):
        found = localize(
            run,
            films,
            split,
            out=done.folder,
            resamples=resamples,
            seed=seed,
            allow_leak=allow_leak,
            device=device,
            progress=progress,
        )
        extra = (looks(found, PICTURE),)
        if progress:
            print(f"\n{summary(found)}")
    return Study(done.folder, done.results, found, report(done.folder, extra))


def has_boxes(films: Prepared, split: str) -> bool:
    """Whether at least two patients of the split have annotated boxes: one has no interval."""
    boxed = films.index.loc[films.index["image_id"].isin(films.boxes["image_id"]) & (films.index["split"] == split)]
    return bool(boxed["patient"].nunique() > 1)
