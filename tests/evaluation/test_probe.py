"""The ridge on frozen features: by patient, beside metadata, within a view."""

import numpy as np
import pandas as pd
import pytest

from agcxr import metrics
from agcxr.data.prepared import open_prepared
from agcxr.evaluation.probe import Inputs, Probe, frozen_features, metadata, probe
from agcxr.evaluation.strata import matched_auroc, same_view
from agcxr.labels import FINDINGS
from evaluation.evaluated import PARTS, write_prepared


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return open_prepared(write_prepared(tmp_path_factory.mktemp("probe") / "prepared"))


def test_features_that_name_the_patient_say_nothing_of_other_patients(films):
    patient = films.index["patient"].to_numpy(object)
    one_hot = (patient[:, None] == np.unique(patient)[None]).astype(float)
    result = probe(films, one_hot, "who", folds=5, resamples=20)
    assert 0.3 < result.mean[1].value < 0.7


def test_features_that_hold_the_answer_rank_every_film(films):
    answer = films.index[list(FINDINGS)].to_numpy(float)
    result = probe(films, np.nan_to_num(answer), "the answer", resamples=20)
    assert result.rows == ("metadata", "features")
    assert result.films == f"fitted on {PARTS['train'] + PARTS['val']} films, measured on the {PARTS['test']} of test"
    assert "Hernia" not in [finding.finding for finding in result.findings]  # it never occurs
    assert result.mean[1].value == 1.0
    assert result.mean[0].value == 0.5  # all are women of 50, PA
    assert "Mean of 13" in str(result)


def test_a_probe_is_stored_whole(films, tmp_path):
    feature = np.random.default_rng(0).normal(size=(len(films.index), 6))
    result = probe(films, feature, "noise", resamples=10)
    result.save(tmp_path)
    assert Probe.load(tmp_path) == result
    assert probe(films, feature, "noise", resamples=10) == result


def test_errors_say_what_is_lacking(films):
    feature = np.zeros((len(films.index), 2))
    with pytest.raises(ValueError, match="features of 3 films; .* holds 78"):
        probe(films, feature[:3], "few")
    with pytest.raises(ValueError, match="0 films in the part 'none' and 78 others .*fit and measure by folds"):
        probe(films, feature, "x", split="none")
    with pytest.raises(ValueError, match="folds is 1; expected at least 2, or 0"):
        probe(films, feature, "x", folds=1)
    with pytest.raises(ValueError, match="finite numbers"):
        probe(films, np.full_like(feature, np.nan), "x")


def test_metadata_states_what_is_unknown():
    index = pd.DataFrame(
        {"view": ["AP", "PA", None], "sex": ["M", None, "F"], "age": [40.0, np.nan, 60.0], "follow_up": [0, 3, 0]}
    )
    index["follow_up"] = index["follow_up"].astype("Int64")
    later = np.log1p(3)
    expected = [[1, 0, 1, 0, 0.4, 0, 0, 0], [0, 0, 0, 1, 0.5, 1, later, 0], [0, 1, 0, 0, 0.6, 0, 0, 0]]
    np.testing.assert_allclose(metadata(index), expected)
    np.testing.assert_allclose(metadata(index.fillna({"view": "", "sex": ""})), expected)


def test_films_that_state_nothing_have_no_metadata_to_learn_from(films):
    facts = films.facts.assign(view="", sex="", age=np.nan, follow_up=pd.array([pd.NA] * len(films.index), "Int64"))
    inputs = Inputs.of(facts, np.zeros((len(facts), 2)), "noise")
    assert list(inputs.rows) == ["features"]
    assert inputs.absent == ("Metadata are left out: these films state no view, sex, age, follow-up.",)


def test_matched_auroc_leaves_out_pairs_of_two_views():
    """AP films score higher and are oftener positive; within a view the score is a coin."""
    target, score, view = [1, 1, 0, 0, 1, 0], [9, 8, 9, 8, 2, 2], [1, 1, 1, 1, 0, 0]
    # 9 pairs: 9 against 9, 8, 2 wins 2.5, 8 wins 1.5, 2 wins .5.
    assert metrics.auroc(target, score) == pytest.approx(4.5 / 9)
    assert matched_auroc(target, score, view)[0] == 0.5
    assert matched_auroc(target, score, np.zeros(6))[0] == pytest.approx(metrics.auroc(target, score))


def test_matched_auroc_weighs_films_and_leaves_unknown_ones_out():
    rng = np.random.default_rng(3)
    target, score, view = rng.integers(0, 2, 40).astype(float), rng.normal(size=40), rng.integers(0, 2, 40)
    weight = rng.integers(0, 3, (40, 5))
    for r in range(5):
        repeated = np.repeat(np.arange(40), weight[:, r])
        expected = matched_auroc(target[repeated], score[repeated], view[repeated])[0]
        assert matched_auroc(target, score, view, weight)[r] == pytest.approx(expected)
    unknown = np.append(target, np.nan), np.append(score, 99.0), np.append(view, 0)
    assert matched_auroc(*unknown)[0] == pytest.approx(matched_auroc(target, score, view)[0])
    assert np.isnan(matched_auroc([1, 0], [1, 2], [0, 1])[0])


def test_a_frozen_network_sees_every_film(films):
    feature = frozen_features(films, "resnet10t", "none", image_size=64, progress=False)
    assert feature.shape == (78, 512)
    assert feature.std(0).max() > 0


def test_a_branch_that_only_tells_views_apart_knows_nothing_within_one():
    """Two findings; the first branch scores the view, the second the truth."""
    rng = np.random.default_rng(0)
    view = pd.Series(np.where(np.arange(60) % 2, "AP", "PA"))
    target = (rng.random((60, 2)) < np.where(view == "AP", 0.8, 0.2)[:, None]).astype(float)
    score = np.stack([np.tile((view == "AP").to_numpy(float)[:, None], 2), target])
    patient = np.arange(60).astype(str)
    by_view, truth = same_view(target, score, patient, view, resamples=50)
    assert by_view.value == 0.5
    assert (truth.value, truth.high) == (1, 1)
    assert truth.low < 0.95  # an AUROC of 1 is no more certain here
    assert same_view(target, score, patient, pd.Series(["PA"] * 60)) == ()
    assert same_view(target, score, patient, pd.Series([None] * 60)) == ()
    assert same_view(target[:, :0], score[:, :, :0], patient, view) == ()
