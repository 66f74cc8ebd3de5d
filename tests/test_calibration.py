import numpy as np
import pytest

from agcxr.calibration import (
    Calibration,
    Curve,
    FindingCalibration,
    OperatingPoint,
    Scale,
    at_prevalence,
    fit_calibration,
    fit_curve,
    operating_points,
    parse_prevalence,
)
from agcxr.labels import NO_FINDING


def _films(n=4000, slope=0.5, intercept=-1.0, seed=0):
    """Scores whose true probability is sigmoid(slope * logit(score) + intercept)."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 2, n)
    p = 1 / (1 + np.exp(-(slope * logit + intercept)))
    return (rng.random(n) < p).astype(float), 1 / (1 + np.exp(-logit))


def test_curves_on_literal_scores():
    assert Curve(kind="none")(np.array([0.3]))[0] == 0.3
    # logit(0.8) = ln 4; half of it is ln 2: odds 2
    assert Curve(kind="temperature", slope=0.5)(np.array([0.8]))[0] == pytest.approx(2 / 3)
    # odds 4 times e^ln(1/4) = 1
    assert Curve(kind="platt", intercept=float(np.log(0.25)))(np.array([0.8]))[0] == pytest.approx(0.5)
    steps = Curve(kind="isotonic", knots=(0.2, 0.6), values=(0.1, 0.5))
    np.testing.assert_allclose(steps(np.array([0.0, 0.2, 0.4, 0.9])), [0.1, 0.1, 0.3, 0.5])


def test_platt_recovers_the_truth():
    target, score = _films(40_000)
    curve = fit_curve(target, score, "platt")
    assert curve.slope == pytest.approx(0.5, abs=0.03)
    assert curve.intercept == pytest.approx(-1.0, abs=0.03)


def test_temperature_has_no_intercept():
    target, score = _films(20_000, slope=0.5, intercept=0.0)
    curve = fit_curve(target, score, "temperature")
    assert (curve.slope, curve.intercept) == (pytest.approx(0.5, abs=0.03), 0.0)


def test_platt_by_hand():
    # Two scores, so slope and intercept meet the mean target of each exactly. Platt's smoothing with 4 positives and 4
    # negatives: 5/6 and 1/6. At .8, logit ln 4: three positives of four, (3 * 5/6 + 1/6) / 4 = 2/3, logit ln 2.
    # At .2, logit -ln 4: one of four, 1/3, logit -ln 2. So the slope is a half and the intercept 0.
    score, target = np.repeat([0.8, 0.2], 4), np.array([1.0, 1, 1, 0, 1, 0, 0, 0])
    curve = fit_curve(target, score, "platt")
    assert (curve.slope, curve.intercept) == (pytest.approx(0.5, abs=1e-4), pytest.approx(0, abs=1e-4))
    # Scores of .8 and .5 with the same targets: ln 2 = slope * ln 4 + b, -ln 2 = b.
    curve = fit_curve(target, np.repeat([0.8, 0.5], 4), "platt")
    assert (curve.slope, curve.intercept) == (pytest.approx(1, abs=1e-4), pytest.approx(-np.log(2), abs=1e-4))


def test_temperature_by_hand():
    # As above: ln 2 = slope * ln 4 at both scores, by symmetry without an intercept. A temperature of 2.
    score, target = np.repeat([0.8, 0.2], 4), np.array([1.0, 1, 1, 0, 1, 0, 0, 0])
    assert fit_curve(target, score, "temperature").slope == pytest.approx(0.5, abs=1e-4)


def test_isotonic_is_pool_adjacent_violators():
    # scores in order with targets 0 1 0 1: the middle pair violates and is pooled to 1/2
    curve = fit_curve(np.array([0.0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4]), "isotonic")
    np.testing.assert_allclose(curve(np.array([0.1, 0.2, 0.3, 0.4])), [0, 0.5, 0.5, 1])


def test_calibration_never_reverses_an_order():
    target = np.array([1.0] * 20 + [0.0] * 20)
    score = np.linspace(0.1, 0.9, 40)  # the wrong way round
    for kind in ("temperature", "platt", "isotonic"):
        assert (np.diff(fit_curve(target, score, kind)(score)) >= 0).all()


def test_one_class_cannot_be_calibrated():
    with pytest.raises(ValueError, match="cannot fit platt: 0 of 3 films are positive; both classes are needed"):
        fit_curve(np.zeros(3), np.array([0.1, 0.2, 0.3]), "platt")


def test_operating_points_on_ten_films():
    # scores 0.05 ... 0.95; positives at .35 .65 .75 .85 .95
    score = np.arange(10) / 10 + 0.05
    target = np.array([0, 0, 0, 1, 0, 0, 1, 1, 1, 1], dtype=float)
    points = operating_points(target, score)
    assert points["youden"].threshold == pytest.approx(0.65)
    assert (points["youden"].sensitivity, points["youden"].specificity) == (0.8, 1.0)
    assert points["sensitivity95"].threshold == pytest.approx(0.35)
    assert points["sensitivity95"].specificity == pytest.approx(0.6)
    assert points["specificity95"].threshold == pytest.approx(0.65)


def test_no_operating_point_lies_over_every_score():
    # 1 of 10 negatives ties with the best positive: under 95 % specificity unless nothing is called
    target, score = np.array([1.0] + [0.0] * 10), np.array([1.0, 1.0] + [0.1] * 9)
    points = operating_points(target, score)
    assert points.keys() == {"youden", "sensitivity95"}
    assert points["youden"].threshold == 1.0
    assert points["youden"].specificity == pytest.approx(0.9)


def test_a_finding_too_rare_to_calibrate_has_no_operating_point():
    target, score = _films()
    for positives, kept in ((9, None), (10, {"youden", "sensitivity95", "specificity95"})):
        rare = np.zeros(len(target))
        rare[:positives] = 1
        made = fit_calibration(rare[:, None], score[:, None], np.arange(len(target)).astype(object), ("Hernia",))
        points = made.findings["Hernia"].points
        assert (None if points is None else points.keys()) == kept
    # cards of earlier versions hold points of such findings; nothing is called by them
    old = _calibration()
    few = old.findings["Mass"].model_copy(update={"positives": 9})
    old = old.model_copy(update={"findings": old.findings | {"Mass": few}})
    assert np.isnan(Scale.of(old, LABELLED).cut.score_K[0])


def test_prevalence_correction_by_hand():
    # p = .5 where half are ill: likelihood ratio 1, so the probability is the prevalence wherever it goes
    assert at_prevalence(np.array([0.5]), 0.5, 0.1)[0] == pytest.approx(0.1)
    # odds 4 at prior odds 1/4 -> likelihood ratio 16 -> at prior odds 1: 16/17
    assert at_prevalence(np.array([0.8]), 0.2, 0.5)[0] == pytest.approx(16 / 17)
    with pytest.raises(ValueError, match="wanted prevalence is 1.0; expected a share between 0 and 1"):
        at_prevalence(np.array([0.5]), 0.5, 1.0)


def test_fit_picks_the_kind_that_fits_and_keeps_rare_findings_raw():
    target, score = _films()
    rare = np.zeros(len(target))
    rare[:3] = 1
    targets, scores = np.stack([target, rare], 1), np.stack([score, score], 1)
    targets[:100, 0] = np.nan
    patients = np.repeat(np.arange(2000), 2).astype(object)
    made = fit_calibration(targets, scores, patients, ("Effusion", "Hernia"))
    assert made.method in ("platt", "isotonic")
    assert made.log_loss[made.method] == min(made.log_loss.values()) < made.log_loss["none"]
    assert made.findings["Effusion"].films == 3900
    assert made.findings["Hernia"].curve.kind == "none"
    assert made.findings["Hernia"].positives == 3
    calibrated = made.probabilities(scores, ("Effusion", "Hernia"))
    np.testing.assert_array_equal(calibrated[:, 1], scores[:, 1])
    assert abs(calibrated[100:, 0].mean() - target[100:].mean()) < 0.01
    assert Calibration.model_validate_json(made.model_dump_json()) == made


LABELLED = ("Mass", "Hernia", NO_FINDING)


def _calibration():
    """Mass: the score itself, common to a fifth; Hernia: never seen; No Finding: half of the films."""
    raw = Curve(kind="none")
    half = OperatingPoint(threshold=0.5, sensitivity=0.8, specificity=0.7)
    findings = {
        "Mass": FindingCalibration(curve=raw, prevalence=0.2, positives=20, films=100, points={"youden": half}),
        "Hernia": FindingCalibration(curve=raw, prevalence=0.0, positives=0, films=100),
        NO_FINDING: FindingCalibration(curve=raw, prevalence=0.5, positives=50, films=100, points={"youden": half}),
    }
    return Calibration(method="none", log_loss={}, findings=findings)


def test_a_scale_corrects_probabilities_and_moves_no_call():
    scores = np.array([[0.8, 0.1, 0.5]])
    plain = Scale.of(_calibration(), LABELLED)
    np.testing.assert_array_equal(plain.probabilities(scores), scores)
    np.testing.assert_array_equal(plain.cut.score_K, [0.5, np.nan, 0.5])
    assert plain.cut.fitted_K.tolist() == [True, False, True]
    # odds 4 at prior odds 1/4 -> likelihood ratio 16 -> 16/17 where half are ill; .5 -> odds 1, ratio 4 -> 4/5
    for wanted in (0.5, {"lung mass": 0.5}):
        shifted = Scale.of(_calibration(), LABELLED, "youden", wanted)
        np.testing.assert_allclose(shifted.probabilities(scores), [[16 / 17, 0.1, 0.5]])
        np.testing.assert_array_equal(shifted.cut.score_K, plain.cut.score_K)
        np.testing.assert_allclose(shifted.cut.probability_K, [0.8, np.nan, 0.5])
    assert np.isnan(Scale.of(_calibration(), LABELLED, "specificity95").cut.score_K).all()


@pytest.mark.parametrize(
    ("point", "prevalence", "message"),
    [
        ("best", None, "operating point is 'best'; expected one of youden, sensitivity95, specificity95"),
        ("youden", {"Flu": 0.1}, "prevalence names 'Flu', which this model does not know; it knows Mass, Hernia, No"),
        ("youden", {"Mass": 2.0}, "prevalence of Mass is 2.0; expected a share between 0 and 1, both excluded"),
        ("youden", 0.0, "prevalence is 0; expected a share"),
        ("youden", 10.0, "prevalence is 10; expected a share between 0 and 1, both excluded: 10 % is 0.1"),
        ("youden", {"Hernia": 0.1}, "prevalence of Hernia cannot be corrected: fewer than 10 validation"),
    ],
)
def test_a_scale_that_cannot_be_says_why(point, prevalence, message):
    with pytest.raises(ValueError, match=message):
        Scale.of(_calibration(), LABELLED, point, prevalence)


def test_a_prevalence_for_every_finding_wants_one_that_is_calibrated():
    known = _calibration()
    none = known.model_copy(update={"findings": {name: known.findings[name] for name in ("Hernia", NO_FINDING)}})
    assert np.isnan(Scale.of(known, LABELLED, prevalence=0.1).prevalence_K).tolist() == [False, True, True]
    with pytest.raises(ValueError, match=r"no finding can be corrected for a prevalence of 0.1, as none is calibrated"):
        Scale.of(none, LABELLED, prevalence=0.1)
    with pytest.raises(ValueError, match="prevalence is 10; expected a share"):
        Scale.of(none, LABELLED, prevalence=10)


def test_prevalence_as_people_write_it():
    assert parse_prevalence("0.02") == 0.02
    assert parse_prevalence("Effusion=0.1, Pleural Thickening = .02") == {"Effusion": 0.1, "Pleural Thickening": 0.02}
    for text in ("a few", "Mass", "Mass=often", "Mass=0.1,0.2", "=0.1", ""):
        with pytest.raises(ValueError, match=r"expected a share for every finding, such as 0.02, or pairs"):
            parse_prevalence(text)
