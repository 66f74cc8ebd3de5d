"""Several looks at a film as one engine: the average over models, and over views of the film.

Probabilities are averaged; box, heatmap, crop, features and distance are the first model's on the plain view. A view is
the prepared film moved, or mirrored, so that the part to be looked at lies where the models look; so every engine can
take it, an exported file too. No torch.

Shape suffixes: B films, K labels, S side of the prepared film, 4 a box (x0, y0, x1, y1).
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from agcxr.calibration import Calibration, Point, Prevalence, Scale
from agcxr.data.synthetic import is_synthetic
from agcxr.findings import Findings
from agcxr.inference.engine import About, Engine, mean_scale
from agcxr.inference.identity import Algorithm
from agcxr.inference.prediction import Bytes, Floats, ViewSet
from agcxr.inference.stream import BatchPrediction
from agcxr.values import Frozen

if TYPE_CHECKING:
    from agcxr.inference.maps import FindingMaps

Lines: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Which row and which column of the film each row and column of the view is, S of either."""


class Ensemble(Engine):
    """The average of several models' answers on one or several views. May be used from several threads.

    Args:
        members: models of the same prepared size; the labels are those that all of them answer for.
        views: "plain"; "flip": also mirrored left to right; "five": the four corners of the film beside its centre.
        own: calibration of the averaged score, as `agcxr calibrate` fits it. Without it, calibrated probabilities are
            the average of the members', and no finding is called: their thresholds are not those of an average. Where
            one member has none either, there are only scores.
        point, prevalence: as for `Predictor`, for `own`; the members have theirs.

    Raises ValueError for members that do not go together, or have no such views.
    """

    def __init__(
        self,
        members: Sequence[Engine],
        *,
        views: ViewSet = "plain",
        own: Calibration | None = None,
        point: Point = "youden",
        prevalence: Prevalence | None = None,
    ) -> None:
        self._members, self.views = tuple(members), views
        sizes = {member.prepared_size for member in members}
        if len(sizes) != 1:
            raise ValueError(
                f"the models take films prepared at {' and '.join(map(str, sorted(sizes)))}, so they cannot look at "
                "the same prepared film; give models of one prepared size"
            )
        (self.prepared_size,) = sizes
        first = self._members[0]
        self._labels = tuple(name for name in first.labels if all(name in member.labels for member in members))
        if not self._labels:
            other = next(member for member in members if not set(member.labels) & set(first.labels))
            raise ValueError(
                f"the models have no label in common: {', '.join(first.labels)} against {', '.join(other.labels)}"
            )
        self._columns = [[member.labels.index(name) for name in self._labels] for member in members]
        self.views_of = tuple(lines_of(views, self.prepared_size, member.window) for member in members)
        self._own = own
        self.scale = self._scale(point, prevalence)

    def _scale(self, point: Point, prevalence: Prevalence | None) -> Scale | None:
        if self._own is not None:
            return Scale.of(self._own, self._labels, point, prevalence, self.findings)
        scales = [member.scale for member in self._members if member.scale is not None]
        if len(scales) < len(self._members):
            return None
        return scales[0] if self.looks == 1 else mean_scale(scales, self._labels)

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    @property
    def findings(self) -> Findings:
        """As the first model knows them."""
        return self._members[0].findings.restricted(self._labels)

    @property
    def window(self) -> tuple[float, ...]:
        return self._members[0].window

    @property
    def members(self) -> tuple[Engine, ...]:
        return self._members

    @property
    def looks(self) -> int:
        return sum(map(len, self.views_of))

    @property
    def about(self) -> About:
        """Of the first model; it learnt on synthetic films where one of the members did."""
        names = [member.about.trained_on for member in self._members]
        return replace(self._members[0].about, trained_on=next(filter(is_synthetic, names), names[0]))

    @property
    def has_maps(self) -> bool:  # type: ignore[override]
        return self._members[0].has_maps

    def finding_maps(self, images_BSS: Bytes, findings: Sequence[str]) -> FindingMaps:
        """Of the first model, on the plain view."""
        return self._members[0].finding_maps(images_BSS, findings)

    @property
    def own(self) -> Calibration | None:
        return self._own if self.looks > 1 or self._own is not None else super().own

    @cached_property
    def algorithm(self) -> Algorithm:
        """Of all members, the views and the calibration of the whole."""
        first = self._members[0].algorithm
        if self.looks == 1:
            return first
        own = "" if self.own is None else self.own.model_dump_json()
        text = "\n".join([*(member.algorithm.fingerprint for member in self._members), self.views, own])
        return replace(
            first,
            fingerprint=hashlib.sha256(text.encode()).hexdigest()[:16],
            parameters=(*first.parameters, self.words),
            calibration=self.calibration,
        )

    @property
    def words(self) -> str:
        if self.looks == 1:
            return ""
        models = len(self._members)
        over = [f"{models} models"] * (models > 1)
        over += [f"{len(self.views_of[0])} views of each film ({self.views})"] * (self.views != "plain")
        if self._own is not None:
            meaning = "calibrated as a whole"
        elif self.scale is not None:
            meaning = "calibrated one by one, so there are no thresholds for the average, and no calls"
        else:
            meaning = "of raw scores, as not all of them are calibrated" if models > 1 else "of raw scores"
        return f"average over {' and '.join(over)}, {meaning}"

    def _predict(self, images_BSS: Bytes, details: bool) -> BatchPrediction:
        answers = [
            member.predict_arrays(seen(images_BSS, lines), batch_size=len(images_BSS), details=details and not m + v)
            for m, member in enumerate(self._members)
            for v, lines in enumerate(self.views_of[m])
        ]
        columns = [self._columns[m] for m, views in enumerate(self.views_of) for _ in views]
        rows = list(zip(answers, columns, strict=True))
        fusion_NK = _mean([one.fusion_NK[:, some] for one, some in rows])
        calibrated_NK = None
        if self._own is not None and self.scale is not None:
            calibrated_NK = self.scale.probabilities(fusion_NK).astype(np.float32)
        elif self.scale is not None:
            calibrated_NK = _mean([one.calibrated_NK[:, some] for one, some in rows if one.calibrated_NK is not None])
        return replace(
            answers[0],
            labels=self._labels,
            global_NK=_mean([one.global_NK[:, some] for one, some in rows]),
            local_NK=_mean([one.local_NK[:, some] for one, some in rows]),
            fusion_NK=fusion_NK,
            calibrated_NK=calibrated_NK,
        )


def _mean(each: Sequence[Floats]) -> Floats:
    """In double precision, so that of one it is that."""
    return np.asarray(np.mean(each, axis=0, dtype=np.float64), dtype=np.float32)


def lines_of(views: ViewSet, size: int, window: Sequence[float]) -> tuple[Lines, ...]:
    """The views of a film prepared at `size`, for a model that sees `window` of it (fractions); the plain one first.

    Corners lie on the nearest pixels of the prepared film. Raises ValueError for five views where the model sees the
    whole film, so that its corners are its centre.
    """
    if views not in ("plain", "flip", "five"):
        raise ValueError(f"views are {views!r}; expected plain, flip or five")
    every = np.arange(size)
    x0, y0, x1, y1 = (edge * size for edge in window)

    def moved(across: float, down: float) -> Lines:
        return tuple(np.clip(every + round(by), 0, size - 1) for by in (down, across))  # type: ignore[return-value]

    plain = (every, every)
    if views == "plain":
        return (plain,)
    if views == "flip":
        return plain, (every, np.clip(round(x0 + x1) - 1 - every, 0, size - 1))
    if min(x0, y0, size - x1, size - y1) < 0.5:
        raise ValueError(
            "five views need a model that sees a part of the film, so that there are corners; this one sees the whole "
            "film (image_size is its resize): leave --views out, or give flip"
        )
    return plain, *(moved(across, down) for down in (-y0, size - y1) for across in (-x0, size - x1))


def seen(images_BSS: Bytes, lines: Lines) -> Bytes:
    """The films as a view has them; what lies beyond their edges, where no model looks, repeats the edge."""
    rows_S, columns_S = lines
    return images_BSS[:, rows_S[:, None], columns_S]


# --- on disk ----------------------------------------------------------------------------------------------------------


class OtherRunsWarning(UserWarning):
    """The calibration of an average is of other runs than it would be used for."""


class Average(Frozen):
    """average-<views>.json in a folder of runs, or in a run: the calibration of their average."""

    format: Literal[1] = 1
    views: ViewSet
    digest: str
    """`weights_digest` of the runs."""
    calibration: Calibration


def runs_of(source: str | os.PathLike[str]) -> tuple[str, ...]:
    """The runs meant by a model's name: those of a folder of seeds or of folds, else itself."""
    root = Path(source)
    if (root / "folds.json").is_file():
        from agcxr.training.folds import read_folds

        folds = read_folds(root)
        return tuple(str(run) for seed in folds.seeds or (None,) for run in folds.runs(root, seed))
    if (root / "seeds.json").is_file():
        from agcxr.training.seeds import read_seeds

        return tuple(str(root / run) for run in read_seeds(root).runs)
    return (os.fspath(source),)


def all_runs(model: str | os.PathLike[str], also: Sequence[str] = ()) -> tuple[str, ...]:
    """The runs of `model` and of those given beside it. Raises ValueError where one is there twice."""
    runs = tuple(run for source in (model, *also) for run in runs_of(source))
    places = [os.path.realpath(run) for run in runs]
    if twice := next((run for run, place in zip(runs, places, strict=True) if places.count(place) > 1), None):
        raise ValueError(f"{twice} is given twice; an average counts every model once")
    return runs


def average_file(source: str | os.PathLike[str], views: ViewSet) -> Path:
    """Where the calibration of the average of a folder's runs is kept."""
    return Path(source) / f"average-{views}.json"


def weights_digest(runs: Sequence[str]) -> str:
    """Of the weights of runs on disk, in any order, 32 hex digits."""
    from agcxr.models.checkpoint import WEIGHTS_FILE, fetch

    each = []
    for run in runs:
        with open(fetch(run) / WEIGHTS_FILE, "rb") as file:
            each.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256("\n".join(sorted(each)).encode()).hexdigest()[:32]


def own_calibration(source: str | os.PathLike[str], runs: Sequence[str], views: ViewSet) -> Calibration | None:
    """What `agcxr calibrate` fitted for these runs and views; None (with a warning) where the runs are others now."""
    path = average_file(source, views)
    if not path.is_file():
        return None
    try:
        found = Average.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(
            f"{path} is not the calibration of an average of this version: {error.errors()[0]['msg']}; "
            f"make it anew with `agcxr calibrate {source} --views {views} --data PREPARED`"
        ) from None
    if found.digest == weights_digest(runs):
        return found.calibration
    words = f"{path} was fitted for other runs and is left out; run `agcxr calibrate {source}` again"
    warnings.warn(words, OtherRunsWarning, stacklevel=2)
    return None
