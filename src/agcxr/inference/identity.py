"""Who speaks: the identity of a model, as pictures, answers and DICOM objects state it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from agcxr.calibration import Calibration
from agcxr.config import Attention

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

    @property
    def version(self) -> str:
        """What changes when an answer may change: the package's version and the model's fingerprint."""
        return f"{self.package}+{self.fingerprint}"

    @classmethod
    def of_model(cls, predictor: Any) -> Algorithm:
        """Identity of a loaded model (Predictor): hashes its weights (a second for 200 MB)."""
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
    def of_exported(cls, predictor: Any) -> Algorithm:
        """Identity of an exported file (OnnxPredictor): another than its run's, as their last digits may differ."""
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
