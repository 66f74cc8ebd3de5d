"""Who speaks, and of what it may: the model's identity as DICOM objects state it, and the UIDs that follow from it.

UIDs are derived, not drawn: the same film under the same model gives the same UIDs, so whatever is made or sent twice
is the same object to an archive.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from agcxr.calibration import Calibration
from agcxr.config import Attention
from agcxr.inference.engine import FilmEngine
from agcxr.inference.ensemble import Ensemble
from agcxr.inference.onnx_engine import OnnxPredictor

if TYPE_CHECKING:
    from agcxr.inference.predictor import Predictor

NAME = "agcxr"
MODEL_NAME = "AG-CNN"
RESEARCH_ONLY = "Research use only. Not a medical device. Preliminary, unverified output of an algorithm."

_NAMESPACE = uuid.UUID("6f0c9c4e-2f9e-5d0a-9b61-4f1c3a8f1d27")


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

    @property
    def version(self) -> str:
        """What changes when an answer may change: the package's version and the model's fingerprint."""
        return f"{self.package}+{self.fingerprint}"

    @property
    def device_uid(self) -> str:
        """UID of the algorithm as an observer."""
        return derived_uid(self.version, "device")

    @classmethod
    def of(cls, engine: FilmEngine) -> Algorithm:
        """Identity of whatever answers: a model in torch, an exported file, or an average of such."""
        each: list[Any] = list(engine.members)
        known = [cls.of_exported(one) if isinstance(one, OnnxPredictor) else cls.of_model(one) for one in each]
        if not isinstance(engine, Ensemble) or engine.looks == 1:
            return known[0]
        own = "" if engine.own is None else engine.own.model_dump_json()
        text = "\n".join([*(one.fingerprint for one in known), engine.views, own])
        return replace(
            known[0],
            fingerprint=hashlib.sha256(text.encode()).hexdigest()[:16],
            parameters=(*known[0].parameters, engine.words),
            calibration=engine.calibration,
        )

    @classmethod
    def of_model(cls, predictor: Predictor) -> Algorithm:
        """Identity of a loaded model: hashes its weights (a second for 200 MB)."""
        model = predictor.model
        digest = hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        card = model.card or model.new_card()
        # First cards do not say what was taught: such a model keeps the fingerprint that it had.
        left_out = {"versions"} if card.taught else {"versions", "taught"}
        digest.update(card.model_dump_json(exclude=left_out).encode())
        if predictor.precision != "fp32":
            digest.update(predictor.precision.encode())
        attention = model.attention
        return cls(
            fingerprint=digest.hexdigest()[:16],
            package=version("agcxr"),
            parameters=(
                f"backbone {model.backbone_name}",
                f"view {model.image_size} of {model.resize} px",
                f"attention {attention.statistic}, threshold {attention.threshold:g}",
                f"precision {predictor.precision}",
            ),
            attention=attention,
            calibration=predictor.calibration,
        )

    @classmethod
    def of_exported(cls, predictor: OnnxPredictor) -> Algorithm:
        """Identity of an exported file: another than its run's, since the last digits of its answers may differ."""
        with open(predictor.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        if (how := (predictor.runtime, predictor.precision)) != ("onnxruntime", "fp32"):
            digest.update(" ".join(how).encode())
        facts, model = predictor.facts, predictor.facts.card.get("model")
        told: dict[str, Any] = model if isinstance(model, dict) else {}
        attention = Attention.model_validate(told.get("attention", {}))
        return cls(
            fingerprint=digest.hexdigest()[:16],
            package=version("agcxr"),
            parameters=(
                f"backbone {told.get('backbone', 'unknown')}",
                f"view {facts.image_size} of {told.get('resize', facts.prepared_size)} px",
                f"attention {attention.statistic}, threshold {attention.threshold:g}",
                f"precision {predictor.precision}, exported file on {predictor.runtime}",
            ),
            attention=attention,
            calibration=predictor.calibration,
        )


def derived_uid(*parts: str) -> str:
    """A UID that is a function of `parts` (PS3.5 B.2: "2.25." and a UUID, here a name-based one)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(10).join(parts)).int}"
