"""The results that viewers and IHE AIR ask for: 3D report, attention map, key object, presentation state, status."""

from __future__ import annotations

import dataclasses
import importlib.resources
import io
import json
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from dicom_made import CR, SC, film, written
from highdicom.pm import ParametricMap
from highdicom.sr import srread

from agcxr.dicom.algorithm import RESEARCH_ONLY
from agcxr.dicom.objects import ROLES, SERIES, SOP_CLASSES, parse_roles, result_uid
from agcxr.dicom.report import region_tracking
from agcxr.dicom.results import Refused, make_results, to_bytes
from agcxr.dicom.source import read_source
from agcxr.intake import Intake
from agcxr.labels import LABELS

ALL = tuple(SERIES)
HIGH = {"fusion_K": np.where(np.array(LABELS) == "Effusion", 0.9, 0.1).astype(np.float32)}
REFUSED = {"intake": Intake("refuse", ("not of the chest", "blank"))}


def results(predictor, algorithm, ds, roles=ALL, **changes):
    data = written(ds)
    prediction = dataclasses.replace(predictor(data), **changes)
    made = make_results(read_source(data), prediction, algorithm, roles)
    return prediction, {role: to_bytes(dataset) for role, dataset in made}


def read(data: bytes) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(data))


def test_names_of_results():
    assert parse_roles("pr,SR, pm") == ("sr", "pm", "pr")
    with pytest.raises(ValueError, match="names no results \\(xyz\\); expected sr,sc,seg,sr3d,pm,ko,pr,status or some"):
        parse_roles("sr,xyz")


def test_each_is_of_its_class_its_film_and_its_series(predictor, algorithm):
    _, made = results(predictor, algorithm, film(), **HIGH)
    assert tuple(made) == tuple(role for role in ALL if role != "status")
    for role, data in made.items():
        ds = read(data)
        assert ds.SOPClassUID == SOP_CLASSES[role]
        assert ds.SOPInstanceUID == result_uid(film().SOPInstanceUID, algorithm, role)
        assert (ds.StudyInstanceUID, ds.PatientID) == (film().StudyInstanceUID, "SECRET-77")
        assert (ds.SeriesNumber, ds.SeriesDescription) == SERIES[role]
    assert len({read(data).SeriesInstanceUID for data in made.values()}) == len(made)


def test_the_map_holds_the_attention_on_the_films_grid(predictor, algorithm):
    prediction, made = results(predictor, algorithm, film(), roles=("pm",))
    ds = read(made["pm"])
    assert (ds.Rows, ds.Columns, ds.NumberOfFrames) == (240, 200, 1)
    # By highdicom's own way: stored values through the real world value map.
    real = ParametricMap.from_dataset(ds).get_frame(1, apply_real_world_transform=True)
    assert np.abs(real - prediction.heat_in_original()).max() <= 0.5 / 65535 + 1e-6
    values = ds.SharedFunctionalGroupsSequence[0].get("RealWorldValueMappingSequence") or (
        ds.PerFrameFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    )
    assert values[0].QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeMeaning == "Saliency"
    frame = ds.PerFrameFunctionalGroupsSequence[0]
    source = frame.DerivationImageSequence[0].SourceImageSequence[0]
    assert source.ReferencedSOPInstanceUID == film().SOPInstanceUID
    assert (
        read(results(predictor, algorithm, film(), roles=("pm",))[1]["pm"]).FrameOfReferenceUID
        == ds.FrameOfReferenceUID
    )


@pytest.mark.parametrize(
    ("header", "spacing"),
    [({"ImagerPixelSpacing": [0.2, 0.3]}, [0.2, 0.3]), ({}, [1, 1]), ({"PixelSpacing": [0, 0]}, [1, 1])],
)
def test_the_maps_spacing_is_the_films_or_nominal(predictor, algorithm, header, spacing):
    ds = read(results(predictor, algorithm, film(**header), roles=("pm",))[1]["pm"])
    shared = ds.SharedFunctionalGroupsSequence[0]
    assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == spacing


def test_the_state_draws_the_box_in_the_films_pixels_and_says_what_was_called(predictor, algorithm):
    prediction, made = results(
        predictor, algorithm, film(WindowCenter=[2000, 9], WindowWidth=[3000, 9]), roles=("pr",), **HIGH
    )
    ds = read(made["pr"])
    (annotation,) = ds.GraphicAnnotationSequence
    (box,) = annotation.GraphicObjectSequence
    x0, y0, x1, y1 = prediction.box
    corners = [x0, y0, x1, y0, x1, y1, x0, y1, x0, y0]
    assert list(box.GraphicData) == pytest.approx(corners, abs=0.01)
    assert (box.GraphicAnnotationUnits, box.GraphicType, box.GraphicFilled) == ("PIXEL", "POLYLINE", "N")
    assert box.TrackingUID == region_tracking(film(), algorithm)
    text = annotation.TextObjectSequence[0].UnformattedTextValue
    probability = float(prediction.calibrated_K[LABELS.index("Effusion")])
    assert text.splitlines() == [
        f"agcxr {algorithm.version}", RESEARCH_ONLY, f"Pleural effusion: called, probability {probability:.2f}",
    ]  # fmt: skip
    reference = ds.ReferencedSeriesSequence[0].ReferencedImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == film().SOPInstanceUID
    window = ds.SoftcopyVOILUTSequence[0]
    assert (window.WindowCenter, window.WindowWidth, ds.PresentationLUTShape) == (2000, 3000, "IDENTITY")


SEVERAL = {
    "box": (20.0, 30.0, 80.0, 90.0),
    "boxes": ((20.0, 30.0, 80.0, 90.0), (110.0, 40.0, 170.0, 100.0)),
    "weights": (0.25, 0.75),
}


def test_a_state_draws_several_boxes_each_with_number_and_weight(predictor, algorithm):
    _, made = results(predictor, algorithm, film(), roles=("pr",), **SEVERAL)
    (annotation,) = read(made["pr"]).GraphicAnnotationSequence
    graphics, (caption, *weights) = annotation.GraphicObjectSequence, annotation.TextObjectSequence
    assert len(graphics) == len(weights) == 2
    assert caption.UnformattedTextValue.startswith("agcxr")
    for n, (graphic, text) in enumerate(zip(graphics, weights, strict=True)):
        x0, y0, x1, y1 = SEVERAL["boxes"][n]
        assert list(graphic.GraphicData) == [x0, y0, x1, y0, x1, y1, x0, y1, x0, y0]
        assert graphic.TrackingUID == region_tracking(film(), algorithm, n)
        assert text.UnformattedTextValue == ("1: 25%", "2: 75%")[n]
        assert (list(text.AnchorPoint), text.AnchorPointAnnotationUnits) == ([x0, y0], "PIXEL")
        assert text.AnchorPointVisibility == "N"


def test_a_state_keeps_how_the_film_is_shown(predictor, algorithm):
    inverted = film(PhotometricInterpretation="MONOCHROME1", RescaleSlope=2, RescaleIntercept=-5, RescaleType="US")
    low = {"intake": None, "fusion_K": np.zeros(15, np.float32)}
    ds = read(results(predictor, algorithm, inverted, roles=("pr",), **low)[1]["pr"])
    assert (ds.PresentationLUTShape, ds.RescaleSlope, ds.RescaleIntercept) == ("INVERSE", 2, -5)
    assert "SoftcopyVOILUTSequence" not in ds
    assert "No finding called" in ds.GraphicAnnotationSequence[0].TextObjectSequence[0].UnformattedTextValue


def test_a_key_object_is_made_of_called_films_only(predictor, algorithm):
    low = {"fusion_K": np.zeros(15, np.float32)}
    assert results(predictor, algorithm, film(), roles=("ko",), **low)[1] == {}
    ds = read(results(predictor, algorithm, film(), roles=("ko",), **HIGH)[1]["ko"])
    assert ds.ConceptNameCodeSequence[0].CodeMeaning == "Of Interest"
    values = {item.ValueType: item for item in ds.ContentSequence}
    assert values["IMAGE"].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == film().SOPInstanceUID
    texts = [item.TextValue for item in ds.ContentSequence if item.ValueType == "TEXT"]
    assert f"Called by agcxr {algorithm.version}: Pleural effusion. {RESEARCH_ONLY}" in texts


def test_the_3d_report_says_what_the_report_says(predictor, algorithm):
    _, made = results(predictor, algorithm, film(), **HIGH)
    plain, air = read(made["sr"]), read(made["sr3d"])
    assert air.ContentSequence == plain.ContentSequence
    assert srread(io.BytesIO(made["sr3d"])).content.get_observer_contexts()


def test_a_refused_film_has_a_status_with_its_reasons_and_nothing_else(predictor, algorithm):
    _, made = results(predictor, algorithm, film(), **REFUSED)
    assert list(made) == ["status"]
    ds = read(made["status"])
    texts = [item.TextValue for item in ds.ContentSequence if item.ValueType == "TEXT"]
    assert texts[-3:] == [RESEARCH_ONLY, "No results: not of the chest", "No results: blank"]
    data = str(ds)
    assert "Not Attempted" in data
    assert "NUM" not in [item.ValueType for item in ds.ContentSequence]
    assert "SCORE_FUSION" not in data
    with pytest.raises(Refused, match="not of the chest; blank"):
        results(predictor, algorithm, film(), roles=ROLES, **REFUSED)


@pytest.fixture(scope="module")
def standard():
    """Modules of each class, and their attributes, as highdicom has them from the standard's own tables."""
    folder = importlib.resources.files("highdicom") / "_standard"
    names = ("sop_class_iod_map", "iod_module_map", "module_attribute_map")
    return [json.loads((folder / f"{name}.json").read_text()) for name in names]


@pytest.mark.parametrize(("sop_class", "changes"), [(CR, HIGH), (SC, {}), (SC, REFUSED)])
def test_every_mandatory_module_has_its_attributes(predictor, algorithm, standard, sop_class, changes):
    classes, modules, attributes = standard
    _, made = results(predictor, algorithm, film(sop_class=sop_class), **changes)
    assert made
    for role, data in made.items():
        ds, missing = read(data), []
        for module in modules[classes[ds.SOPClassUID]]:
            if module["usage"] != "M" or module["key"] == "sr-document-content":  # its types are those of any item
                continue
            for attribute in attributes[module["key"]]:
                keyword, kind = attribute["keyword"], attribute["type"]
                there = keyword in ds and not (kind == "1" and ds[keyword].is_empty)
                if not attribute["path"] and kind in ("1", "2") and not there:
                    missing.append(keyword)
        assert not missing, f"{role}: {missing}"


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="no dciodvfy here (Debian: apt-get install dicom3tools)")
@pytest.mark.parametrize(("sop_class", "changes"), [("", HIGH), (CR, {}), (SC, HIGH), (CR, SEVERAL), (SC, REFUSED)])
def test_dciodvfy_finds_no_error(predictor, algorithm, tmp_path, sop_class, changes):
    ds = film(sop_class=sop_class) if sop_class else film()
    for role, data in results(predictor, algorithm, ds, **changes)[1].items():
        (tmp_path / f"{role}.dcm").write_bytes(data)
        said = subprocess.run(
            ["dciodvfy", tmp_path / f"{role}.dcm"], capture_output=True, text=True, check=False
        ).stderr
        told = [line for line in said.splitlines() if line.startswith(("Error", "Warning")) and "99AGCXR" not in line]
        allowed = "Unrecognized defined term <QUANTITY>" if role == "pm" else "\0"
        assert not [line for line in told if allowed not in line], role
