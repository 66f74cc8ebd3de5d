"""The included model: small, honest about itself, equal to the eager model, at hand without torch."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

from agcxr import starter
from agcxr.data.phantom import film
from agcxr.inference.load import load_engine
from agcxr.inference.onnx_engine import OnnxPredictor, is_exported
from agcxr.inference.parity import compare, made_films
from agcxr.inference.predictor import Predictor
from agcxr.labels import FINDINGS, LABELS
from agcxr.models.agcnn import AGCNN
from agcxr.models.checkpoint import fetch
from agcxr.models.weights import read_checkpoint

LARGEST = 16e6
"""Bytes."""


@pytest.fixture(scope="module")
def engine():
    return OnnxPredictor(starter.STARTER, threads=1)


def test_it_is_small_answers_for_all_labels_and_makes_calls(engine):
    assert starter.FILE.stat().st_size < LARGEST
    assert engine.labels == LABELS
    assert engine.calibrated
    assert engine.facts.card["source"] is None
    taught = engine.facts.card["taught"]
    assert set(taught) == set(LABELS)
    assert {sum(counts) for counts in taught.values()} == {1796}


def test_nothing_of_its_patients_is_in_it(engine):
    assert "train_patients" not in engine.facts.card
    assert b"train_patients" not in starter.FILE.read_bytes()


def test_it_equals_the_eager_model_of_its_own_weights(engine):
    held = read_checkpoint(starter.FILE)
    model = AGCNN(weights="none", **{name: value for name, value in held.pop("config").items() if name != "attention"})
    card = engine.facts.card["model"]
    model.attention = model.attention.model_validate(card["attention"])
    scales = {f"{branch}_branch.{name}" for branch in ("global", "local") for name in ("mean", "std")}  # no state
    model.load_state_dict({name: value for name, value in held.items() if name not in scales})
    parity = compare(engine, Predictor(model, prepared_size=engine.prepared_size), made_films(engine.prepared_size, 3))
    assert parity.boxes == 0
    assert parity.probability < 1e-5


def test_its_card_has_every_finding_and_what_it_must_not_be_used_for():
    text = starter.CARD.read_text(encoding="utf-8")
    for finding in FINDINGS:
        assert f"| {finding.replace('_', ' ')} |" in text
    text = " ".join(text.split())
    for words in ("Research use only", "not a medical device", "1,987 films", "five folds by patient"):
        assert words in text


def test_a_first_answer_imports_only_what_it_needs(tmp_path):
    cv2.imwrite(str(tmp_path / "film.png"), film(np.random.default_rng(0), ["Effusion"], size=256).pixels_HW)
    code = (
        "import sys; from agcxr.cli import main\n"
        "status = main(['predict', 'starter', 'film.png', '--out', 'out.csv'])\n"
        "unused = {'torch', 'timm', 'pandas', 'scipy', 'agcxr.config', 'agcxr.inference.explain'}\n"
        "assert not unused & {*sys.modules}, unused & {*sys.modules}\n"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    row = pd.read_csv(tmp_path / "out.csv").iloc[0]
    assert 0 <= row["prob_Effusion"] <= 1


def test_the_name_means_the_file_wherever_an_exported_file_is_taken():
    assert is_exported("starter")
    assert not is_exported("./starter")  # a folder of one's own
    engine = load_engine("starter")
    assert isinstance(engine, OnnxPredictor)
    assert engine.path == starter.FILE
    with pytest.raises(ValueError, match=r"starter.onnx is an exported file, and a run or model folder is"):
        fetch("starter")


def test_it_gives_first_weights(engine):
    model = AGCNN("tf_efficientnet_lite0", weights="starter")
    stem = read_checkpoint(starter.FILE)["global_branch.backbone.net.conv_stem.weight"]
    assert np.array_equal(model.global_branch.backbone.net.conv_stem.weight.detach().numpy(), stem.numpy())
    assert list(model.mean) == engine.facts.card["model"]["mean"]


def test_what_its_card_says_was_printed_by_evaluate():
    """The table in the card is that of the committed results of the folds."""
    results = json.loads(starter.FILE.with_suffix(".json").read_text(encoding="utf-8"))
    text = starter.CARD.read_text(encoding="utf-8")
    for row in results["findings"]:
        assert f"| {row['finding'].replace('_', ' ')} | {row['positives']:,} | {row['fusion']} |" in text
