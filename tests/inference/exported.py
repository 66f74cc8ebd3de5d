"""A small calibrated model, eager and exported, and its films."""

from pathlib import Path

import numpy as np
import torch

from agcxr import config
from agcxr.calibration import Calibration, Curve, FindingCalibration, OperatingPoint
from agcxr.data.phantom import film
from agcxr.inference.novelty import fit_statistics
from agcxr.inference.predictor import Predictor
from agcxr.labels import FINDINGS, LABELS
from agcxr.models.agcnn import AGCNN
from agcxr.models.checkpoint import Patients

S = 160
NIH = Path(__file__).resolve().parents[3] / "shared" / "nih"


def calibration():
    """Every kind of curve; the last label has none."""
    curves = [
        Curve(kind="platt", slope=1.7, intercept=-0.4),
        Curve(kind="temperature", slope=0.6),
        Curve(kind="isotonic", knots=(0.2, 0.45, 0.5, 0.8), values=(0.05, 0.3, 0.31, 0.9)),
        Curve(kind="isotonic", knots=(0.5,), values=(0.25,)),
        Curve(kind="none"),
    ]
    points = {"youden": OperatingPoint(threshold=0.5, sensitivity=0.8, specificity=0.7)}
    findings = {
        label: FindingCalibration(
            curve=curves[k % len(curves)], prevalence=0.1, positives=10, films=100, points=points if k % 2 else None
        )
        for k, label in enumerate(LABELS[:-1])
    }
    return Calibration(method="isotonic", log_loss={"none": 0.5}, findings=findings)


def network(**changes):
    """Random weights; crops sharper than the view."""
    torch.manual_seed(0)
    arguments = {
        "backbone": "test_resnet",
        "image_size": 64,
        "resize": 80,
        "weights": "none",
        "crop_source": "prepared",
        "attention": config.Attention(threshold=0.6, min_side=4),
    }
    return AGCNN(**(arguments | changes))


def save(folder):
    """A model folder with all that a card can hold."""
    model = network()
    rng = np.random.default_rng(0)
    channels = model.global_branch.backbone.channels
    statistics = fit_statistics(*(rng.normal(size=(40, channels)).astype(np.float32) for _ in range(2)))
    card = model.new_card(
        prepared_size=S,
        calibration=calibration(),
        feature_statistics=statistics.model_dump(mode="json"),
        train_patients=Patients.of(["1", "2"]),
        seed=7,
    )
    model.save_pretrained(folder, card)
    return folder


def phantoms(n=5, side=S):
    rng = np.random.default_rng(1)
    return np.stack([film(rng, [FINDINGS[i]], size=side).pixels_HW for i in range(n)])


def same(a, b):
    """Two Predictions of one film by two engines."""
    for branch in ("global", "local", "fusion"):
        np.testing.assert_allclose(a.branch(branch), b.branch(branch), atol=1e-5)
    np.testing.assert_allclose(a.calibrated_K, b.calibrated_K, atol=1e-4)
    np.testing.assert_allclose(a.box, b.box, atol=1e-2)
    np.testing.assert_allclose(a.heat_HW, b.heat_HW, atol=1e-3)
    assert np.abs(a.crop_HW.astype(int) - b.crop_HW).max() <= 1
    assert (a.crop_HW.dtype, a.heat_HW.dtype, a.fusion_K.dtype) == (b.crop_HW.dtype, b.heat_HW.dtype, b.fusion_K.dtype)
    for name in ("name", "labels", "fallback", "window", "height", "width", "notes"):
        assert getattr(a, name) == getattr(b, name), name
    assert (a.intake.decision, len(a.intake.reasons)) == (b.intake.decision, len(b.intake.reasons))
    assert a.calls() == b.calls()
    np.testing.assert_array_equal(a.cut.score_K, b.cut.score_K)
    assert (a.film_HW is None) == (b.film_HW is None)


def predictor(folder, **options):
    return Predictor.from_pretrained(folder, device="cpu", **options)
