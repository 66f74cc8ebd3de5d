"""Films in, Predictions out: the only way that images reach a model outside training.

Preprocessing is the checkpoint's: Radiograph -> the one resize rule to S x S -> the evaluation view -> the model.

Shape suffixes: N films, B films of a batch, R boxes of a film, K labels, S side of the prepared film, H W pixels of the
view, 4 a box (x0, y0, x1, y1) with exclusive end.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from agcxr.attended import plateau
from agcxr.calibration import Point, Prevalence
from agcxr.data.augment import FilmSource, Views, centre_views, crop_source, map_boxes, render
from agcxr.data.radiograph import RESIZE_RULE
from agcxr.findings import Findings
from agcxr.inference.engine import About, Engine, scale_of, trained_on
from agcxr.inference.identity import Algorithm
from agcxr.inference.novelty import FeatureStatistics
from agcxr.inference.prediction import Bytes, Failure, Floats, Precision, Prediction
from agcxr.inference.stream import BatchPrediction, Film
from agcxr.models.agcnn import AGCNN

if TYPE_CHECKING:
    from agcxr.inference.maps import FindingMaps

__all__ = ["BatchPrediction", "Failure", "Film", "Prediction", "Predictor"]


class Predictor(Engine):
    """A model with its preprocessing. Holds no state between films; may be used from several threads.

    Args:
        model: put into eval mode, moved to `device` and laid out channels-last, in place.
        device: "cpu", "cuda", "cuda:1", ...; default: a GPU where there is one.
        precision: "fp32", or "bf16" for speed where the hardware computes in it.
        prepared_size: side S that films are resized to; default: what the model was trained on, as its checkpoint
            says, or the side its views are cut from.
        point: operating point at which findings are called, where the checkpoint holds a calibration.
        prevalence: of the findings where the films come from; calibrated probabilities are corrected for it.
    """

    has_maps = True

    def __init__(
        self,
        model: AGCNN,
        *,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
        prepared_size: int | None = None,
        point: Point = "youden",
        prevalence: Prevalence | None = None,
    ) -> None:
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision is {precision!r}; expected 'fp32' or 'bf16'")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.precision = precision
        self.model = model.eval().to(self.device).to(memory_format=torch.channels_last)
        self.prepared_size = prepared_size or _trained_on(model) or model.resize
        self._labels = model.card.labels if model.card else tuple(model.labels)
        self._findings = (model.card.findings if model.card else Findings.of(model.labels)).restricted(self._labels)
        self._taught_K = [model.labels.index(label) for label in self._labels]
        self.scale = scale_of(model.card.calibration if model.card else None, self._findings, point, prevalence)
        known = model.card.feature_statistics if model.card else None
        self.statistics = None if known is None else FeatureStatistics.model_validate(known)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
        point: Point = "youden",
        prevalence: Prevalence | None = None,
    ) -> Predictor:
        """From a run folder (its final model), a model folder or a hub id.

        Raises:
            ValueError: there is no finished model, or it was trained on films resized by another rule, or a prevalence
                is asked of a model that is not calibrated.
        """
        network = AGCNN.from_pretrained(Path(source))
        return cls(network, device=device, precision=precision, point=point, prevalence=prevalence)

    def _facts(self) -> tuple[str, ...]:
        return (self.model.backbone_name, f"{self.device}, {self.precision}")

    @property
    def labels(self) -> tuple[str, ...]:
        """Order of every probability vector: the model's labels without those that it was never taught."""
        return self._labels

    @property
    def findings(self) -> Findings:
        """As the card says, without what the model was never taught."""
        return self._findings

    @property
    def window(self) -> tuple[float, ...]:
        """The part of every film that the view shows, as fractions of it."""
        model, size = self.model, self.prepared_size
        view = centre_views(1, size, image_size=model.image_size, resize=model.resize)
        return tuple((view.window_B4[0].double() / size).tolist())

    @cached_property
    def algorithm(self) -> Algorithm:
        """The model as answers name it; the first call hashes its weights (a second for 200 MB)."""
        model, digest = self.model, hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        card = model.card or model.new_card()
        # First cards do not say what was taught: such a model keeps the fingerprint that it had.
        left_out = {"versions"} if card.taught else {"versions", "taught"}
        left_out |= {"findings"} if card.usual else set()
        digest.update(card.model_dump_json(exclude=left_out).encode())
        if self.precision != "fp32":
            digest.update(self.precision.encode())
        view = (model.image_size, model.resize)
        return Algorithm.of(
            digest.hexdigest(), model.backbone_name, view, self.precision, model.attention, self.calibration
        )

    @property
    def about(self) -> About:
        """Network and device."""
        model, patients = self.model, self.model.card and self.model.card.train_patients
        return About(
            backbone=model.backbone_name,
            image_size=model.image_size,
            attention=model.attention.model_dump(mode="json"),
            device=self.device.type,
            precision=self.precision,
            metrics=dict(model.card.metrics) if model.card else {},
            trained_on=trained_on(patients.whose if patients else None, self.calibration),
        )

    def finding_maps(self, images_BSS: Bytes, findings: Sequence[str]) -> FindingMaps:
        """Grad-CAM of one finding on each prepared film, through the model and its evaluation view. A film that is
        repeated, for its findings one after the other, goes through the network once."""
        from agcxr.inference.maps import finding_maps

        model, size = self.model, self.prepared_size
        self._check_prepared(images_BSS)
        if unknown := sorted(set(findings) - set(self.labels)):
            raise ValueError(f"the model does not know {', '.join(unknown)}; it knows {', '.join(self.labels)}")
        again_B = [np.array_equal(film, before) for film, before in zip(images_BSS[1:], images_BSS, strict=False)]
        first_B = ~np.array([False, *again_B])
        images_NSS = np.ascontiguousarray(images_BSS[first_B])
        views = centre_views(len(images_NSS), size, image_size=model.image_size, resize=model.resize)
        on_device = views.to(self.device)
        image_N1SS = torch.from_numpy(images_NSS).to(self.device)[:, None]
        return finding_maps(
            model,
            render(image_N1SS, on_device),
            torch.tensor([model.labels.index(finding) for finding in findings]),
            views.window_B4.double().numpy() / size,
            self._sharp(image_N1SS, on_device),
            torch.from_numpy(np.cumsum(first_B) - 1),
        )

    @torch.inference_mode()
    def _predict(self, images_BSS: Bytes, details: bool) -> BatchPrediction:
        model, size, known = self.model, self.prepared_size, self.statistics
        views = centre_views(len(images_BSS), size, image_size=model.image_size, resize=model.resize).to(self.device)
        image_B1SS = torch.from_numpy(np.ascontiguousarray(images_BSS)).to(self.device)[:, None]
        view = render(image_B1SS, views)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            out = model(view, self._sharp(image_B1SS, views))
        box_NR4 = map_boxes(out.box_BR4.float(), views, model.image_size, to="prepared").cpu().double().numpy() / size
        several = model.attention.crops > 1
        fusion_NK = self._probability(out.fusion_BK)
        calibrated = None if self.scale is None else self.scale.probabilities(fusion_NK)
        heat_NHW = out.heat_BHW.float().cpu().numpy()
        feature_BD = out.pooled_global_BD.float().cpu().numpy()
        return BatchPrediction(
            labels=self.labels,
            global_NK=self._probability(out.global_BK),
            local_NK=self._probability(out.local_BK),
            fusion_NK=fusion_NK,
            box_N4=box_NR4[:, 0],
            fallback_N=out.fallback_B.cpu().numpy(),
            window_4=np.array(self.window),
            calibrated_NK=None if calibrated is None else calibrated.astype(np.float32),
            distance_N=None if known is None else known.distance(feature_BD),
            feature_ND=feature_BD,
            plateau_N=plateau(heat_NHW),
            heat_NHW=heat_NHW if details else None,
            crop_NHW=_gray(out.crop_BCHW) if details else None,
            box_NR4=box_NR4 if several else None,
            weight_NR=out.weight_BR.float().cpu().numpy() if several else None,
        )

    def _probability(self, logit_BK: Tensor) -> Floats:
        """Of the labels that the model was taught, whatever other outputs its heads have."""
        return logit_BK.float().sigmoid().cpu().numpy()[:, self._taught_K]

    def _sharp(self, image_B1SS: Tensor, views: Views) -> Tensor | FilmSource | None:
        """What crops are cut from, where it is sharper than the network's view."""
        model = self.model
        if model.crop_source != "prepared":
            return None
        return crop_source(image_B1SS, views, resize=model.resize, window=model.attention.window)


def torch_members(engine: Engine) -> tuple[Predictor, ...]:
    """The models that an engine answers with, for work on the networks. Raises ValueError where one is a file."""
    members = tuple(member for member in engine.members if isinstance(member, Predictor))
    if len(members) != len(engine.members):
        raise ValueError("an exported file holds no network to work on; give the run that it was exported from")
    return members


def _trained_on(model: AGCNN) -> int | None:
    """Side of the prepared films that the model was trained on, where its card says so."""
    if model.card is None:
        return None
    given = model.card.preprocessing
    if given.resize_rule != RESIZE_RULE:
        raise ValueError(
            f"the model was trained on films resized by the rule {given.resize_rule!r}, and this version of agcxr "
            f"resizes by {RESIZE_RULE!r}; predict with the version that trained it, {model.card.versions.get('agcxr')}"
        )
    return given.prepared_size


def _gray(image_BCHW: Tensor) -> Bytes:
    return (image_BCHW[:, 0].float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
