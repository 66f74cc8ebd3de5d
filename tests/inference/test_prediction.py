import numpy as np
import pytest

from agcxr.inference.prediction import Score
from agcxr.labels import FINDINGS, LABELS
from inference.make import prediction


def test_top_ranks_findings_and_leaves_out_no_finding():
    fusion = np.linspace(0.1, 0.9, 15, dtype=np.float32)  # No Finding, the last label, is the highest
    top = prediction(fusion_K=fusion).top(2)
    assert [score.finding for score in top] == ["Hernia", "Pleural_Thickening"]
    assert top[0] == Score("Hernia", float(fusion[13]))
    assert len(prediction().top(99)) == len(FINDINGS)


def test_probability_knows_other_spellings_and_branches():
    given = prediction(global_K=np.arange(15, dtype=np.float32) / 20)
    assert given.probability("pleural effusion", "global") == pytest.approx(0.1)
    assert given.probability("No Finding", "global") == pytest.approx(0.7)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown finding 'Measles'; this model knows Atelectasis, "):
        prediction().probability("Measles")
    with pytest.raises(ValueError, match="unknown branch 'both'; expected one of global, local, fusion"):
        prediction().branch("both")


def test_heat_lands_in_its_window_and_nowhere_else():
    heat = np.array([[0, 1], [0, 0]], np.float32)
    given = prediction(heat_HW=heat, width=12, height=8, window=(2.0, 2.0, 10.0, 6.0))
    placed = given.heat_in_original()
    assert placed.shape == (8, 12)
    assert placed.dtype == np.float32
    inside = np.zeros((8, 12), bool)
    inside[2:6, 2:10] = True
    assert placed[~inside].max() == 0
    assert placed[2, 8:10].tolist() == [1, 1]  # beyond the outermost cell centres the value is held
    assert placed[2:6, 2:10].sum() == pytest.approx(8, abs=0.3)  # a quarter of the window's 32 pixels


def test_heat_at_the_view_s_own_size_is_the_heat():
    heat = np.random.default_rng(0).random((8, 8), np.float32)
    given = prediction(heat_HW=heat, width=80, height=40, window=(0.0, 0.0, 80.0, 40.0))
    np.testing.assert_allclose(given.heat_in_original(8, 8), heat, atol=1e-6)


def test_labels_default_to_the_project_s_order():
    assert prediction().labels == LABELS
