from __future__ import annotations

import json

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from agcxr import config
from agcxr.data.nih import ROW_COLUMNS
from agcxr.data.prepare import prepare
from agcxr.data.prepared import Source
from agcxr.data.radiograph import from_array
from agcxr.data.sources import find_files
from agcxr.data.storing import Storing
from agcxr.inference.batch import write_predictions
from agcxr.inference.describe import describe_features, pooled_features
from agcxr.inference.films import Films
from agcxr.inference.novelty import FAR, FEWEST, FeatureStatistics, fit_statistics, judge_distance
from agcxr.inference.predictor import Predictor
from agcxr.intake import Intake, judge
from agcxr.labels import LABELS
from agcxr.models.agcnn import AGCNN
from inference.make import film


def cloud(n: int, seed: int, features: int = 96) -> np.ndarray:
    """Features that vary in five directions, and hardly in the others."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(5, features))
    return (5 + generator.normal(size=(n, 5)) @ mixing + 0.1 * generator.normal(size=(n, features))).astype(np.float32)


@pytest.fixture(scope="module")
def statistics() -> FeatureStatistics:
    return fit_statistics(cloud(400, 0), cloud(200, 1))


def test_films_like_those_of_training_are_near(statistics):
    distance = statistics.distance(cloud(1000, 2))
    assert (distance > 1).mean() == pytest.approx(0.01, abs=0.015)
    assert (distance < FAR).all()


def test_far_in_a_direction_of_theirs_and_outside_all_of_them(statistics):
    usual = cloud(1, 3)
    along = usual + 40 * np.random.default_rng(99).normal(size=(5, 96)).astype(np.float32)[:1]
    outside = usual + 4 * np.random.default_rng(5).normal(size=(1, 96)).astype(np.float32)
    assert statistics.distance(along)[0] > FAR
    assert statistics.distance(outside)[0] > FAR


def test_equal_to_the_formula():
    """With all its numbers written out: (z - c)' P (z - c) / Q of the stored, rounded directions."""
    made = fit_statistics(cloud(300, 0, 20), cloud(100, 1, 20))
    x = cloud(3, 4, 20).astype(float)
    rows = made._directions_KD
    z = (x - made._mean_D) @ rows.T
    rest = ((x - made._mean_D) ** 2).sum(1) - (z**2).sum(1)
    place = np.column_stack([z, np.log(rest / 20 + 1e-9)]) - np.array(made.centre)
    expected = np.sqrt(np.diag(place @ np.array(made.precision) @ place.T) / (made.components + 1)) / made.scale
    np.testing.assert_allclose(made.distance(x), expected, rtol=1e-9)


def test_small_and_the_same_after_json(statistics):
    text = json.dumps(statistics.model_dump(mode="json"))
    again = FeatureStatistics.model_validate(json.loads(text))
    np.testing.assert_array_equal(again.distance(cloud(9, 6)), statistics.distance(cloud(9, 6)))
    wide = fit_statistics(cloud(300, 0, 2048), cloud(60, 1, 2048))
    assert wide.components <= 64
    assert len(json.dumps(wide.model_dump(mode="json"))) < 250_000


def test_what_cannot_be_fitted():
    with pytest.raises(ValueError, match=f"29 training and 200 validation films; at least {FEWEST} of each"):
        fit_statistics(cloud(29, 0), cloud(200, 1))
    with pytest.raises(ValueError, match="answers every training film with the same features"):
        fit_statistics(np.ones((50, 8), np.float32), np.ones((50, 8), np.float32))


def test_features_of_another_model(statistics):
    with pytest.raises(ValueError, match=r"features \(2, 20\); these statistics are of a model with 96"):
        statistics.distance(np.zeros((2, 20)))
    broken = FeatureStatistics.model_validate(statistics.model_dump() | {"mean": statistics.mean[:40]})
    with pytest.raises(ValueError, match="feature statistics of 15 numbers; expected 96"):
        broken.distance(cloud(1, 0))


def test_words():
    assert judge_distance(0.4) == judge_distance(1.0) == judge_distance(float("nan")) == Intake("accept")
    warned = judge_distance(1.26)
    assert warned == Intake(
        "warn", ("the model has seen nothing like it in training (1.3 times as far as 99 % of the validation films)",)
    )
    assert judge_distance(2.5).decision == "refuse"


# --- a model on disk --------------------------------------------------------------------------------------------------

S = 64


def prepared(tmp_path, films: int):
    """A prepared folder of smooth pictures, a patient each."""
    (tmp_path / "films").mkdir()
    names = [f"f{n:03d}.npy" for n in range(films)]
    for n in range(films):
        cv2.imwrite(str(tmp_path / "films" / f"f{n:03d}.png"), film(S, S, n))
    rows = pd.DataFrame({"image_id": [f"f{n:03d}.png" for n in range(films)], "patient": names})
    rows["follow_up"] = pd.array([pd.NA] * films, dtype="Int64")
    rows[list(LABELS)] = np.float32(0)
    rows = rows.assign(age=np.nan, sex="", view="PA")[list(ROW_COLUMNS)]
    files = find_files(tmp_path / "films")
    return prepare(
        rows, None, files, tmp_path / "prepared", source=Source(name="made"), storing=Storing(size=S, workers=1)
    )


def saved(tmp_path):
    torch.manual_seed(0)
    attention = config.Attention(min_side=4, threshold=0.5)
    model = AGCNN("test_resnet", image_size=S, resize=S, weights="none", attention=attention)
    model.save_pretrained(tmp_path / "model", card=model.new_card(prepared_size=S))
    return tmp_path / "model"


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("described")
    films, run = prepared(folder, 330), saved(folder)
    assert describe_features(run, films, progress=False) is not None
    return films, run


def test_a_described_model_knows_its_films(described):
    films, run = described
    predictor = Predictor.from_pretrained(run, device="cpu")
    answers = predictor.predict_arrays(films.images)
    assert answers.distance_N is not None
    assert answers[2:4].distance_N.shape == (2,)
    val = (films.index["split"] == "val").to_numpy()
    assert np.quantile(answers.distance_N[val], 0.99) == pytest.approx(1, abs=1e-3)
    pooled = pooled_features(predictor, films.images, np.arange(6), batch_size=4)
    np.testing.assert_allclose(predictor.statistics.distance(pooled), answers.distance_N[:6], rtol=1e-3)
    noise = np.random.default_rng(0).integers(0, 256, (4, S, S), np.uint8)
    assert (predictor.predict_arrays(noise).distance_N > FAR).all()


def test_predictions_hold_both_opinions(described):
    films, run = described
    predictor = Predictor.from_pretrained(run, device="cpu")
    noise = np.random.default_rng(0).integers(0, 256, (256, 256), np.uint8)
    found = predictor(noise).intake
    assert found.decision == "refuse"
    assert found.reasons[0] == judge(from_array(noise)).reasons[0]
    assert found.reasons[-1].startswith("the model has seen nothing like it in training")
    plain = Predictor(AGCNN("test_resnet", image_size=S, resize=S, weights="none"), device="cpu")
    assert plain(noise).intake == judge(from_array(noise))
    assert plain.predict_arrays(films.images[:2]).distance_N is None


def test_the_csv_has_the_decision_and_the_reason(described, tmp_path):
    _, run = described
    cv2.imwrite(str(tmp_path / "noise.png"), np.random.default_rng(0).integers(0, 256, (256, 256), np.uint8))
    predictor = Predictor.from_pretrained(run, device="cpu")
    write_predictions(predictor, Films([str(tmp_path / "noise.png")]), tmp_path / "p.csv")
    row = pd.read_csv(tmp_path / "p.csv").iloc[0]
    assert row["intake"] == "refuse"
    assert row["intake_reason"].startswith("it does not look like a chest film")
    assert np.isnan(row["error"])
    assert np.isnan(row["prob_Mass"])  # no probability of a film that is refused


def test_too_few_films_leave_the_card_as_it_was(tmp_path):
    run = saved(tmp_path)
    before = (run / "config.json").read_text()
    assert describe_features(run, prepared(tmp_path, 60), progress=False) is None
    assert (run / "config.json").read_text() == before
