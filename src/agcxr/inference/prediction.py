"""What is known about one film after it was read: probabilities, the box, the heatmap. Arrays only, no torch.

Every engine (the eager model, an exported file) answers with these, so that pictures, tables and pages need to know
nothing about networks.

Shapes: K labels; H, W height and width (of the view for `heat_HW` and `crop_HW`, of the film otherwise).
Frame: boxes are (x0, y0, x1, y1) in pixels of the ORIGINAL film, exclusive end, pixel i covers [i, i + 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from agcxr import attended
from agcxr.calibration import OperatingPoints
from agcxr.findings import Findings
from agcxr.intake import Intake

Branch = Literal["global", "local", "fusion"]
BRANCHES: tuple[Branch, ...] = ("global", "local", "fusion")
Precision = Literal["fp32", "bf16"]
ViewSet = Literal["plain", "flip", "five"]
"""How a film is looked at: once; also mirrored; at its four corners and its centre. See ensemble.py."""
VIEWS: dict[ViewSet, int] = {"plain": 1, "flip": 2, "five": 5}
"""How many views of a film each is."""
Box = tuple[float, float, float, float]
Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


class Score(NamedTuple):
    """A finding and its probability in [0, 1]."""

    finding: str
    probability: float


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The answer for one film. Probabilities are in the order of `labels`; those of the branches are sigmoids of the
    logits, not calibrated."""

    name: str
    labels: tuple[str, ...]
    global_K: Floats
    local_K: Floats
    fusion_K: Floats
    box: Box
    """The attended region in pixels of the original film, the first of `boxes`; the whole view if `fallback`."""
    fallback: bool
    """No region stood out, so the local branch saw the whole view."""
    heat_HW: Floats
    """The attention in [0, 1] on the grid of the view; `heat_in_original` puts it on the film."""
    window: Box
    """The part of the original film that the view shows, in its pixels. The model saw nothing outside it."""
    crop_HW: Bytes
    """What the local branch saw in `box`, as 8-bit gray."""
    height: int
    width: int
    """Of the original film, in pixels."""
    notes: tuple[str, ...] = ()
    """What reading the file involved, e.g. "inverted MONOCHROME1"."""
    calibrated_K: Floats | None = None
    """Calibrated probabilities of the fusion; None where the checkpoint holds no calibration."""
    cut: OperatingPoints | None = None
    """The operating point in use; None where the checkpoint holds no calibration."""
    model: str = ""
    """Which model answered: version of agcxr and fingerprint of the model, see identity.py; empty: not known."""
    intake: Intake | None = None
    """Whether this is a film that the model may speak about; None where nobody looked."""
    features: Floats | None = None
    """Pooled features of the global branch, D numbers, for search, probes and drift; None: the engine gives none."""
    film_HW: Bytes | None = None
    """The film itself, 8-bit, aspect kept, shrunk where larger than the predictor was asked to keep."""
    findings: Findings = None  # type: ignore[assignment]
    """The labels and what is known of them; default: what is known of labels so called."""
    boxes: tuple[Box, ...] = ()
    """Every region that the local branch saw, in the order in which they were taken; default: `box` alone."""
    weights: tuple[float, ...] = ()
    """How much of what the local branch says is of each of `boxes`: in [0, 1], with a sum of 1."""

    def __post_init__(self) -> None:
        if self.findings is None:
            object.__setattr__(self, "findings", Findings.of(self.labels))
        if not self.boxes:
            object.__setattr__(self, "boxes", (self.box,))
            object.__setattr__(self, "weights", (1.0,))

    def __repr__(self) -> str:
        """On one line: the film, the three most probable findings (of the fusion), the box, what the intake says."""
        size = f"{self.width} x {self.height} px"
        said = "" if self.intake is None or self.intake.decision == "accept" else f"; {self.intake.words}"
        if self.refused:
            return f"Prediction({self.name!r}, {size}{said})"
        findings = ", ".join(f"{score.finding} {score.probability:.2f}" for score in self.top(3))
        edges = ", ".join(f"{edge:.0f}" for edge in self.box)
        where = "no region stood out" if self.fallback else f"box ({edges})"
        return f"Prediction({self.name!r}, {size}: {findings}; {where}{said})"

    def _repr_html_(self) -> str:
        """For notebooks, see notebook.py."""
        from agcxr.inference.notebook import to_html

        return to_html(self)

    @property
    def refused(self) -> bool:
        """It is no film that the model may speak about: tables and pictures hold none of the numbers."""
        return self.intake is not None and self.intake.decision == "refuse"

    @property
    def shows_calibrated(self) -> bool:
        """Whether calibrated probabilities say anything beside the fusion's scores: some label is calibrated, and by
        more than leaving the score as it is (a calibration of the kind `none`)."""
        if self.calibrated_K is None:
            return False
        fitted_K = np.ones(len(self.labels), bool) if self.cut is None else self.cut.fitted_K
        return bool((np.abs(self.calibrated_K - self.fusion_K)[fitted_K] > 1e-6).any())

    @property
    def view_share(self) -> float:
        """The attended region as a share of the view, in [0, 1]; near 1, the local branch sees what the global does."""
        return float(attended.view_share([self.box], self.window)[0])

    @property
    def plateau(self) -> float:
        """Share of the view that has the heatmap's highest value: large where attention chose no place."""
        return float(attended.plateau(self.heat_HW[None])[0])

    def branch(self, branch: Branch = "fusion") -> Floats:
        """Probabilities of one branch, in the order of `labels`."""
        by_name: Mapping[str, Floats] = {"global": self.global_K, "local": self.local_K, "fusion": self.fusion_K}
        if branch not in by_name:
            raise ValueError(f"unknown branch {branch!r}; expected one of {', '.join(BRANCHES)}")
        return by_name[branch]

    def probability(self, finding: str, branch: Branch = "fusion") -> float:
        """Probability of a finding, written in any spelling that is known of it."""
        name = self.findings.canonical(finding) or finding
        if name not in self.labels:
            raise ValueError(f"unknown finding {finding!r}; this model knows {', '.join(self.labels)}")
        return float(self.branch(branch)[self.labels.index(name)])

    def calls(self) -> tuple[bool | None, ...]:
        """Whether each label's fusion score is at or over its threshold; None where there is no threshold."""
        if self.cut is None:
            return (None,) * len(self.labels)
        pairs = zip(self.fusion_K.tolist(), self.cut.score_K.tolist(), strict=True)
        return tuple(None if np.isnan(threshold) else score >= threshold for score, threshold in pairs)

    def ranked(self) -> tuple[int, ...]:
        """Places of all labels in the order of reading: called ones, then those calibrated, each by probability (of the
        fusion, calibrated where it is); "none of them" last."""
        shown = self.fusion_K if self.calibrated_K is None else self.calibrated_K
        fitted = np.ones(len(shown), bool) if self.cut is None else self.cut.fitted_K
        calls = self.calls()

        def place(k: int) -> tuple[bool, bool, bool, float]:
            return self.labels[k] == self.findings.none, not calls[k], not fitted[k], -float(shown[k])

        return tuple(sorted(range(len(self.labels)), key=place))

    def top(self, n: int = 5, branch: Branch = "fusion") -> tuple[Score, ...]:
        """The n most probable findings, best first. "None of them" is not a finding and is left out."""
        scores = (Score(name, float(p)) for name, p in zip(self.labels, self.branch(branch), strict=True))
        return tuple(sorted((s for s in scores if s.finding != self.findings.none), key=lambda s: -s.probability)[:n])

    def heat_in_original(self, height: int | None = None, width: int | None = None) -> Floats:
        """The attention on the film: float32 [0, 1], `height` x `width` (default: the original size).

        Another size gives the same film scaled. Bilinear inside the window; 0 outside it, where nothing was seen.
        """
        height, width = height or self.height, width or self.width
        x0, y0, x1, y1 = self.window
        h, w = self.heat_HW.shape
        film_x = (np.arange(width) + 0.5) * self.width / width
        film_y = (np.arange(height) + 0.5) * self.height / height
        view_x = ((film_x - x0) / (x1 - x0) * w - 0.5).astype(np.float32)
        view_y = ((film_y - y0) / (y1 - y0) * h - 0.5).astype(np.float32)
        map_x, map_y = np.broadcast_to(view_x, (height, width)), np.broadcast_to(view_y[:, None], (height, width))
        heat = cv2.remap(
            self.heat_HW.astype(np.float32),
            np.ascontiguousarray(map_x),
            np.ascontiguousarray(map_y),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        heat[:, (film_x < x0) | (film_x >= x1)] = 0
        heat[(film_y < y0) | (film_y >= y1)] = 0
        return heat.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Failure:
    """A film that could not be read, and why, in words for people."""

    name: str
    reason: str
