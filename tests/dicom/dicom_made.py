"""A tiny model and films as DICOM files, made in code, for the tests of this folder."""

from __future__ import annotations

import io

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
SC = "1.2.840.10008.5.1.4.1.1.7"


def pixels(height: int = 120, width: int = 100, seed: int = 0) -> np.ndarray:
    """12-bit pixels of a smooth picture that differs from seed to seed."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    phase = np.random.default_rng(seed).random(3) * 6
    wave = np.sin(7 * x + phase[0]) + np.sin(9 * y + phase[1]) + np.sin(5 * (x + y) + phase[2])
    return np.rint((wave - wave.min()) / np.ptp(wave) * 4095).astype(np.uint16)


def film(seed: int = 0, *, sop_class: str = DX, shape: tuple[int, int] = (120, 100), **changes: object) -> Dataset:
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
