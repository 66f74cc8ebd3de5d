"""Ridges on features: exact against scikit-learn, their penalty by patients, and the head that one makes."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.preprocessing import StandardScaler

from agcxr import metrics
from agcxr.ridge import PENALTIES, fit_head, fit_ridge, patient_folds


@pytest.mark.parametrize("features", [5, 40], ids=["more films than features", "more features than films"])
def test_ridge_is_scikit_learns_on_scaled_features(features):
    rng = np.random.default_rng(0)
    feature, target = rng.normal(3, 2, (24, features)), (rng.random((24, 3)) < 0.4).astype(float)
    ridge = fit_ridge(feature, target, np.arange(24), penalties=(0.5,))
    scaler = StandardScaler().fit(feature)
    expected = SklearnRidge(alpha=0.5 * 24).fit(scaler.transform(feature), target)
    new = rng.normal(3, 2, (7, features))
    np.testing.assert_allclose(ridge(new), expected.predict(scaler.transform(new)) - target.mean(0), atol=1e-10)


def test_ridge_takes_no_notice_of_a_constant_feature_or_an_unknown_label():
    rng = np.random.default_rng(1)
    feature, target = rng.normal(size=(30, 4)), (rng.random((30, 2)) < 0.5).astype(float)
    with_constant = np.concatenate([feature, np.full((30, 1), 7.0)], axis=1)
    plain, wider = (fit_ridge(value, target, np.arange(30), penalties=(0.1,)) for value in (feature, with_constant))
    np.testing.assert_allclose(wider(with_constant), plain(feature), atol=1e-10)
    assert wider.weight_DK[4].tolist() == [0, 0]
    target[:, 1] = np.nan
    assert fit_ridge(feature, target, np.arange(30))(feature)[:, 1].tolist() == [0] * 30


def test_penalty_is_the_best_of_the_inner_folds():
    """One feature of 200 tells; without a penalty the others drown it."""
    rng = np.random.default_rng(2)
    target = (rng.random((120, 1)) < 0.5).astype(float)
    feature = rng.normal(size=(120, 200))
    feature[:, :1] += 2 * target
    chosen = fit_ridge(feature, target, np.arange(120))
    assert chosen.penalty in PENALTIES
    assert chosen.penalty >= 0.1


def test_folds_keep_patients_whole_and_hold_each_out_once():
    patient = np.repeat([f"p{n}" for n in range(11)], [1, 5, 2, 2, 3, 1, 1, 4, 2, 1, 2])
    held_out = []
    for train, test in patient_folds(patient, 5, 0):
        assert not set(patient[train]) & set(patient[test])
        held_out += test.tolist()
    assert sorted(held_out) == list(range(24))
    with pytest.raises(ValueError, match="films of 1 patient; folds by patient need at least 2"):
        patient_folds(["p", "p"], 5, 0)


def test_a_head_ranks_as_its_ridge_and_gives_probabilities():
    rng = np.random.default_rng(3)
    films, patient = 1500, np.repeat(np.arange(500), 3)
    feature = rng.normal(4, 3, (films, 6))
    truth = 1 / (1 + np.exp(-(0.5 * (feature[:, 0] - 4) - 2)))
    target = (rng.random(films) < truth).astype(float)[:, None]
    weight_KD, bias_K = fit_head(feature, target, patient)
    logit = feature @ weight_KD.T + bias_K
    ridge = fit_ridge(feature, target, patient)(feature)
    assert metrics.auroc_table(target, logit) == metrics.auroc_table(target, ridge)
    probability = 1 / (1 + np.exp(-logit[:, 0]))
    assert abs(probability.mean() - target.mean()) < 0.005
    assert np.abs(probability - truth).mean() < 0.03


def test_a_head_of_labels_that_teach_nothing_says_how_often_they_are():
    feature, patient = np.random.default_rng(4).normal(size=(40, 3)), np.arange(40)
    target = np.zeros((40, 3))
    target[:, 1], target[:, 2] = 1, np.nan
    weight_KD, bias_K = fit_head(feature, target, patient)
    assert not weight_KD.any()
    np.testing.assert_allclose(bias_K, [np.log(0.5 / 40.5), np.log(40.5 / 0.5), 0])


def test_a_head_takes_no_notice_of_a_constant_feature():
    rng = np.random.default_rng(5)
    feature, target = rng.normal(size=(60, 3)), (rng.random((60, 1)) < 0.4).astype(float)
    weight_KD, bias_K = fit_head(np.concatenate([feature, np.full((60, 1), 7.0)], 1), target, np.arange(60))
    assert weight_KD[0, 3] == 0
    assert np.isfinite(bias_K).all()
