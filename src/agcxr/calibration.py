"""What a score means: calibrated probabilities, prevalence correction and operating points.

Everything is fitted on validation films and stored in the checkpoint; test films only measure it. Scores are the
sigmoid outputs of a branch in [0, 1]; calibration maps them, one finding at a time, to probabilities.

Shapes: N films, K findings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agcxr.findings import Findings
from agcxr.values import Frozen

Array = NDArray[np.float64]
Kind = Literal["none", "temperature", "platt", "isotonic"]
Point = Literal["youden", "sensitivity95", "specificity95"]
KINDS: tuple[Kind, ...] = ("none", "temperature", "platt", "isotonic")
POINTS: tuple[Point, ...] = ("youden", "sensitivity95", "specificity95")
MIN_POSITIVES = 10
"""A finding with fewer positives or negatives in validation keeps its raw score and has no operating point."""
FOLDS = 5
EPSILON = 1e-7
Prevalence: TypeAlias = float | Mapping[str, float]
"""How common findings are where films come from: one share for every finding, or a share by finding."""


class Curve(Frozen):
    """A monotone map from score to probability for one finding.

    `none`: the score itself. `temperature`, `platt`: sigmoid(slope * logit(score) + intercept), a temperature having no
    intercept. `isotonic`: linear between (knots, values).
    """

    kind: Kind
    slope: float = 1.0
    intercept: float = 0.0
    knots: tuple[float, ...] = ()
    values: tuple[float, ...] = ()

    def __call__(self, score_N: NDArray[np.floating]) -> Array:
        score = np.asarray(score_N, dtype=np.float64)
        if self.kind == "none":
            return score
        if self.kind == "isotonic":
            return np.interp(score, self.knots, self.values)
        return _sigmoid(self.slope * _logit(score) + self.intercept)


class OperatingPoint(Frozen):
    """A threshold on the raw score of one finding (a film is called positive at score >= threshold), and what it gave
    on the validation films."""

    threshold: Annotated[float, Field(ge=0, le=1)]
    sensitivity: float
    specificity: float


class FindingCalibration(Frozen):
    """One finding's map and thresholds, and the validation counts they rest on."""

    curve: Curve
    prevalence: float
    """Share of positive validation films: what the calibrated probabilities assume."""
    positives: int
    films: int
    points: dict[Point, OperatingPoint] | None = None

    @property
    def enough(self) -> bool:
        """Whether validation held enough films with and without the finding; without, the score is left as it is."""
        return min(self.positives, self.films - self.positives) >= MIN_POSITIVES


class FittedOn(Frozen):
    """The films that a calibration was fitted on, and what they are to the model's training."""

    collection: str | None
    """Whose films they are, as the prepared folder says; None: not known."""
    split: str
    films: int
    digest: str
    """`films_digest` of them."""
    of_training: bool | None
    """They stand in one prepared folder with the films that the model was trained on. None: the model does not name its
    training patients."""
    shared_patients: int
    """Those of them whom the model was trained on."""
    unchecked: str
    """Why that is not known; empty where it is."""

    @property
    def words(self) -> str:
        """To go behind "on": "the 24 validation films of its training", "its" being the model's."""
        kind = "validation" if self.split == "val" else self.split
        if self.of_training:
            films = f"the {self.films:,} {kind} films of its training"
        else:
            films = f"{self.films:,} {kind} films of {self.collection or 'a collection without a name'}"
            films += "" if self.of_training is None else ", not those of its training"
        if self.unchecked:
            return f"{films} (whether it was trained on their patients could not be checked: {self.unchecked})"
        leak = f", {self.shared_patients:,} of whose patients it was trained on" if self.shared_patients else ""
        return films + leak

    def same(self, digest: str, collection: str | None) -> bool:
        """Films of this `films_digest` are these; names are the same in two collections for two films."""
        return digest == self.digest and (collection is None or self.collection in (None, collection))


class Calibration(Frozen):
    """The fusion branch's calibration, finding by finding, as stored in a checkpoint."""

    method: Kind
    """The kind with the best cross-validated log loss; findings too rare for it keep `none`."""
    log_loss: dict[Kind, float]
    """Mean over findings, cross-validated by patient within the validation films."""
    findings: dict[str, FindingCalibration]
    fitted_on: FittedOn | None = None
    """None: not known, as of first checkpoints."""

    @property
    def words(self) -> str:
        """What it was fitted on; see `FittedOn.words`."""
        return self.fitted_on.words if self.fitted_on else "the validation films that its calibration was fitted on"

    def probabilities(self, score_NK: NDArray[np.floating], labels: tuple[str, ...]) -> Array:
        """Calibrated probabilities; a label that was not calibrated keeps its score."""
        out = np.array(score_NK, dtype=np.float64)
        for k, label in enumerate(labels):
            if label in self.findings:
                out[..., k] = self.findings[label].curve(out[..., k])
        return out


@dataclass(frozen=True, eq=False)
class OperatingPoints:
    """An operating point, label by label; NaN where there is none, or validation held too few films to trust it."""

    point: Point
    score_K: Array
    """On the raw fusion score: a film is called positive at or over it."""
    probability_K: Array
    """The same thresholds as calibrated (and prevalence-corrected) probabilities, to draw beside those."""
    fitted_K: NDArray[np.bool_]
    """Whether the label is calibrated; if not, validation held too few films, and its probability is the raw score."""


@dataclass(frozen=True, eq=False)
class Scale:
    """A calibration as it is used on films: labels in order, one operating point, a stated prevalence."""

    calibration: Calibration
    labels: tuple[str, ...]
    point: Point
    prevalence_K: Array
    """Wanted; NaN: as on the validation films."""

    @classmethod
    def of(
        cls,
        calibration: Calibration,
        labels: tuple[str, ...],
        point: Point = "youden",
        prevalence: Prevalence | None = None,
        findings: Findings | None = None,
    ) -> Scale:
        """`prevalence`: a number goes to every finding with enough validation films, and not to "none of them".
        `findings`: what is known of the labels.

        Raises ValueError for an unknown point, label or share, and for a label without enough films.
        """
        if point not in POINTS:
            raise ValueError(f"operating point is {point!r}; expected one of {', '.join(POINTS)}")
        wanted = np.full(len(labels), np.nan)
        if prevalence is not None:
            findings = findings or Findings.of(labels)
            for name, share in _by_finding(prevalence, calibration, findings).items():
                k = _label_row(name, labels, findings)
                wanted[k] = _checked_share(labels[k], share, calibration)
        return cls(calibration, labels, point, wanted)

    def probabilities(self, score_NK: NDArray[np.floating]) -> Array:
        """Calibrated probabilities, at the wanted prevalence; a label that was not calibrated keeps its score."""
        out = self.calibration.probabilities(score_NK, self.labels)
        for k in np.flatnonzero(~np.isnan(self.prevalence_K)):
            fitted = self.calibration.findings[self.labels[k]].prevalence
            out[..., k] = at_prevalence(out[..., k], fitted, float(self.prevalence_K[k]))
        return out

    @property
    def cut(self) -> OperatingPoints:
        """The thresholds in use. Calls are made on the raw score, so a prevalence moves no call."""
        threshold = np.full(len(self.labels), np.nan)
        for k, label in enumerate(self.labels):
            known = self.calibration.findings.get(label)
            if known is not None and known.enough and known.points is not None and self.point in known.points:
                threshold[k] = known.points[self.point].threshold
        probability = np.where(np.isnan(threshold), np.nan, self.probabilities(np.nan_to_num(threshold)))
        stored = [self.calibration.findings.get(label) for label in self.labels]
        return OperatingPoints(
            self.point, threshold, probability, np.array([one is not None and one.enough for one in stored])
        )


def parse_prevalence(text: str) -> Prevalence:
    """ "0.02" for every finding, or "Effusion=0.1,Mass=0.02". ValueError shows both ways to write it."""
    pairs = [part.rpartition("=") for part in text.split(",")]
    try:
        if len(pairs) == 1 and not pairs[0][1]:
            return float(pairs[0][2])
        if all(equals and name.strip() for name, equals, _ in pairs):
            return {name.strip(): float(share) for name, _, share in pairs}
    except ValueError:
        pass
    raise ValueError(
        f"prevalence is {text!r}; expected a share for every finding, such as 0.02, or pairs such as "
        "Effusion=0.1,Mass=0.02"
    )


def _by_finding(prevalence: Prevalence, calibration: Calibration, findings: Findings) -> Mapping[str, float]:
    """A number goes to every finding with enough films."""
    if isinstance(prevalence, Mapping):
        return prevalence
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence is {prevalence:g}; expected a share between 0 and 1, both excluded: 10 % is 0.1")
    names = [name for name, one in calibration.findings.items() if name != findings.none and one.enough]
    if not names:
        raise ValueError(
            f"no finding can be corrected for a prevalence of {prevalence:g}, as none is calibrated: none had "
            f"{MIN_POSITIVES} validation films with it and as many without; leave it out, or calibrate on more films"
        )
    return dict.fromkeys(names, prevalence)


def _label_row(name: str, labels: tuple[str, ...], findings: Findings) -> int:
    label = name if name in labels else findings.canonical(name)
    if label not in labels:
        raise ValueError(f"prevalence names {name!r}, which this model does not know; it knows {', '.join(labels)}")
    return labels.index(label)


def _checked_share(name: str, share: float, calibration: Calibration) -> float:
    if not 0 < share < 1:
        raise ValueError(f"prevalence of {name} is {share}; expected a share between 0 and 1, both excluded")
    known = calibration.findings.get(name)
    if known is None or not known.enough:
        raise ValueError(
            f"prevalence of {name} cannot be corrected: fewer than {MIN_POSITIVES} validation films were with it, or "
            "without it, so it is not calibrated; leave it out"
        )
    return share


def films_digest(image_ids: Iterable[str], patients: Iterable[str]) -> str:
    """Of a set of films by their names and patients, in any order: 32 hex digits."""
    rows = sorted(f"{patient}\t{image}" for image, patient in zip(image_ids, patients, strict=True))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:32]


def fit_calibration(
    target_NK: NDArray[np.floating],
    score_NK: NDArray[np.floating],
    patient_N: NDArray[np.object_],
    labels: tuple[str, ...],
    *,
    kind: Kind | Literal["best"] = "best",
    seed: int = 0,
) -> Calibration:
    """Fit on validation films; `best` picks the kind by log loss in 5 folds of whole patients.

    NaN targets are left out, film by film and finding by finding.
    """
    target, score = np.asarray(target_NK, dtype=np.float64), np.asarray(score_NK, dtype=np.float64)
    folds = _folds(patient_N, seed)
    losses = {k: _cross_validated(target, score, folds, k) for k in KINDS}
    chosen: Kind = min(KINDS, key=lambda k: losses[k]) if kind == "best" else kind
    findings = {}
    for k, label in enumerate(labels):
        known = np.isfinite(target[:, k])
        if known.any():
            findings[label] = _fit_finding(target[known, k], score[known, k], chosen)
    return Calibration(method=chosen, log_loss=losses, findings=findings)


def fit_curve(target_N: NDArray[np.floating], score_N: NDArray[np.floating], kind: Kind) -> Curve:
    """One finding's map of the given kind. Both classes must be present for other kinds than `none`."""
    target, score = np.asarray(target_N, dtype=np.float64), np.asarray(score_N, dtype=np.float64)
    if kind == "none":
        return Curve(kind="none")
    if not 0 < target.sum() < len(target):
        raise ValueError(
            f"cannot fit {kind}: {int(target.sum())} of {len(target)} films are positive; both classes are needed"
        )
    if kind == "isotonic":
        return _isotonic(target, score)
    slope, intercept = logistic(target, _logit(score), intercept=kind == "platt")
    return Curve(kind=kind, slope=slope, intercept=intercept)


def operating_points(target_N: NDArray[np.floating], score_N: NDArray[np.floating]) -> dict[Point, OperatingPoint]:
    """Youden's point (max sensitivity + specificity - 1), the highest threshold with sensitivity >= 95 % and the lowest
    with specificity >= 95 %. A point that only a threshold over every score would reach is left out."""
    from sklearn.metrics import roc_curve

    false_positive, sensitivity, threshold = roc_curve(target_N, score_N, drop_intermediate=False)
    specificity = 1 - false_positive
    enough_sensitivity = int(np.argmax(sensitivity >= 0.95))
    enough_specificity = int(np.flatnonzero(specificity >= 0.95)[-1])
    rows: dict[Point, int] = {
        "youden": int(np.argmax(sensitivity + specificity)),
        "sensitivity95": enough_sensitivity,
        "specificity95": enough_specificity,
    }
    return {
        point: OperatingPoint(
            threshold=float(threshold[row]),
            sensitivity=float(sensitivity[row]),
            specificity=float(specificity[row]),
        )
        for point, row in rows.items()
        if np.isfinite(threshold[row])  # the first is infinite: nothing is called
    }


def thresholds(target_NK: NDArray[np.floating], score_NK: NDArray[np.floating]) -> Array:
    """Thresholds of the POINTS, P x K, chosen on films with labels 0, 1 or NaN (unknown); NaN for findings with fewer
    than MIN_POSITIVES films of either class, and for points that are left out (see `operating_points`)."""
    threshold_PK = np.full((len(POINTS), target_NK.shape[1]), np.nan)
    for k, target in enumerate(target_NK.T):
        stated = ~np.isnan(target)
        if min((target == 1).sum(), (target == 0).sum()) >= MIN_POSITIVES:
            points = operating_points(target[stated], score_NK[stated, k])
            threshold_PK[:, k] = [points[point].threshold if point in points else np.nan for point in POINTS]
    return threshold_PK


def at_prevalence(probability: NDArray[np.floating], fitted: float, wanted: float) -> Array:
    """Calibrated probabilities as they would be where the finding is as common as `wanted` instead of `fitted`.

    Bayes' rule with unchanged likelihood ratios: the odds are multiplied by the ratio of the prior odds (Saerens 2002).
    """
    for name, value in (("fitted", fitted), ("wanted", wanted)):
        if not 0 < value < 1:
            raise ValueError(f"{name} prevalence is {value}; expected a share between 0 and 1, both excluded")
    shift = np.log(wanted / (1 - wanted)) - np.log(fitted / (1 - fitted))
    return _sigmoid(_logit(np.asarray(probability, dtype=np.float64)) + shift)


def _fit_finding(target: Array, score: Array, kind: Kind) -> FindingCalibration:
    positives, films = int(target.sum()), len(target)
    common = min(positives, films - positives) >= MIN_POSITIVES
    return FindingCalibration(
        curve=fit_curve(target, score, kind if common else "none"),
        prevalence=positives / films,
        positives=positives,
        films=films,
        points=operating_points(target, score) if common else None,
    )


def _cross_validated(target_NK: Array, score_NK: Array, folds: NDArray[np.int64], kind: Kind) -> float:
    """Mean log loss over findings common enough; 0 when there is none to judge by."""
    losses = []
    for target, score in zip(target_NK.T, score_NK.T, strict=True):
        known = np.isfinite(target)
        if min(target[known].sum(), (1 - target[known]).sum()) < MIN_POSITIVES:
            continue
        out = np.full(len(target), np.nan)
        for fold in range(FOLDS):
            fit, held = known & (folds != fold), known & (folds == fold)
            usable: Kind = kind if 0 < target[fit].sum() < fit.sum() else "none"
            out[held] = fit_curve(target[fit], score[fit], usable)(score[held])
        losses.append(log_loss(target[known], out[known]))
    return float(np.mean(losses)) if losses else 0.0


def log_loss(target_N: Array, probability_N: Array) -> float:
    """Mean negative log likelihood in nats, probabilities clipped to [1e-7, 1 - 1e-7]."""
    p = np.clip(probability_N, EPSILON, 1 - EPSILON)
    return float(-np.mean(target_N * np.log(p) + (1 - target_N) * np.log(1 - p)))


def _folds(patient_N: NDArray[np.object_], seed: int) -> NDArray[np.int64]:
    _, number = np.unique(np.asarray(patient_N).astype(str), return_inverse=True)
    order = np.random.default_rng(seed).permutation(number.max() + 1 if len(number) else 0)
    return np.asarray(order[number] % FOLDS, dtype=np.int64)


def _isotonic(target: Array, score: Array) -> Curve:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(score, target)
    return Curve(
        kind="isotonic",
        knots=tuple(float(x) for x in fitted.X_thresholds_),
        values=tuple(float(y) for y in fitted.y_thresholds_),
    )


def logistic(target: Array, logit: Array, *, intercept: bool) -> tuple[float, float]:
    """(slope, intercept) of the maximum likelihood of target ~ sigmoid(slope * logit + intercept), N of each, targets 0
    or 1; the slope is kept positive, so that calibration never reverses an order."""
    from scipy.optimize import minimize

    # Platt's smoothed targets keep the fit finite where a score separates the classes.
    n1, n0 = target.sum(), (1 - target).sum()
    smooth = np.where(target == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))

    def loss(theta: Array) -> tuple[float, Array]:
        slope, shift = np.exp(theta[0]), theta[1] if intercept else 0.0
        z = slope * logit + shift
        residual = _sigmoid(z) - smooth
        value = float(np.mean(np.logaddexp(0, z) - smooth * z))
        return value, np.array([np.mean(residual * logit) * slope, np.mean(residual) if intercept else 0.0])

    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-5, 5), (-20, 20)])
    return float(np.exp(found.x[0])), float(found.x[1]) if intercept else 0.0


def _logit(p: Array) -> Array:
    clipped = np.clip(p, EPSILON, 1 - EPSILON)
    return np.log(clipped) - np.log1p(-clipped)


def _sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))
