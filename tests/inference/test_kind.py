"""Films of another kind than the training films: synthetic, or real."""

import csv

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient

from agcxr.calibration import FittedOn
from agcxr.data.radiograph import read_radiograph
from agcxr.data.synthetic import NOTE, is_synthetic, marked
from agcxr.inference.batch import predict_files
from agcxr.inference.ensemble import Ensemble
from agcxr.inference.explain import to_png
from agcxr.inference.export import facts
from agcxr.inference.novelty import judge_kind
from agcxr.inference.predictor import Predictor
from agcxr.intake import Intake, judge
from agcxr.models.checkpoint import Patients
from agcxr.serve.app import create_app
from inference.exported import calibration, network
from inference.make import chest

REASON = "the model learnt on synthetic films only (phantom, seed 0): what it says of a real film means nothing"


def png(*, synthetic):
    data = cv2.imencode(".png", chest(300, 280))[1].tobytes()
    return marked(data) if synthetic else data


def predictor(collection, **section):
    model = network()
    patients = Patients.of(["1"], collection=collection)
    model.card = model.new_card(prepared_size=160, train_patients=patients, **section)
    return Predictor(model, device="cpu")


@pytest.fixture(scope="module")
def of_phantoms():
    return predictor("phantom, seed 0")


def test_a_mark_in_the_file_tells_a_synthetic_film_and_changes_no_pixel():
    plain, other = read_radiograph(png(synthetic=False)), read_radiograph(png(synthetic=True))
    np.testing.assert_array_equal(plain.pixels_HW, other.pixels_HW)
    assert (plain.notes, other.notes) == ((), (NOTE,))


def test_collections_are_told_by_their_names():
    assert [is_synthetic(name) for name in ("phantom, seed 3", "nih", "", None)] == [True, False, False, False]


@pytest.mark.parametrize(
    ("trained_on", "notes", "reasons"),
    [
        ("phantom, seed 0", (), (REASON,)),
        ("phantom, seed 0", (NOTE,), ()),
        ("nih", (NOTE,), ("it is a synthetic film, and the model learnt on real ones (nih)",)),
        ("nih", ("16 bits",), ()),
        (None, (), ()),
        (None, (NOTE,), ()),
    ],
)
def test_films_of_another_kind_are_warned_of(trained_on, notes, reasons):
    assert judge_kind(trained_on, notes) == Intake("warn" if reasons else "accept", reasons)


def test_every_answer_of_such_a_model_says_it(of_phantoms, tmp_path):
    real, synthetic = of_phantoms(png(synthetic=False)), of_phantoms(png(synthetic=True))
    assert REASON in real.intake.reasons
    assert REASON not in synthetic.intake.reasons
    assert REASON.encode() in to_png(real)  # the picture's metadata; its head says the same
    assert REASON in real._repr_html_()
    of_phantoms.model.save_pretrained(tmp_path / "run", of_phantoms.model.card)
    (tmp_path / "film.png").write_bytes(png(synthetic=False))
    predict_files(tmp_path / "run", [str(tmp_path / "film.png")], tmp_path / "p.csv", device="cpu", progress=False)
    with open(tmp_path / "p.csv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["intake"], REASON in row["intake_reason"]) == ("warn", True)


def test_the_page_says_it_and_names_the_data(of_phantoms):
    with TestClient(create_app(of_phantoms, judge=judge), base_url="http://localhost") as client:
        files = [("file", (f"{n}.png", png(synthetic=bool(n)), "image/png")) for n in range(2)]
        first, second = client.post("/v1/predict", files=files).json()["films"]
        model = client.get("/v1/model").json()
    assert REASON in first["intake"]["reasons"]
    assert REASON not in second["intake"]["reasons"]
    assert (model["trained_on"], model["synthetic"]) == ("phantom, seed 0", True)


def test_an_exported_file_keeps_whose_films_and_no_patient(of_phantoms):
    card = facts(of_phantoms).card
    assert card["trained_on"] == "phantom, seed 0"
    assert "train_patients" not in card


def test_an_average_with_such_a_model_is_one(of_phantoms):
    real = predictor("nih")
    assert Ensemble([real, of_phantoms]).about.trained_on == "phantom, seed 0"
    assert Ensemble([real, predictor("nih")]).about.trained_on == "nih"


def test_a_card_without_a_collection_has_it_from_its_validation_films():
    films = {"split": "val", "films": 9, "digest": "0", "of_training": True, "shared_patients": 0, "unchecked": ""}
    fitted = calibration().model_copy(update={"fitted_on": FittedOn(collection="phantom, seed 1", **films)})
    assert predictor(None, calibration=fitted.model_dump(mode="json")).about.trained_on == "phantom, seed 1"
    assert predictor(None).about.trained_on is None
