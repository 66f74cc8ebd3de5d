"""`agcxr predict --dicom`: the DICOM objects beside the rows of the CSV."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agcxr.calibration import Scale
from agcxr.data.radiograph import RadiographError
from agcxr.dicom.algorithm import Algorithm
from agcxr.dicom.objects import ROLES, Role
from agcxr.dicom.results import Refused, make_results, to_bytes
from agcxr.dicom.source import read_source, why_not_read
from agcxr.inference.films import FilmFile
from agcxr.inference.prediction import Prediction

if TYPE_CHECKING:
    from agcxr.inference.engine import Engine


class DicomFiles:
    """Writes the DICOM results of each film: OUT/<n>/ gets sr.dcm, sc.dcm ..., n the film's row from 1.

    Args:
        engine: what answers.
        folder: OUT.
        roles: which objects.
    """

    columns = ("dicom", "dicom_reason")

    def __init__(self, engine: Engine, folder: Path, roles: tuple[Role, ...] = ROLES) -> None:
        self._folder, self._roles = folder, roles
        self._algorithm = as_read(engine.algorithm, engine.scale)

    def save(self, film: FilmFile, prediction: Prediction) -> tuple[str | None, str | None]:
        """The columns have the folder, or the reason why there is none."""
        data = film.read()
        if is_picture(data):
            return None, "not a DICOM file, so there is no study to put results in"
        try:
            source = read_source(data)
            if reason := why_not_read(source):
                return None, reason
            results = make_results(source, prediction, self._algorithm, self._roles)
        except Refused as error:
            return None, f"refused, {error}"
        except RadiographError as error:
            return None, str(error)
        folder = self._folder / f"{film.place + 1:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        for role, dataset in results:
            (folder / f"{role}.dcm").write_bytes(to_bytes(dataset))
        return str(folder), None


def is_picture(data: bytes) -> bool:
    """Whether a file is a PNG, WebP or JPEG by its first bytes, and so no DICOM file."""
    return data[:4] in (b"\x89PNG", b"RIFF") or data[:3] == b"\xff\xd8\xff"


def as_read(algorithm: Algorithm, scale: Scale | None) -> Algorithm:
    """The algorithm with the operating point and the prevalence that its scores are read with, where they are not the
    checkpoint's own: results then say so, and are other objects (UIDs) than those of the plain reading."""
    if scale is None:
        return algorithm
    told = [] if scale.point == "youden" else [f"operating point {scale.point}"]
    pairs = zip(scale.labels, scale.prevalence_K.tolist(), strict=True)
    told += [f"prevalence of {label} {share:g}" for label, share in pairs if not np.isnan(share)]
    if not told:
        return algorithm
    fingerprint = hashlib.sha256("\n".join([algorithm.fingerprint, *told]).encode()).hexdigest()[:16]
    return replace(algorithm, fingerprint=fingerprint, parameters=(*algorithm.parameters, *told))
