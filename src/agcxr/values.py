"""Value objects that models and results are described in.

Apart from config.py, so that whoever uses a model waits for no recipe of training.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Frozen(BaseModel):
    """A value object: cannot change, refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


Number = Annotated[float, BeforeValidator(lambda value: float("nan") if value is None else value)]
"""A number that may not exist: NaN in Python, null in JSON; for fields of a Record."""


class Record(Frozen):
    """A value object whose numbers may not exist."""

    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="null")


class Attention(Frozen):
    """How a feature map becomes a box (paper section 3.2; the choices are the paper's ambiguities)."""

    statistic: Literal["max", "l1", "l2"] = "max"
    """Over the channels: max |f| (as published), sum |f| or sqrt(sum f^2). Of a network that ends in a clipped
    activation (ReLU6) `max` meets the clip nearly everywhere and chooses no place; `l2` and `l1` do."""
    normalise: Literal["minmax", "percentile"] = "minmax"
    """Per image, before the threshold; with `percentile` the threshold is the fraction of pixels kept out."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.7
    """The paper's tau."""
    at: Literal["input", "grid"] = "input"
    """Threshold the heatmap upsampled to the input, or the raw feature grid."""
    connectivity: Literal[4, 8] = 8
    """Neighbours of a pixel when regions are formed."""
    min_side: Annotated[int, Field(ge=1)] = 16
    """A box with a side under this many view pixels falls back to the whole image."""
