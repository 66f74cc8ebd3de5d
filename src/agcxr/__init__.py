"""agcxr: attention-guided classification of chest X-rays (AG-CNN, Guan et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agcxr.extras import needs_for
from agcxr.labels import FINDINGS, LABELS

if TYPE_CHECKING:
    from agcxr.inference.predictor import Predictor
    from agcxr.models.agcnn import AGCNN

__all__ = ["AGCNN", "FINDINGS", "LABELS", "Predictor", "__version__"]

__version__: str


def __getattr__(name: str) -> Any:
    """Import the model and the predictor, and look the version up, on first use: `import agcxr` does not wait."""
    if name == "__version__":
        from importlib.metadata import version

        return version("agcxr")
    try:
        if name == "AGCNN":
            from agcxr.models.agcnn import AGCNN

            return AGCNN
        if name == "Predictor":
            from agcxr.inference.predictor import Predictor

            return Predictor
    except ModuleNotFoundError as error:
        raise ImportError(needs_for(f"agcxr.{name}", error) or str(error)) from error
    raise AttributeError(f"module 'agcxr' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    """What users may import from here, for completion in an editor or a notebook."""
    return sorted(__all__)
