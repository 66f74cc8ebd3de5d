"""Value objects that models and results are described in.

Apart from config.py, so that whoever uses a model waits for no recipe of training.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer


class Frozen(BaseModel):
    """A value object: cannot change, refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


Number = Annotated[float, BeforeValidator(lambda value: float("nan") if value is None else value)]
"""A number that may not exist: NaN in Python, null in JSON; for fields of a Record."""


class Record(Frozen):
    """A value object whose numbers may not exist."""

    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="null")


class Grown(Frozen):
    """A value object with fields that came later. At their default they are not written, so that what was written
    before stays the same to the byte, and so does every fingerprint of it."""

    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        usual = {name for name in self.later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in write(self).items() if name not in usual}


Statistic = Literal["max", "l1", "l2", "cam", "learned"]


class Attention(Grown):
    """How a feature map becomes boxes (paper section 3.2; the choices are the paper's ambiguities), and how many."""

    later: ClassVar[frozenset[str]] = frozenset({"crops", "window", "gradient"})

    statistic: Statistic = "max"
    """Over the channels: max |f| (as published), sum |f| or sqrt(sum f^2). Of a network that ends in a clipped
    activation (ReLU6) `max` meets the clip nearly everywhere and chooses no place; `l2` and `l1` do. `cam` and
    `learned` are evidence of the findings, the largest over them: head weights times features, or a map of their own
    that learns with the global branch."""
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
    crops: Annotated[int, Field(ge=1, le=64)] = 1
    """Boxes a view, taken one after the other, each where the ones before it are not; 1 as published."""
    window: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Side of every box as a share of the view's; 0: as large as the region that was found (as published)."""
    gradient: Literal["none", "place"] = "none"
    """`place`: each window is centred on the heat in it, which passes gradients to what made the heat."""

    @property
    def where(self) -> str:
        """How boxes follow from the heat, for people."""
        where = f"windows of {self.window:g}" if self.window else f"threshold {self.threshold:g}"
        return f"{where}, {self.crops} crops" if self.crops > 1 else where
