"""How far a film is from the training films: as the global branch sees it, and by whether either is synthetic.

Mahalanobis distance of the pooled features: along their principal components (at most 64) and in one more direction,
the logarithm of what these leave over. The covariance is shrunk towards a multiple of the identity (Ledoit and Wolf,
2004). Fitted on training films, scaled on validation films, and kept in the checkpoint's card in about 0.2 MB.

Shapes: N films, D features, K components, Q = K + 1 directions.
"""

from __future__ import annotations

import base64
from collections.abc import Collection
from functools import cached_property
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from agcxr.data.synthetic import NOTE, is_synthetic
from agcxr.intake import Intake

Floats = NDArray[np.float64]

MOST = 64
"""Components at most; fewer where a third of the training films are fewer, or 99 % of the variance need fewer."""

FEWEST = 30
"""Training films, and validation films, below which nothing can be said of what is far."""

NEAR = 0.99
"""Share of validation films that count as near: the distance is 1 at this quantile of theirs."""

FAR = 2.0
"""Distance (in such units) from which a film is refused; from 1 on it is warned of."""


class FeatureStatistics(BaseModel):
    """What the card holds. Arrays are base64 of little-endian bytes: mean float16, components int8 rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ignored_types=(cached_property,))

    features: Annotated[int, Field(ge=1, le=100_000)]
    components: Annotated[int, Field(ge=1, le=MOST)]
    films: int
    """Training films it was fitted on."""
    mean: str
    directions: str
    centre: tuple[float, ...]
    """Of the Q directions, over the training films."""
    precision: tuple[tuple[float, ...], ...]
    """Inverse of their shrunk covariance, Q x Q."""
    scale: Annotated[float, Field(gt=0)]
    """The NEAR quantile of the distances of the validation films."""

    @cached_property
    def _mean_D(self) -> Floats:
        return _decoded(self.mean, "<f2", (self.features,)).astype(np.float64)

    @cached_property
    def _directions_KD(self) -> Floats:
        return _orthonormal(_decoded(self.directions, "<i1", (self.components, self.features)))

    def distance(self, pooled_ND: NDArray[np.floating]) -> Floats:
        """N distances; 1 is farther than NEAR of the validation films.

        Raises ValueError for features of another model's size.
        """
        if pooled_ND.ndim != 2 or pooled_ND.shape[1] != self.features:
            raise ValueError(
                f"features {pooled_ND.shape}; these statistics are of a model with {self.features}: fit them again"
            )
        place_NQ = _places(pooled_ND, self._mean_D, self._directions_KD)
        return _distance(place_NQ, np.array(self.centre), np.array(self.precision)) / self.scale


def fit_statistics(train_ND: NDArray[np.floating], val_ND: NDArray[np.floating]) -> FeatureStatistics:
    """Statistics of pooled features of training films, scaled on those of validation films.

    Raises ValueError for fewer than FEWEST films of either, and for features that are all the same.
    """
    from sklearn.covariance import ledoit_wolf  # a second to import, and only fitting needs it

    if min(len(train_ND), len(val_ND)) < FEWEST:
        raise ValueError(
            f"{len(train_ND)} training and {len(val_ND)} validation films; at least {FEWEST} of each are needed to say "
            "which films are far from them"
        )
    mean_D = train_ND.astype(np.float64).mean(0).astype("<f2").astype(np.float64)
    _, sizes, rows_KD = np.linalg.svd(train_ND.astype(np.float64) - mean_D, full_matrices=False)
    variance = sizes**2
    if variance.sum() <= 1e-12 * (1 + (mean_D**2).sum()):
        raise ValueError("the global branch answers every training film with the same features; is it trained?")
    enough = int(np.searchsorted(np.cumsum(variance) / variance.sum(), 0.99)) + 1
    count = max(1, min(MOST, len(train_ND) // 3, enough))
    rows_KD = rows_KD[:count]
    # Rounded first, so that all that follows describes what is stored.
    coarse_KD = np.rint(rows_KD / np.abs(rows_KD).max(1, keepdims=True) * 127).astype("<i1")
    directions_KD = _orthonormal(coarse_KD)
    place_NQ = _places(train_ND, mean_D, directions_KD)
    centre_Q = place_NQ.mean(0)
    # Directions have very different spreads, so each is shrunk in units of its own.
    spread_Q = place_NQ.std(0) + 1e-9
    covariance_QQ, _ = ledoit_wolf((place_NQ - centre_Q) / spread_Q, assume_centered=True)
    precision_QQ = np.linalg.inv(covariance_QQ) / np.outer(spread_Q, spread_Q)
    near = _distance(_places(val_ND, mean_D, directions_KD), centre_Q, precision_QQ)
    return FeatureStatistics(
        features=train_ND.shape[1],
        components=count,
        films=len(train_ND),
        mean=base64.b64encode(mean_D.astype("<f2").tobytes()).decode(),
        directions=base64.b64encode(coarse_KD.tobytes()).decode(),
        centre=tuple(centre_Q.tolist()),
        precision=tuple(tuple(float(f"{one:.6g}") for one in row) for row in precision_QQ),
        scale=float(np.quantile(near, NEAR)),
    )


def judge_distance(distance: float) -> Intake:
    """What a distance means, in words."""
    if not distance > 1:  # a distance that is no number is not far; the pixels decide
        return Intake("accept")
    times = f"{distance:.1f} times as far as {100 * NEAR:.0f} % of the validation films"
    return Intake(
        "refuse" if distance > FAR else "warn", (f"the model has seen nothing like it in training ({times})",)
    )


def judge_kind(trained_on: str | None, notes: Collection[str]) -> Intake:
    """Whether a film is of the training films' kind, drawn by a program or real.

    Args:
        trained_on: the collection that the model learnt on; None: not known, and nothing is said.
        notes: of the film, as reading it gave them. A film that is not marked as synthetic counts as real.
    """
    synthetic = NOTE in notes
    if trained_on is None or is_synthetic(trained_on) == synthetic:
        return Intake("accept")
    if synthetic:
        return Intake("warn", (f"it is a synthetic film, and the model learnt on real ones ({trained_on})",))
    return Intake(
        "warn",
        (f"the model learnt on synthetic films only ({trained_on}): what it says of a real film means nothing",),
    )


def _places(pooled_ND: NDArray[np.floating], mean_D: Floats, directions_KD: Floats) -> Floats:
    """N x Q: along the components, and the logarithm of the energy that they leave over."""
    away_ND = pooled_ND.astype(np.float64) - mean_D
    along_NK = away_ND @ directions_KD.T
    rest_N = (away_ND**2).mean(1) - (along_NK**2).sum(1) / away_ND.shape[1]
    return np.concatenate([along_NK, np.log(np.maximum(rest_N, 0) + 1e-9)[:, None]], axis=1)


def _distance(place_NQ: Floats, centre_Q: Floats, precision_QQ: Floats) -> Floats:
    away_NQ = place_NQ - centre_Q
    squared_N = np.einsum("nq,qp,np->n", away_NQ, precision_QQ, away_NQ)
    return np.sqrt(np.maximum(squared_N, 0) / place_NQ.shape[1])


def _orthonormal(rows_KD: NDArray[np.generic]) -> Floats:
    """An orthonormal basis of the rows' span, the same on every machine: the first row keeps its sense, and so on."""
    basis_DK, corner_KK = np.linalg.qr(rows_KD.astype(np.float64).T)
    return np.asarray((basis_DK * np.where(np.diag(corner_KK) < 0, -1.0, 1.0)).T)


def _decoded(text: str, kind: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
    data = np.frombuffer(base64.b64decode(text, validate=True), kind)
    if data.size != int(np.prod(shape)):
        raise ValueError(f"feature statistics of {data.size} numbers; expected {' x '.join(map(str, shape))}")
    return data.reshape(shape)
