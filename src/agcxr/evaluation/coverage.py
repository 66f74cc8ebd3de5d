"""What the crop shows of a lesion, beside two floors: what a crop of the same size would show at a random place
(chance, in closed form), and in the centre of the view.

Coverage of an annotated box G by the attended box A is area(A ∩ G) / area(G): 1 where the crop holds all of it.
Frame: boxes are (x0, y0, x1, y1) in fractions of the film. Shapes: N cases (an annotated box on a film each).
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from agcxr.evaluation.results import Stored
from agcxr.evaluation.tables import DAGGER, ends, number, signed, words
from agcxr.evaluation.tables import chance as p_words
from agcxr.metrics import Floats
from agcxr.proportions import Clustered, against_chance, paired
from agcxr.uncertainty import FEW_PATIENTS, RESAMPLES, Difference, mean_over, p_floor, resample
from agcxr.values import Number, Record

COVERAGE = "coverage.json"
MEAN = "Mean"


class Covered(Record):
    """One finding (or the mean over findings): shares in [0, 1]; `gap` is coverage minus chance, paired, 95 %. Its
    interval and p are NaN where all boxes (for the mean: of some finding) are of one patient, who says nothing of
    others."""

    finding: str
    boxes: int
    patients: int
    coverage: float
    chance: float
    gap: float
    gap_low: Number
    gap_high: Number
    p: Number
    left_out: int = 0
    """Resamples without a box of the finding (for the mean: of some finding)."""
    centre: Number = math.nan
    """Of a box of the same size in the centre of the view; NaN in files of before it was measured, as its gap."""
    centre_gap: Number = math.nan
    centre_gap_low: Number = math.nan
    centre_gap_high: Number = math.nan
    centre_p: Number = math.nan

    @property
    def over_chance(self) -> Difference:
        """Coverage minus chance."""
        return Difference(value=self.gap, low=self.gap_low, high=self.gap_high, p=self.p, left_out=self.left_out)

    @property
    def over_centre(self) -> Difference:
        """Coverage minus that of a box in the centre."""
        low, high, p = self.centre_gap_low, self.centre_gap_high, self.centre_p
        return Difference(value=self.centre_gap, low=low, high=high, p=p, left_out=self.left_out)


class Coverage(Stored):
    """All findings with boxes in the split, then their mean."""

    FILE = COVERAGE

    resamples: int
    rows: tuple[Covered, ...]

    def of(self, finding: str) -> Covered:
        """One finding's row. Raises ValueError where it has no boxes."""
        for row in self.rows:
            if row.finding == finding:
                return row
        raise ValueError(f"no boxes of {finding!r}; there are {', '.join(row.finding for row in self.rows)}")


def covered(found_N4: Floats, annotated_N4: Floats) -> Floats:
    """Share of each annotated box inside the found one."""
    low = np.maximum(found_N4[:, :2], annotated_N4[:, :2])
    high = np.minimum(found_N4[:, 2:], annotated_N4[:, 2:])
    return np.prod(np.clip(high - low, 0, None), axis=1) / _area(annotated_N4)


def covered_by_chance(found_N4: Floats, annotated_N4: Floats, window_4: Floats) -> Floats:
    """Expected `covered` of a box as large as the found one, placed uniformly inside the window the network sees."""
    mean = np.ones(len(found_N4))
    for axis in (0, 1):
        side = found_N4[:, 2 + axis] - found_N4[:, axis]
        mean *= _mean_overlap(
            side, annotated_N4[:, axis], annotated_N4[:, 2 + axis], window_4[axis], window_4[2 + axis]
        )
    return mean / _area(annotated_N4)


def centred(found_N4: Floats, window_4: Floats) -> Floats:
    """Boxes as large as the found ones, in the centre of the window the network sees."""
    middle_2 = (window_4[:2] + window_4[2:]) / 2
    half_N2 = (found_N4[:, 2:] - found_N4[:, :2]) / 2
    return np.concatenate([middle_2 - half_N2, middle_2 + half_N2], axis=1)


def coverage(
    predictions: pd.DataFrame, boxes: pd.DataFrame, window_4: Floats, *, resamples: int = RESAMPLES, seed: int = 0
) -> Coverage:
    """Measure the attended boxes of predictions.parquet on the annotated boxes (boxes.parquet) of the same films.

    Raises ValueError where none of the films has a box.
    """
    cases = boxes.merge(predictions, on="row", suffixes=("", "_predicted"))
    if cases.empty:
        raise ValueError("none of the predicted films has an annotated box")
    found = cases[["box_x0", "box_y0", "box_x1", "box_y1"]].to_numpy(np.float64)
    annotated = cases[["x0", "y0", "x1", "y1"]].to_numpy(np.float64)
    share_3N = np.stack(
        [
            covered(found, annotated),
            covered_by_chance(found, annotated, window_4),
            covered(centred(found, window_4), annotated),
        ]
    ).round(12)  # equal boxes are no difference, whatever the last bits of their edges
    patient, finding = cases["patient"].astype(str).to_numpy(), cases["finding"].to_numpy()
    order = [str(name).removeprefix("label_") for name in predictions]
    names = sorted(set(finding), key=lambda name: (order.index(name) if name in order else len(order), name))

    def gaps_of(weight_NR: Floats) -> list[Floats]:
        """2 x R of every finding: coverage minus chance, and minus the centre."""
        out = []
        for some in (finding == name for name in names):
            total_R = weight_NR[some].sum(axis=0)
            gap_2R = (share_3N[0] - share_3N[1:])[:, some] @ weight_NR[some]
            out.append(np.divide(gap_2R, total_R, where=total_R > 0, out=np.full_like(gap_2R, np.nan)))
        return out

    gaps = resample(gaps_of, patient, resamples, np.random.default_rng(seed))
    rows = []
    for name, gap_2R in zip(names, gaps, strict=True):
        some = finding == name
        rows.append(_row(name, share_3N[:, some], Clustered.of(patient[some]), gap_2R))
    fewest = min(row.patients for row in rows)
    whole = _row(MEAN, share_3N, Clustered.of(patient, finding), mean_over(np.stack(gaps)), fewest)
    return Coverage(resamples=resamples, rows=(*rows, whole))


def text(found: Coverage) -> str:
    """A line a finding, for a terminal, beside each floor."""
    lines = _text(found, "What the crop shows", "Chance", [(row.chance, row.over_chance) for row in found.rows])
    centre = [(row.centre, row.over_centre) for row in found.rows]
    lines += ["", *_text(found, "In the centre instead", "Centre", centre)]
    note = f"{DAGGER} Boxes of fewer than {FEW_PATIENTS} patients: interval and p are rough."
    return "\n".join([*lines, note] if any(row.patients < FEW_PATIENTS for row in found.rows) else lines)


def _text(found: Coverage, title: str, floor: str, beside: list[tuple[float, Difference]]) -> list[str]:
    """beside: of each row the floor, and coverage minus that."""
    lines = [f"{title:<22}{'Boxes':>6}{'Coverage':>10}{floor:>8}{'Difference (95 %)':>26}{'p':>8}"]
    for row, (share, apart) in zip(found.rows, beside, strict=True):
        gap = f"{signed(apart.value)} ({ends(apart, sign=True) or no_interval(row.finding)})"
        name = words(row.finding) + DAGGER * (row.patients < FEW_PATIENTS)
        least = p_words(apart.p, p_floor(found.resamples, apart.left_out))
        lines.append(f"{name:<22}{row.boxes:>6}{number(row.coverage):>10}{number(share):>8}{gap:>26}{least:>8}")
    return lines


def no_interval(finding: str) -> str:
    """Why a row has none."""
    return "no interval" if finding == MEAN else "one patient"


def _row(name: str, share_3N: Floats, sample: Clustered, gap_2R: Floats, fewest: int | None = None) -> Covered:
    """share_3N: coverage, chance, centre of every box; gap_2R: coverage minus each floor on every resample. `fewest`:
    patients of the finding that has the fewest, for the mean."""
    patients = sample.clusters if fewest is None else fewest
    chance = against_chance(share_3N[0], share_3N[1], sample, gap_2R[0], patients=patients)
    centre = paired(share_3N[0] - share_3N[2], sample, gap_2R[1], patients=patients)
    mean_3 = [sample.mean(share_N) for share_N in share_3N]
    return Covered(
        finding=name,
        boxes=share_3N.shape[1],
        patients=sample.clusters,
        coverage=mean_3[0],
        chance=mean_3[1],
        gap=chance.value,
        gap_low=chance.low,
        gap_high=chance.high,
        p=chance.p,
        left_out=chance.left_out,
        centre=mean_3[2],
        centre_gap=centre.value,
        centre_gap_low=centre.low,
        centre_gap_high=centre.high,
        centre_p=centre.p,
    )


def _area(box_N4: Floats) -> Floats:
    return np.asarray((box_N4[:, 2] - box_N4[:, 0]) * (box_N4[:, 3] - box_N4[:, 1]))


def _mean_overlap(side_N: Floats, low_N: Floats, high_N: Floats, start: float, end: float) -> Floats:
    """Mean length of [u, u + side] ∩ [low, high] for u uniform in [start, end - side].

    As u grows the overlap gains slope 1 at low - side, and loses, regains or loses it at high - side, low and high; so
    its antiderivative is a sum of four half squares.
    """
    room = np.maximum(end - start - side_N, 0)
    stuck = room < 1e-12  # the box fills the window: it has one place
    u0, u1 = np.full_like(side_N, start), start + np.where(stuck, 1e-9, room)

    def total(u: Floats) -> Floats:
        signs = ((low_N - side_N, 1), (high_N - side_N, -1), (low_N, -1), (high_N, 1))
        return sum((sign * 0.5 * np.maximum(u - at, 0) ** 2 for at, sign in signs), np.zeros_like(u))

    moving = (total(u1) - total(u0)) / (u1 - u0)
    fixed = np.clip(np.minimum(start + side_N, high_N) - np.maximum(start, low_N), 0, None)
    return np.where(stuck, fixed, moving)
