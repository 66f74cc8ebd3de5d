"""Who speaks: the identity of a model, as pictures, answers and DICOM objects state it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from agcxr.calibration import Calibration
from agcxr.values import Attention

NAME = "agcxr"
MODEL_NAME = "AG-CNN"


@dataclass(frozen=True)
class Algorithm:
    """A model as its results name it."""

    fingerprint: str
    """Hex, 16 digits: of the weights and of the card, or of an exported file's bytes; and of how they are computed
    where that is not the plain way (fp32; an exported file on ONNX Runtime), since answers then differ."""
    package: str
    """Version of agcxr."""
    parameters: tuple[str, ...]
    """What decides the output, for people: "backbone resnet50", ..."""
    attention: Attention
    calibration: Calibration | None = None

    @classmethod
    def of(
        cls,
        digest: str,
        backbone: object,
        view: tuple[object, object],
        precision: str,
        attention: Attention,
        calibration: Calibration | None,
    ) -> Algorithm:
        """This version of agcxr with the model of that SHA-256 (hex). view: its side, and that of the film that it is
        cut from, in pixels."""
        return cls(
            fingerprint=digest[:16],
            package=version("agcxr"),
            parameters=(
                f"backbone {backbone}",
                f"view {view[0]} of {view[1]} px",
                f"attention {attention.statistic}, {attention.where}",
                f"precision {precision}",
            ),
            attention=attention,
            calibration=calibration,
        )

    @property
    def version(self) -> str:
        """What changes when an answer may change: the package's version and the model's fingerprint."""
        return f"{self.package}+{self.fingerprint}"
