"""A tiny model and films as DICOM files, made in code, for the tests of this folder."""

from __future__ import annotations

import io
from functools import cache

import cv2
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from agcxr.data.phantom import film as phantom

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
SC = "1.2.840.10008.5.1.4.1.1.7"


def pixels(height: int = 240, width: int = 200, seed: int = 0) -> np.ndarray:
    """12-bit pixels of a synthetic chest film; there are three."""
    drawn = cv2.resize(_drawn(seed % 3), (width, height), interpolation=cv2.INTER_AREA)
    return drawn.astype(np.uint16) * 16


@cache
def _drawn(seed: int) -> np.ndarray:
    return phantom(np.random.default_rng(seed + 1), [], size=256).pixels_HW


def film(seed: int = 0, *, sop_class: str = DX, shape: tuple[int, int] = (240, 200), **changes: object) -> Dataset:
    """A chest film with a full header; `changes` set attributes, None deletes one."""
    image = pixels(*shape, seed)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.77.{seed + 1}"
    ds.StudyInstanceUID = f"1.2.826.0.1.3680043.8.498.88.{seed + 1}"
    ds.SeriesInstanceUID = f"1.2.826.0.1.3680043.8.498.99.{seed + 1}"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Secretname^Anna", "SECRET-77", "19500102", "F"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240506", "101112", "S1", "A1"
    ds.ReferringPhysicianName, ds.StudyDescription = "Doctor^Secret", "Chest PA"
    ds.SeriesNumber, ds.InstanceNumber = 1, 1
    ds.Modality = {CR: "CR", DX: "DX", SC: "OT"}[sop_class]
    if sop_class != SC:
        ds.BodyPartExamined, ds.ViewPosition = "CHEST", "PA"
    ds.Rows, ds.Columns = image.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = image.tobytes()
    ds["PixelData"].VR = "OW"
    for name, value in changes.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    return ds


def written(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def fresh(seed: int = 0, **changes: object) -> Dataset:
    """A film whose UIDs no other has."""
    return film(seed, SOPInstanceUID=generate_uid(), StudyInstanceUID=generate_uid(), **changes)
