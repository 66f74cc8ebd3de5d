"""An average of runs and views: calibrated, evaluated, and checked for leaks as one model."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from evaluated import SIZE, write_prepared

from agcxr.evaluation.leak import PatientLeak
from agcxr.evaluation.study import study
from agcxr.experiments.calibrate import calibrate
from agcxr.inference.load import load_engine
from agcxr.models.agcnn import AGCNN
from agcxr.models.checkpoint import Patients
from agcxr.training.seeds import Seeds, write_seeds


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = write_prepared(tmp_path_factory.mktemp("films") / "prepared", boxed=False)
    index = pd.read_parquet(folder / "index.parquet")
    validation = index.index[index["split"] == "val"]
    index.loc[validation, "Mass"] = [float(n % 2) for n in range(len(validation))]  # enough of both to calibrate
    index.to_parquet(folder / "index.parquet")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two networks of random weights; the second was trained on another patient than the first."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = AGCNN(backbone="test_resnet", weights="none", image_size=48, resize=SIZE)
        patients = Patients.of((f"p{seed}",), salt="salt")
        card = model.new_card(prepared_size=SIZE, train_patients=patients)
        model.save_pretrained(root / f"seed{seed}" / "model", card)
    write_seeds(root / "seeds.json", Seeds(measure="m", seeds=(0, 1), runs=("seed0", "seed1"), spreads=()))
    return root


def test_an_average_is_calibrated_and_evaluated_as_one_model(films, runs):
    cards = [(runs / f"seed{seed}" / "model" / "config.json").read_bytes() for seed in (0, 1)]
    found = calibrate(runs, films, views="flip", progress=False)
    assert found.findings["Mass"].points
    assert found.fitted_on.shared_patients == 0
    assert cards == [(runs / f"seed{seed}" / "model" / "config.json").read_bytes() for seed in (0, 1)]
    engine = load_engine(runs, "cpu", views="flip")
    assert engine.own == found
    done = study(runs, films, views="flip", resamples=20, maps=False, pictures=False, progress=False, device="cpu")
    assert done.folder == runs / "evaluation" / "test-average-flip"
    assert done.results.run.endswith("average over 2 models and 2 views of each film (flip), calibrated as a whole")
    frame = pd.read_parquet(done.folder / "predictions.parquet")
    expected = found.probabilities(frame[["fusion_Mass"]].to_numpy(), ("Mass",))[:, 0]
    assert frame["calibrated_Mass"].to_numpy() == pytest.approx(expected, abs=1e-6)
    assert "are kept in the checkpoint" in done.results.points_from
    assert json.loads((done.folder / "results.json").read_text())["leak"]["shared_patients"] == 0
    plain = study(runs / "seed0", films, resamples=20, maps=False, pictures=False, progress=False, device="cpu")
    assert plain.folder == runs / "seed0" / "evaluation" / "test"


def test_a_patient_of_any_model_is_a_leak(films, runs, tmp_path):
    model = AGCNN(backbone="test_resnet", weights="none", image_size=48, resize=SIZE)
    patients = Patients.of(("p20",), salt="salt")  # a test patient
    model.save_pretrained(tmp_path / "third", model.new_card(prepared_size=SIZE, train_patients=patients))
    with pytest.raises(PatientLeak, match="trained on 1 of the 24 patients of 'test'"):
        study(runs / "seed0", films, others=[str(tmp_path / "third")], progress=False, device="cpu")
