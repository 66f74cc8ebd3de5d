"""POST /v1/dicom: the objects that `agcxr predict --dicom` writes, in a .zip; or why there are none, in words."""

import dataclasses
import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from agcxr import intake
from agcxr.serve.app import create_app
from agcxr.serve.limits import Limits

from . import make

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

SR, SC, SEG = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("88.33", "7", "66.4"))


def post(client, data, path="/v1/dicom", name="Secret Patient.dcm"):
    return client.post(path, files={"file": (name, data)})


def objects(response):
    """Name in the .zip -> data set."""
    with zipfile.ZipFile(io.BytesIO(response.content)) as file:
        return {name: pydicom.dcmread(io.BytesIO(file.read(name))) for name in file.namelist()}


def timeless(dataset):
    """Elements at any depth, less what states when it was made."""
    return [str(one) for one in dataset.iterall() if not (one.VR in ("DA", "TM", "DT") and "Study" not in one.keyword)]


@pytest.fixture(scope="module")
def film():
    return make.dicom(make.pixels(130, 90, dtype=np.uint16))


@pytest.fixture(scope="module")
def answered(client, film):
    return post(client, film)


def test_the_zip_holds_the_films_three_objects(answered, film):
    assert answered.status_code == 200
    assert answered.headers["content-type"] == "application/zip"
    assert answered.headers["content-disposition"] == 'attachment; filename="agcxr-dicom.zip"'
    assert answered.headers["cache-control"] == "no-store"
    found, source = objects(answered), pydicom.dcmread(io.BytesIO(film))
    assert {name: one.SOPClassUID for name, one in found.items()} == {"sr.dcm": SR, "sc.dcm": SC, "seg.dcm": SEG}
    for one in found.values():
        assert (one.StudyInstanceUID, one.PatientID) == (source.StudyInstanceUID, "SECRET-ID")
        assert "research use only" in one.SeriesDescription
    (study,) = found["sr.dcm"].CurrentRequestedProcedureEvidenceSequence
    (reference,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert (found["seg.dcm"].Rows, found["seg.dcm"].Columns) == (130, 90)
    assert found["sc.dcm"].pixel_array.shape[1:] == (1600, 3)


def test_they_are_those_of_the_command_line(answered, engine, film):
    from agcxr.dicom.results import make_results, to_bytes
    from agcxr.dicom.source import read_source

    prediction = engine(film)
    assert prediction.intake is not None
    prediction = dataclasses.replace(prediction, intake=None)  # this server was told to check no films
    expected = make_results(read_source(film), prediction, engine.algorithm)
    found = objects(answered)
    for role, made in expected:
        one, dataset = found[f"{role}.dcm"], pydicom.dcmread(io.BytesIO(to_bytes(made)))
        assert one.SOPInstanceUID == dataset.SOPInstanceUID
        if role == "sc":
            assert np.array_equal(one.pixel_array[:-60], dataset.pixel_array[:-60])  # the time is at the foot
        assert timeless(one) == timeless(dataset), role


def test_the_answer_says_beforehand_whether_there_are_results(client, film):
    png = make.encode(make.pixels())
    unnamed = make.dicom(make.pixels(), StudyInstanceUID=None)
    answers = [post(client, data, "/v1/predict").json()["films"][0] for data in (film, png, unnamed)]
    assert [one["dicom"]["available"] for one in answers] == [True, False, False]
    assert answers[0]["dicom"]["reason"] is None
    assert answers[1]["dicom"]["reason"] == "not a DICOM film, so there is no study to put DICOM results in"
    assert answers[2]["dicom"]["reason"] == "DICOM without a usable StudyInstanceUID, so that no result can refer to it"
    for data, answer in zip((png, unnamed), answers[1:], strict=True):
        response = post(client, data)
        assert (response.status_code, response.json()["error"]) == (
            422,
            {"code": "no_study", "message": answer["dicom"]["reason"]},
        )


def test_spacing_is_stated_and_whose_film_it_is_only_where_asked(client):
    data = make.dicom(
        make.pixels(), PatientName="Somebody^Else", PatientID="77", StudyDate="20240506",
        ImagerPixelSpacing=[0.2, 0.1], PatientOrientation=["L", "F"],
    )  # fmt: skip
    plain = post(client, data, "/v1/predict")
    assert "Somebody" not in plain.text
    (film,) = plain.json()["films"]
    assert film["identity"] is None
    facts = film["film"]
    assert (facts["spacing"], facts["spacing_at"], facts["orientation"]) == ([0.2, 0.1], "detector", ["L", "F"])
    (film,) = post(client, data, "/v1/predict?identity=true").json()["films"]
    named = {name: film["identity"][name] for name in ("patient", "patient_id", "study_date")}
    assert named == {"patient": "Somebody^Else", "patient_id": "77", "study_date": "20240506"}
    calibrated = make.dicom(make.pixels(), ImagerPixelSpacing=[0.2, 0.2], PixelSpacing=[0.18, 0.18])
    (film,) = post(client, calibrated, "/v1/predict?identity=true").json()["films"]
    assert (film["film"]["spacing"], film["film"]["spacing_at"]) == ([0.18, 0.18], "calibrated")
    (film,) = post(client, make.encode(make.pixels()), "/v1/predict?identity=true").json()["films"]
    assert (film["identity"], film["film"]["spacing"]) == (None, None)


def test_other_errors_are_those_of_every_route(client, film):
    assert post(client, b"GIF89a").json()["error"]["code"] == "unreadable"
    two = [("file", ("a.dcm", film)), ("file", ("b.dcm", film))]
    assert client.post("/v1/dicom", files=two).json()["error"]["code"] == "one_film"
    assert client.get("/v1/dicom").status_code == 405
    assert client.post("/v1/dicom", content=film, headers={"content-type": "application/dicom"}).status_code == 200


def test_a_refused_film_has_no_results(engine):
    noise = np.random.default_rng(0).integers(0, 65536, (512, 512), dtype=np.uint16)
    with TestClient(
        create_app(engine, limits=Limits(decoders=1), judge=intake.judge), base_url="http://localhost"
    ) as it:
        response = post(it, make.dicom(noise))
        assert (response.status_code, response.json()["error"]["code"]) == (422, "refused")
        assert post(it, make.dicom(noise), "/v1/predict").json()["films"][0]["dicom"] is None


def test_the_queue_and_the_clock_hold_for_it(engine, film):
    app = create_app(engine, limits=Limits(decoders=1, queue=1, files=1))
    with TestClient(app, base_url="http://localhost") as client, app._app.state.service.room.take(1):
        response = post(client, film)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "busy")
    with TestClient(create_app(engine, limits=Limits(decoders=1, work=0.001)), base_url="http://localhost") as client:
        response = post(client, film)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "too_slow")


def test_without_the_extra_it_says_so(engine, film, monkeypatch):
    monkeypatch.setattr("agcxr.serve.service.find_spec", lambda name: None if name == "highdicom" else object())
    with TestClient(create_app(engine, limits=Limits(decoders=1)), base_url="http://localhost") as client:
        assert client.get("/v1/model").json()["dicom"] is False
        response = post(client, film)
        assert (response.status_code, response.json()["error"]["code"]) == (501, "no_extra")
        assert "pip install 'agcxr[dicom]'" in response.json()["error"]["message"]
        answer = post(client, film, "/v1/predict").json()["films"][0]
        assert answer["dicom"] == {"available": False, "reason": response.json()["error"]["message"]}


def test_it_is_described_with_examples(client):
    described = client.get("/openapi.json").json()["paths"]["/v1/dicom"]["post"]
    assert set(described["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/dicom",
        "application/octet-stream",
    }
    assert "application/zip" in described["responses"]["200"]["content"]
    examples = described["responses"]["422"]["content"]["application/json"]["examples"]
    assert set(examples) == {"no_study", "refused", "unreadable"}
    assert client.get("/v1/model").json()["dicom"] is True


def test_a_real_server_writes_and_logs_nothing_of_it(server, film, tmp_path_factory):
    import httpx

    response = httpx.post(f"{server.url}/v1/dicom", files={"file": ("Secret Patient.dcm", film)}, timeout=60)
    assert set(objects(response)) == {"sr.dcm", "sc.dcm", "seg.dcm"}
    log = server.log.read_text()
    assert "/v1/dicom 200" in log
    uids = [str(one.value) for one in pydicom.dcmread(io.BytesIO(film)) if one.VR == "UI"]
    assert not [one for one in ("secret", *uids) if one in log.lower()]
    opened = {link.resolve() for link in (Path("/proc") / str(server.process.pid) / "fd").iterdir()}
    assert not [path for path in opened if re.search(r"\.(dcm|zip)$", str(path))]


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    """A model whose validation held three films with a hernia."""
    return make.save_model(tmp_path_factory.mktemp("rare"), rare=("Hernia",))


def test_findings_too_rare_to_calibrate_get_no_probability_and_no_call(rare, film):
    from agcxr.inference.predictor import Predictor

    app = create_app(Predictor.from_pretrained(rare, device="cpu"), limits=Limits(decoders=1))
    with TestClient(app, base_url="http://localhost") as client:
        (answer,) = post(client, film, "/v1/predict").json()["films"]
        report = objects(post(client, film))["sr.dcm"]
        labels = {one["label"]: one for one in client.get("/v1/model").json()["labels"]}
    assert [one["finding"] for one in answer["findings"]][-2:] == ["Hernia", "No Finding"]
    hernia, other = answer["findings"][-2], answer["findings"][0]
    assert (hernia["calibrated"], hernia["operating_points"]) == (None, {})
    assert hernia["uncalibrated"] == (
        "too few validation films to calibrate (3 with it; 10 are needed), so raw scores only and no call"
    )
    assert other["uncalibrated"] is None
    assert other["operating_points"].keys() == {"youden", "sensitivity95", "specificity95"}
    assert (labels["Hernia"]["calibrated"], labels["Hernia"]["operating_points"]) == (False, {})
    (imaging,) = (item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010")
    groups = imaging.ContentSequence[1:]
    each = [{one.ConceptNameCodeSequence[0].CodeValue: one for one in group.ContentSequence} for group in groups]
    said = {items["112039"].TextValue: items for items in each}
    of_hernia, of_mass = said["Hernia"], said["Mass"]
    assert not {"122157", "THRESHOLD", "SENSITIVITY", "SPECIFICITY", "CALL"} & of_hernia.keys()
    assert {"122157", "THRESHOLD", "CALL"} <= of_mass.keys()
    told = of_hernia["POINT_KIND"].ConceptCodeSequence[0]
    assert (told.CodeValue, told.CodeMeaning) == (
        "TOO_RARE",
        "Too few validation films to calibrate: raw scores, no call",
    )
