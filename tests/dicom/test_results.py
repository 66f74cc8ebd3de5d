from __future__ import annotations

import dataclasses
import hashlib
import io
import shutil
import subprocess
import zipfile
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_made import CR, DX, SC, film, pixels, written
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from agcxr.calibration import Scale
from agcxr.data.radiograph import RadiographError
from agcxr.dicom import codes
from agcxr.dicom.algorithm import RESEARCH_ONLY, derived_uid
from agcxr.dicom.objects import result_uid
from agcxr.dicom.region import region_mask
from agcxr.dicom.results import Refused, make_results, to_bytes, to_zip
from agcxr.dicom.source import Source, read_source
from agcxr.findings import CHESTXRAY14, Findings
from agcxr.inference import explain
from agcxr.inference.onnx_engine import OnnxPredictor
from agcxr.inference.overlay import WARNING
from agcxr.intake import Intake
from agcxr.labels import FINDINGS, LABELS


def results(predictor, algorithm, data):
    """(prediction, role -> object), each written and read again."""
    prediction = predictor(data)
    made = make_results(read_source(data), prediction, algorithm)
    return prediction, {role: pydicom.dcmread(io.BytesIO(to_bytes(ds))) for role, ds in made}


@pytest.fixture(scope="module")
def of_a_film(predictor, algorithm):
    return results(predictor, algorithm, written(film()))


def groups(report: Dataset) -> list[Dataset]:
    """The measurement groups of a report."""
    (imaging,) = (item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010")
    return list(imaging.ContentSequence)


def child(item: Dataset, code: str) -> Dataset | None:
    found = [one for one in item.ContentSequence if one.ConceptNameCodeSequence[0].CodeValue == code]
    return found[0] if found else None


def finding_groups(report: Dataset) -> dict[str, Dataset]:
    """Tracking identifier ("Effusion") -> the measurement group of that label, in the report's order."""
    _, *findings = groups(report)
    return {child(group, "112039").TextValue: group for group in findings}


def state(group: Dataset, label: str) -> str:
    """What a group says of its label: the value of the evaluation named as the finding."""
    value = child(group, codes.finding_code(label, CHESTXRAY14).value).ConceptCodeSequence[0]
    assert value.CodingSchemeDesignator == "SCT"
    return value.CodeMeaning


def number(item: Dataset, code: str) -> float | None:
    found = child(item, code)
    return None if found is None else float(found.MeasuredValueSequence[0].NumericValue)


def test_all_belong_to_the_films_patient_and_study(of_a_film):
    source = film()
    for ds in of_a_film[1].values():
        for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate"):
            assert ds[name].value == source[name].value, name
        assert ds.SeriesInstanceUID != source.SeriesInstanceUID
        assert (ds.Manufacturer, ds.ManufacturerModelName) == ("agcxr", "AG-CNN")
    assert len({ds.SOPInstanceUID for ds in of_a_film[1].values()}) == 3
    assert len({ds.SeriesInstanceUID for ds in of_a_film[1].values()}) == 3


def test_every_object_says_research_only(of_a_film):
    objects = of_a_film[1]
    for ds in objects.values():
        assert "research use only" in ds.SeriesDescription
    assert child(objects["sr"], "121106").TextValue == RESEARCH_ONLY
    assert objects["sc"].ImageComments == RESEARCH_ONLY
    assert objects["seg"].SegmentSequence[0].SegmentDescription == RESEARCH_ONLY
    assert "Research use only" in objects["seg"].ContentDescription


def test_every_object_refers_to_the_film(of_a_film):
    source, objects = film(), of_a_film[1]
    (study,) = objects["sr"].CurrentRequestedProcedureEvidenceSequence
    reference = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert study.StudyInstanceUID == source.StudyInstanceUID
    assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) == (DX, source.SOPInstanceUID)
    assert objects["sc"].SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    series = objects["seg"].ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_the_report_is_preliminary_and_unverified(of_a_film, algorithm):
    report = of_a_film[1]["sr"]
    assert (report.PreliminaryFlag, report.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert report.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99AGCXR"
    for group in groups(report):
        assert child(group, "111001").TextValue == "agcxr AG-CNN"
        assert child(group, "111003").TextValue == algorithm.version


def test_findings_come_with_scores_and_operating_points(of_a_film):
    prediction, objects = of_a_film
    findings = finding_groups(objects["sr"])
    assert sorted(findings) == sorted(label.replace("_", " ") for label in LABELS)
    for k, label in enumerate(LABELS):
        group = findings[label.replace("_", " ")]
        assert number(group, "SCORE_FUSION") == pytest.approx(prediction.fusion_K[k], abs=1e-6)
        assert number(group, "SCORE_GLOBAL") == pytest.approx(prediction.global_K[k], abs=1e-6)
        assert number(group, "SCORE_LOCAL") == pytest.approx(prediction.local_K[k], abs=1e-6)
    effusion, hernia = findings["Effusion"], findings["Hernia"]
    assert (number(effusion, "THRESHOLD"), number(effusion, "SENSITIVITY"), number(effusion, "SPECIFICITY")) == (
        0.5,
        0.8,
        0.7,
    )
    expected = prediction.calibrated_K[LABELS.index("Effusion")]
    assert number(effusion, "122157") == pytest.approx(expected, abs=1e-6)
    side = "AT_OR_ABOVE" if prediction.probability("Effusion") >= 0.5 else "BELOW"
    assert child(effusion, "CALL").ConceptCodeSequence[0].CodeValue == side
    assert child(hernia, "POINT_KIND").ConceptCodeSequence[0].CodeValue == "TOO_RARE"
    assert not [name for name in ("122157", "THRESHOLD", "SENSITIVITY", "CALL") if child(hernia, name)]


@pytest.mark.parametrize(("score", "meaning"), [(0.6, "Present"), (0.5, "Present"), (0.4, "Absent")])
def test_a_report_states_present_or_absent_and_only_of_what_was_calibrated(predictor, algorithm, score, meaning):
    data = written(film())
    prediction = predictor(data)
    fusion = np.where(np.array(LABELS) == "Effusion", score, 0.99).astype(np.float32)
    made = make_results(read_source(data), dataclasses.replace(prediction, fusion_K=fusion), algorithm)
    findings = finding_groups(made.sr)
    assert state(findings.pop("Effusion"), "Effusion") == meaning
    for label, group in findings.items():
        assert state(group, label.replace(" ", "_") if " T" in label else label) == "Undetermined"
    # A reader of plain "Finding" items meets the region and what is present, nothing else.
    read = [child(group, "121071") for group in groups(made.sr)]
    plain = [item.ConceptCodeSequence[0].CodeMeaning for item in read if item is not None]
    assert plain == ["Selected region", "Pleural effusion"][: 1 + (meaning == "Present")]
    assert next(iter(finding_groups(made.sr))) == "Effusion"  # the calibrated one, though others score higher


def test_no_finding_is_never_a_finding(predictor, algorithm):
    data = written(film())
    cut = dataclasses.replace(predictor(data).cut, score_K=np.zeros(15), fitted_K=np.ones(15, bool))
    bare = dataclasses.replace(algorithm, calibration=None)
    made = make_results(read_source(data), dataclasses.replace(predictor(data), cut=cut), bare)
    group = list(finding_groups(made.sr).values())[-1]
    assert (state(group, "No Finding"), child(group, "121071")) == ("Present", None)


def test_an_operating_point_of_a_finding_too_rare_to_calibrate_is_not_spoken_of(predictor, algorithm):
    data = written(film())
    prediction, fitted = predictor(data), algorithm.calibration.findings
    few = algorithm.calibration.model_copy(
        update={"findings": {name: one.model_copy(update={"positives": 9}) for name, one in fitted.items()}}
    )
    cut = Scale.of(few, LABELS).cut
    made = make_results(read_source(data), dataclasses.replace(prediction, cut=cut), algorithm)
    for group in groups(made.sr)[1:]:
        assert child(group, "CALL") is None
        assert number(group, "122157") is None
        assert child(group, "POINT_KIND").ConceptCodeSequence[0].CodeValue == "TOO_RARE"


def test_without_any_calibration_no_point_was_fitted(predictor, algorithm):
    data = written(film())
    plain = dataclasses.replace(predictor(data), cut=None, calibrated_K=None)
    made = make_results(read_source(data), plain, dataclasses.replace(algorithm, calibration=None))
    for group in groups(made.sr)[1:]:
        assert child(group, "POINT_KIND").ConceptCodeSequence[0].CodeValue == "NOT_FITTED"
        assert number(group, "122157") is None


def test_a_source_travels_as_json():
    source = read_source(
        written(film(StudyDescription="a\\b", PatientAge="055Y", LossyImageCompressionRatio=["2", "3"]))
    )
    again = Source.from_json(source.to_json())
    assert again.dataset == source.dataset
    assert again.emptied == source.emptied


def test_the_zip_holds_the_three_files(predictor, algorithm):
    data = written(film())
    made = make_results(read_source(data), predictor(data), algorithm)
    with zipfile.ZipFile(io.BytesIO(to_zip(made))) as file:
        assert {name: file.read(name) for name in file.namelist()} == {
            f"{role}.dcm": to_bytes(dataset) for role, dataset in made
        }


def test_an_exported_file_has_an_identity_of_its_own(tmp_path, algorithm):
    card = {"model": {"backbone": "test_resnet", "resize": 72}}
    facts = SimpleNamespace(image_size=64, prepared_size=72, card=card, quantised=None)
    (tmp_path / "model.onnx").write_bytes(b"weights")

    def file(runtime="onnxruntime", precision="fp32"):
        engine = OnnxPredictor.__new__(OnnxPredictor)
        engine.path, engine.facts, engine.scale = tmp_path / "model.onnx", facts, None
        engine.runtime, engine.precision = runtime, precision
        return engine.algorithm

    found = file()
    assert found.fingerprint == hashlib.sha256(b"weights").hexdigest()[:16]
    assert found.version != algorithm.version
    assert found.parameters[:2] == ("backbone test_resnet", "view 64 of 72 px")
    others = [file("openvino", precision) for precision in ("fp32", "bf16")]
    assert len({one.version for one in (found, *others)}) == 3
    assert others[1].parameters[-1] == "precision bf16, exported file on openvino"


def test_the_box_is_a_region_in_the_films_pixels(of_a_film):
    prediction, objects = of_a_film
    region = child(groups(objects["sr"])[0], "111030")
    x0, y0, x1, y1 = prediction.box
    assert region.GraphicType == "POLYLINE"
    assert region.GraphicData == pytest.approx([x0, y0, x1, y0, x1, y1, x0, y1, x0, y0], abs=1e-3)
    reference = region.ContentSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == film().SOPInstanceUID


def test_highdicom_reads_the_report_back(of_a_film):
    report = highdicom.sr.ComprehensiveSR.from_dataset(of_a_film[1]["sr"])
    (roi,) = report.content.get_planar_roi_measurement_groups()
    assert roi.finding_type == codes.REGION
    assert len(report.content.get_image_measurement_groups()) == len(LABELS)


def test_the_segmentation_is_the_region_within_the_box(of_a_film, algorithm):
    prediction, objects = of_a_film
    seg = highdicom.seg.Segmentation.from_dataset(objects["seg"])
    mask = seg.get_pixels_by_source_instance([film().SOPInstanceUID])[0, ..., 0].astype(bool)
    assert mask.shape == (prediction.height, prediction.width)
    assert np.array_equal(mask, region_mask(prediction, algorithm.attention))
    rows, columns = np.nonzero(mask)
    x0, y0, x1, y1 = prediction.box
    pixel = prediction.width / 64  # a pixel of the view covers so many of the film
    assert (columns.min(), rows.min()) == pytest.approx((x0, y0), abs=1 + pixel)
    assert (columns.max() + 1, rows.max() + 1) == pytest.approx((x1, y1), abs=1 + pixel)
    roi = child(groups(objects["sr"])[0], "112040")
    assert objects["seg"].SegmentSequence[0].TrackingUID == roi.UID


def test_the_picture_is_the_explained_one_without_the_files_name(of_a_film):
    sc = of_a_film[1]["sc"]
    assert (sc.PhotometricInterpretation, sc.Columns, sc.ConversionType) == ("RGB", 1600, "WSD")
    assert sc.pixel_array.std() > 10


def test_the_picture_says_which_model_read_it_how_and_when(predictor, algorithm, monkeypatch):
    drawn, data = [], written(film(TimezoneOffsetFromUTC="-0330"))
    monkeypatch.setattr(explain, "_text", lambda draw, at, text, *rest, **more: drawn.append(text))
    sc = make_results(read_source(data), predictor(data), algorithm).sc
    when = f"{sc.ContentDate:%Y-%m-%d} {sc.ContentTime:%H:%M} UTC-03:30"
    assert f"Model: agcxr {algorithm.version} · Operating point: Youden's point · {when}" in drawn
    assert {label.replace("_", " ") for label in LABELS} <= set(drawn)
    assert (sc.DateOfSecondaryCapture, sc.TimeOfSecondaryCapture) == (sc.ContentDate, sc.ContentTime)


def of_a_request() -> Dataset:
    """A film of a request with all that says which, and free text that must stay behind."""
    issuer, code, request = Dataset(), Dataset(), Dataset()
    issuer.LocalNamespaceEntityID = "HOSP"
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = "1.2.3", "ISO"
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399208008", "SCT", "Chest film"
    request.RequestedProcedureID, request.ScheduledProcedureStepID, request.AccessionNumber = "RP1", "SPS1", "A1"
    request.RequestedProcedureDescription, request.RequestedProcedureCodeSequence = "Chest PA", [code]
    request.IssuerOfAccessionNumberSequence, request.ReasonForTheRequestedProcedure = [issuer], "SECRETREASON"
    return film(
        PatientAge="055Y", TimezoneOffsetFromUTC="+0200", IssuerOfAccessionNumberSequence=[issuer],
        RequestAttributesSequence=[request],
    )  # fmt: skip


def test_results_take_over_the_request_the_issuers_the_age_and_the_time_zone(predictor, algorithm):
    data = written(of_a_request())
    source = read_source(data)
    assert source.emptied == ()
    made = {
        role: pydicom.dcmread(io.BytesIO(to_bytes(ds)))
        for role, ds in make_results(Source.from_json(source.to_json()), predictor(data), algorithm)
    }
    for role, ds in made.items():
        assert (ds.StudyDescription, ds.PatientAge, ds.TimezoneOffsetFromUTC) == ("Chest PA", "055Y", "+0200"), role
        (issuer,) = ds.IssuerOfAccessionNumberSequence
        assert (issuer.LocalNamespaceEntityID, issuer.UniversalEntityIDType) == ("HOSP", "ISO"), role
        (request,) = ds.ReferencedRequestSequence if role == "sr" else ds.RequestAttributesSequence
        assert (request.RequestedProcedureID, request.AccessionNumber) == ("RP1", "A1"), role
        assert request.RequestedProcedureCodeSequence[0].CodeMeaning == "Chest film"
        assert b"SECRETREASON" not in to_bytes(ds)
    stated = f"{made['sr'].ContentDate}{made['sr'].ContentTime[:6]}{made['sr'].TimezoneOffsetFromUTC}"
    assert abs(datetime.now(UTC) - datetime.strptime(stated, "%Y%m%d%H%M%S%z")) < timedelta(minutes=5)


def test_half_a_code_and_an_impossible_zone_are_left_out():
    ds = of_a_request()
    ds.TimezoneOffsetFromUTC = "+9900"
    (request,) = ds.RequestAttributesSequence
    del request.RequestedProcedureCodeSequence[0].CodeMeaning
    del request.IssuerOfAccessionNumberSequence[0].UniversalEntityIDType
    source = read_source(written(ds))
    assert source.emptied == ("TimezoneOffsetFromUTC",)
    (kept,) = source.dataset.RequestAttributesSequence
    assert "RequestedProcedureCodeSequence" not in kept
    assert [element.keyword for element in kept.IssuerOfAccessionNumberSequence[0]] == ["LocalNamespaceEntityID"]
    for zone, usable in (("+1400", True), ("-1200", True), ("+0000", True), ("-0000", False), ("+1401", False)):
        ds.TimezoneOffsetFromUTC = zone
        assert ("TimezoneOffsetFromUTC" in read_source(written(ds)).dataset) == usable, zone
    ds.RequestAttributesSequence = [Dataset() for _ in range(1000)]
    assert "RequestAttributesSequence" not in read_source(written(ds)).dataset


def test_region_of_a_known_heatmap(algorithm):
    from agcxr.inference.prediction import Prediction

    heat = np.zeros((8, 8), np.float32)
    heat[2:4, 3:6], heat[6, 0] = 1.0, 0.9
    p = np.zeros(15, np.float32)
    given = Prediction("a", LABELS, p, p, p, (8.0, 6.0, 14.0, 10.0), False, heat, (2.0, 2.0, 18.0, 18.0), heat, 20, 20)
    mask = region_mask(given, algorithm.attention)
    expected = np.zeros((20, 20), bool)
    expected[6:10, 8:14] = True
    assert np.array_equal(mask, expected)
    whole = region_mask(dataclasses.replace(given, fallback=True, box=given.window), algorithm.attention)
    expected[:] = False
    expected[2:18, 2:18] = True
    assert np.array_equal(whole, expected)


SEVERAL = {
    "box": (20.0, 30.0, 80.0, 90.0),
    "boxes": ((20.0, 30.0, 80.0, 90.0), (110.0, 40.0, 170.0, 100.0), (60.5, 120.25, 120.5, 180.25)),
    "weights": (0.25, 0.625, 0.125),
    "fallback": False,
}


def test_several_boxes_are_regions_and_segments_of_their_own_with_their_weights(predictor, algorithm):
    data = written(film())
    given = dataclasses.replace(predictor(data), **SEVERAL)
    window = dataclasses.replace(
        algorithm, attention=algorithm.attention.model_copy(update={"window": 0.3, "crops": 3})
    )
    objects = {
        role: pydicom.dcmread(io.BytesIO(to_bytes(ds))) for role, ds in make_results(read_source(data), given, window)
    }
    regions = groups(objects["sr"])[:3]
    for n, (group, (x0, y0, x1, y1)) in enumerate(zip(regions, given.boxes, strict=True)):
        assert child(group, "111030").GraphicData == [x0, y0, x1, y0, x1, y1, x0, y1, x0, y0]
        assert number(group, "REGION_WEIGHT") == given.weights[n]
        assert child(group, "112039").TextValue == f"Attended region {n + 1}"
        assert child(group, "REGION_KIND").ConceptCodeSequence[0].CodeValue == "ONE_OF_SEVERAL"
    report = highdicom.sr.ComprehensiveSR.from_dataset(objects["sr"])
    assert len(report.content.get_planar_roi_measurement_groups()) == 3
    assert len(report.content.get_image_measurement_groups()) == len(LABELS)
    seg = highdicom.seg.Segmentation.from_dataset(objects["seg"])
    masks = seg.get_pixels_by_source_instance([film().SOPInstanceUID])[0].astype(bool)
    assert masks.shape == (240, 200, 3)
    for n, segment in enumerate(seg.SegmentSequence):
        assert np.array_equal(masks[..., n], region_mask(given, window.attention, n))
        rows, columns = np.nonzero(masks[..., n])
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == pytest.approx(given.boxes[n], abs=5)
        assert (segment.SegmentNumber, segment.TrackingID) == (n + 1, f"Attended region {n + 1}")
        assert segment.SegmentLabel == f"Attended region {n + 1} (weight {given.weights[n]:.2f})"
        assert segment.TrackingUID == child(regions[n], "112040").UID
    assert len({segment.TrackingUID for segment in seg.SegmentSequence}) == 3


def test_regions_of_several_boxes_share_no_pixel(algorithm):
    """The second box reaches over the first, but what that had taken is not its."""
    from agcxr.inference.prediction import Prediction

    heat = np.zeros((8, 8), np.float32)
    heat[1:4, 0:4], heat[3:6, 5:8], heat[5, 2:5] = 1.0, 0.9, 0.9
    p, boxes = np.zeros(15, np.float32), ((0.0, 1.0, 4.0, 4.0), (2.0, 3.0, 8.0, 6.0))
    given = Prediction(
        "a", LABELS, p, p, p, boxes[0], False, heat, (0.0, 0.0, 8.0, 8.0), heat, 8, 8, boxes=boxes, weights=(0.5, 0.5)
    )
    expected = np.zeros((2, 8, 8), bool)
    expected[0, 1:4, 0:4] = True
    expected[1, 3:6, 5:8] = expected[1, 5, 2:5] = True
    for n in range(2):
        assert np.array_equal(region_mask(given, algorithm.attention, n), expected[n])
    window = algorithm.attention.model_copy(update={"window": 0.4})
    expected[1, 3:6, 2:8] = True
    for n in range(2):
        assert np.array_equal(region_mask(given, window, n), expected[n])


def test_a_fallback_is_said(predictor, algorithm):
    data = written(film())
    flat = dataclasses.replace(predictor(data), fallback=True, box=(0.0, 0.0, 200.0, 240.0))
    made = make_results(read_source(data), flat, algorithm)
    kind = child(groups(made.sr)[0], "REGION_KIND").ConceptCodeSequence[0]
    assert kind.CodeValue == "WHOLE_VIEW"
    assert made.seg.SegmentSequence[0].SegmentLabel == "Whole view (no region stood out)"


def test_doubts_are_said_and_a_refused_film_has_no_results(predictor, algorithm):
    data = written(film())
    doubted = dataclasses.replace(predictor(data), intake=Intake("warn", ("it is a small picture",)))
    comments = [
        item.TextValue
        for item in make_results(read_source(data), doubted, algorithm).sr.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "121106"
    ]
    assert comments == [RESEARCH_ONLY, "Doubt about this film: it is a small picture"]
    sc, plain = (make_results(read_source(data), one, algorithm).sc for one in (doubted, predictor(data)))
    assert sc.ImageComments == f"{RESEARCH_ONLY}\r\nDoubt about this film: it is a small picture"
    amber = (sc.pixel_array == WARNING).all(-1)
    assert amber.sum() > 300
    assert sc.Rows > plain.Rows
    assert not (plain.pixel_array == WARNING).all(-1).any()
    upside_down = film()
    upside_down.PixelData = pixels()[::-1].tobytes()
    data = written(upside_down)
    with pytest.raises(Refused, match="upside down"):
        make_results(read_source(data), predictor(data), algorithm)


def test_uids_follow_from_film_and_model(predictor, algorithm):
    data = written(film())
    _, first = results(predictor, algorithm, data)
    _, again = results(predictor, algorithm, data)
    other = dataclasses.replace(algorithm, fingerprint="0" * 16)
    _, changed = results(predictor, other, data)
    for role, ds in first.items():
        assert ds.SOPInstanceUID == again[role].SOPInstanceUID == result_uid(film().SOPInstanceUID, algorithm, role)
        assert ds.SeriesInstanceUID == again[role].SeriesInstanceUID
        assert ds.SOPInstanceUID != changed[role].SOPInstanceUID
    assert derived_uid("a", "b") != derived_uid("ab")
    assert len(derived_uid("a")) <= 64
    assert predictor.algorithm == algorithm


def test_private_attributes_and_free_text_stay_behind(predictor, algorithm):
    ds = film(PatientComments="SECRETCOMMENT", OtherPatientIDs="SECRETOTHER", AdditionalPatientHistory="SECRETHISTORY")
    ds.private_block(0x0011, "SECRETMAKER", create=True).add_new(1, "LO", "SECRETPRIVATE")
    _, objects = results(predictor, algorithm, written(ds))
    for made in objects.values():
        assert not [element.tag for element in made.iterall() if element.tag.is_private]
        text = to_bytes(made)
        for secret in (b"SECRETCOMMENT", b"SECRETOTHER", b"SECRETHISTORY", b"SECRETMAKER", b"SECRETPRIVATE"):
            assert secret not in text


def test_missing_type_2_attributes_are_filled_on_a_copy(predictor, algorithm):
    bare = film()
    names = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")
    for name in (*names, "AccessionNumber", "ReferringPhysicianName"):
        delattr(bare, name)
    data = written(bare)
    before = bytes(data)
    _, objects = results(predictor, algorithm, data)
    assert data == before
    for ds in objects.values():
        assert all(name in ds and ds[name].is_empty for name in names)


def test_impossible_values_are_emptied_and_identifiers_kept(predictor, algorithm, recwarn):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = film(PatientBirthDate="unknown", PatientSex="female", PatientID="x" * 80, PatientName="Single")
        data = written(ds)
    source = read_source(data)
    assert source.emptied == ("PatientBirthDate", "PatientSex")
    made = make_results(source, predictor(data), algorithm)
    for _, one in made:
        assert str(one.PatientID) == "x" * 80
        assert str(one.PatientName) == "Single"
        assert one["PatientSex"].is_empty
    assert not [warning for warning in recwarn if "Single" in str(warning.message)]


def test_names_in_other_alphabets(predictor, algorithm):
    ds = film(SpecificCharacterSet="ISO_IR 144", PatientName="Люкceмбypг")
    _, objects = results(predictor, algorithm, written(ds))
    for made in objects.values():
        assert str(made.PatientName) == "Люкceмбypг"


def test_a_frame_of_reference_without_positions_is_left_out(predictor, algorithm):
    _, objects = results(predictor, algorithm, written(film(FrameOfReferenceUID="1.2.3.4")))
    assert "FrameOfReferenceUID" not in objects["seg"]


@pytest.mark.parametrize("name", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_a_film_nothing_can_refer_to_is_refused(name):
    with pytest.raises(RadiographError, match=f"without a usable {name}"):
        read_source(_without(name))


def _without(name: str) -> bytes:
    ds = film()
    delattr(ds, name)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds)
    return buffer.getvalue()


def test_other_classes_and_sizes_are_refused(predictor, algorithm):
    ct = film()
    ct.SOPClassUID = ct.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    with pytest.raises(RadiographError, match="this is CT Image Storage"):
        read_source(written(ct))
    with pytest.raises(RadiographError, match="states 200 x 240 pixels, the film has 160 x 180"):
        make_results(read_source(written(film())), predictor(written(film(shape=(180, 160)))), algorithm)


def test_codes_are_complete_and_short():
    every = {label: codes.finding_code(label, CHESTXRAY14) for label in LABELS}
    assert len({code[:2] for code in every.values()}) == len(LABELS)
    assert [name for name in FINDINGS if every[name].scheme_designator == "99AGCXR"] == ["Pleural_Thickening"]
    assert every["No Finding"].meaning == "None of the 14 findings"
    for code in (one for one in vars(codes).values() if isinstance(one, type(codes.SCORE))):
        assert len(code.value) <= 16
        assert len(code.meaning) <= 64


def test_own_findings_have_the_codes_that_are_given_or_words_of_their_own():
    own = Findings.of(
        ["Tuberculosis", "Something else entirely", "Something else and more", "Nodule/Mass", "Threshold"]
    )
    given = {"Nodule/Mass": {"scheme": "99X", "value": "NM", "meaning": "N or M"}}
    own = Findings.model_validate({**own.model_dump(), "codes": {**own.codes, **given}})
    every = {label: codes.finding_code(label, own) for label in own.labels}
    assert every["Tuberculosis"] == Code("56717001", "SCT", "Tuberculosis")
    assert every["Nodule/Mass"] == Code("NM", "99X", "N or M")
    long, other = every["Something else entirely"], every["Something else and more"]
    assert (long.scheme_designator, long.meaning) == ("99AGCXR", "Something else entirely")
    assert long.value[:12] == other.value[:12] == "SOMETHING_E_"
    assert long.value != other.value
    assert every["Threshold"].value != codes.THRESHOLD.value
    assert all(len(code.value) <= 16 for code in every.values())
    assert codes.finding_code("Lungenödem", Findings.of(["Lungenödem", "x"])).value.startswith("LUNGENODEM_")


ANSWERS = {
    "as it is": {},
    "no region stood out": {"fallback": True},
    "no calibration": {"cut": None, "calibrated_K": None},
    "several boxes": SEVERAL,
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("bare", [False, True], ids=["full", "bare"])
@pytest.mark.parametrize("sop_class", [CR, DX, SC], ids=["CR", "DX", "SC"])
def test_dciodvfy_finds_no_error(predictor, algorithm, tmp_path, sop_class, bare, answer):
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not here (Debian: apt-get install dicom3tools)")
    ds = film(sop_class=sop_class)
    if bare:
        for name in ("PatientBirthDate", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDate"):
            delattr(ds, name)
    else:
        ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", "12.5"
        ds.LossyImageCompressionMethod = "ISO_10918_1"
        for name in (
            "IssuerOfAccessionNumberSequence",
            "RequestAttributesSequence",
            "PatientAge",
            "TimezoneOffsetFromUTC",
        ):
            ds.add(of_a_request()[name])
    data = written(ds)
    prediction = dataclasses.replace(predictor(data), **ANSWERS[answer])
    for role, made in make_results(read_source(data), prediction, algorithm):
        path = tmp_path / f"{role}.dcm"
        path.write_bytes(to_bytes(made))
        said = subprocess.run([program, path], capture_output=True, text=True, timeout=60)
        errors = [line for line in (said.stderr + said.stdout).splitlines() if line.startswith("Error")]
        assert not errors, f"{role}: {errors}"
        assert said.stderr.strip() or said.stdout.strip(), "dciodvfy said nothing, not even what it looked at"


@pytest.mark.filterwarnings("ignore")  # of pydicom, which writes such values under protest
@pytest.mark.parametrize(
    ("keyword", "stated", "expected"),
    [
        ("StudyDate", "20240506", "20240506"),
        ("StudyDate", "2024.05.06", "20240506"),  # ACR-NEMA (PS3.5 6.2)
        ("StudyDate", "2024-05-06", "20240506"),
        ("StudyDate", "2024.0506", None),
        ("StudyDate", "20240230", None),
        ("StudyDate", "00000000", None),
        ("StudyDate", "20240101-20240131", None),
        ("StudyDate", ["20240101", "20240131"], None),
        ("PatientBirthDate", "19500230", None),
        ("StudyTime", "10:11:12", "101112"),
        ("StudyTime", "101112.1234567", "101112.123456"),
        ("StudyTime", "10", "10"),
        ("StudyTime", "240000", None),
        ("StudyTime", "1060", None),
        ("StudyTime", "101112-111213", None),
        ("PatientAge", "018M", "018M"),
        ("PatientAge", "60 y", "060Y"),
        ("PatientAge", "999Y", None),
        ("PatientSex", "f", "F"),
        ("BodyPartExamined", "chest", "CHEST"),
        ("BodyPartExamined", ["CHEST", "ABDOMEN"], None),
        ("PatientOrientation", ["L", "F", "H"], None),
        ("LossyImageCompressionRatio", "12,5", "12.5"),
        ("LossyImageCompressionRatio", "high", None),
        ("ReferringPhysicianName", ["A^B", "C^D"], None),
        ("StudyDescription", "x" * 65, None),
    ],
)
def test_odd_values_are_written_as_the_standard_has_them_or_left_out(keyword, stated, expected):
    data = written(film(PatientSex="F", BodyPartExamined="CHEST"))
    given = pydicom.dcmread(io.BytesIO(data))
    tag, text = pydicom.tag.Tag(keyword), "\\".join([stated] if isinstance(stated, str) else stated).encode()
    text += b" " * (len(text) % 2)
    kind = pydicom.datadict.dictionary_VR(tag)
    given._dict[tag] = pydicom.dataelem.RawDataElement(tag, kind, len(text), text, 0, False, True)
    source = read_source(written(given))
    value = source.dataset.get(keyword)
    assert (None if value is None or value == "" else str(value)) == expected
    assert source.emptied == (() if expected else (keyword,))
    assert Source.from_json(source.to_json()).dataset == source.dataset


def test_dcmtk_reads_the_report_as_people_do(of_a_film, tmp_path):
    program = shutil.which("dsrdump")
    if program is None:
        pytest.skip("dsrdump is not here (Debian: apt-get install dcmtk)")
    prediction, objects = of_a_film
    (tmp_path / "sr.dcm").write_bytes(to_bytes(objects["sr"]))
    read = subprocess.run([program, "+Pc", tmp_path / "sr.dcm"], capture_output=True, text=True, timeout=60)
    complaints = [line for line in read.stderr.splitlines() if "VR checker does not support" not in line]  # of UTF-8
    assert (read.returncode, complaints) == (0, [])
    called = prediction.calls()[LABELS.index("Effusion")]
    value = '52101004,SCT,"Present"' if called else '272519000,SCT,"Absent"'
    assert f'(60046008,SCT,"Pleural effusion")=({value})' in read.stdout
    assert read.stdout.count(f'=({codes.UNDETERMINED.value},SCT,"Undetermined")') == len(LABELS) - 1
    assert read.stdout.count('(121071,DCM,"Finding")=') == 1 + bool(called)
