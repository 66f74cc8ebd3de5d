"""Made-up predictions with a known fault: scores are too high, and findings are rarer than where they were fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from agcxr.calibration import Calibration, fit_calibration
from agcxr.evaluation.analysis import analyse
from agcxr.evaluation.evaluate import to_scores
from agcxr.evaluation.results import Environment, LeakResult, Results
from agcxr.labels import FINDINGS, LABELS


def films(count: int, seed: int, shift: float = 0.0) -> pd.DataFrame:
    """Two films a patient. The logit of the truth is 1.5 z + base + shift; the score is sigmoid(z + 0.8), the same for
    all branches but for noise. Men's scores carry more noise."""
    rng = np.random.default_rng(seed)
    base = np.linspace(-0.8, -4.5, len(LABELS)) + shift
    base[LABELS.index("No Finding")] = 0.2 - shift
    z = rng.normal(size=(count, len(LABELS)))
    truth = rng.random(z.shape) < 1 / (1 + np.exp(-(1.5 * z + base)))
    men = rng.random(count // 2).repeat(2) < 0.55
    frame = pd.DataFrame({"image_id": [f"{n}.png" for n in range(count)], "row": range(count)})
    frame["patient"] = [f"p{n // 2}" for n in range(count)]
    frame["age"] = rng.normal(52, 17, count // 2).clip(5, 95).round().repeat(2)
    frame["sex"] = np.where(men, "M", "F")
    frame["view"] = np.where(rng.random(count) < 0.6, "PA", "AP")
    frame.loc[:3, "age"] = np.nan
    for branch, noise in (("global", 0.8), ("local", 1.2), ("fusion", 0.6)):
        seen = z + rng.normal(size=z.shape) * noise * np.where(men, 1.5, 0.7)[:, None]
        score = 1 / (1 + np.exp(-(seen + 0.8)))
        frame = pd.concat([frame, pd.DataFrame(score, columns=[f"{branch}_{name}" for name in LABELS])], axis=1)
    return pd.concat([frame, pd.DataFrame(truth, columns=[f"label_{name}" for name in LABELS]).astype(float)], axis=1)


def fitted(count: int = 4000, seed: int = 1) -> Calibration:
    """On validation films where findings are commoner by e^0.7 in odds."""
    frame = films(count, seed, shift=0.7)
    target, score = (frame[[f"{kind}_{name}" for name in LABELS]].to_numpy() for kind in ("label", "fusion"))
    return fit_calibration(target, score, frame["patient"].to_numpy(dtype=object), LABELS)


def write_results(folder: Path, count: int = 1600, resamples: int = 40, seed: int = 2) -> Results:
    """predictions.parquet and results.json, as `evaluate` leaves them, but for pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = films(count, seed)
    frame.to_parquet(folder / "predictions.parquet", index=False)
    here = Environment(device="none", processor="none", cores=1, python="3", versions=(), seconds=0, films_per_second=0)
    results = Results(
        run="made up",
        backbone="none",
        split="test",
        made="2026-01-01T00:00:00+00:00",
        analysis=analyse(to_scores(frame, LABELS), resamples=resamples),
        crops=(),
        leak=LeakResult(checked=True, shared_patients=0, shared_films=0, allowed=False),
        points_from="nowhere",
        examples=(),
        environment=here,
    )
    results.save(folder)
    return results


__all__ = ["FINDINGS", "films", "fitted", "write_results"]
