"""Localisation end to end on films where the answer is known, and its parts on literal examples."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from agcxr.data.prepared import Plan, Prepared, Source
from agcxr.evaluation.boxes import MEASURES
from agcxr.evaluation.leak import PatientLeak
from agcxr.evaluation.localization import (
    CAM,
    METHODS,
    Coverage,
    Covered,
    Localization,
)
from agcxr.evaluation.localize import (
    Case,
    RandomMaps,
    Track,
    cases_of,
    choose,
    choose_cases,
    folds_of,
    localize,
    measure_prior,
    summarise,
)
from agcxr.evaluation.localize_picture import ANNOTATED, CROP
from agcxr.evaluation.page import Page, Section, to_html, to_markdown
from agcxr.evaluation.report_looks import crops, looks
from agcxr.findings import Findings
from agcxr.inference.predictor import Predictor
from agcxr.labels import FINDINGS
from agcxr.models.agcnn import AGCNN
from agcxr.models.checkpoint import Patients
from agcxr.table import Table
from agcxr.values import Attention

SIDE, CELLS = 64, 8
HIT = MEASURES.index("hit")
IOU = MEASURES.index("iou")


def film_with_square(rng: np.random.Generator) -> tuple[np.ndarray, tuple[float, ...]]:
    """A dark film with a bright square of two by two cells, and the square's box as fractions."""
    film = rng.integers(0, 20, (SIDE, SIDE), dtype=np.uint8)
    x, y = rng.integers(0, CELLS - 1, 2) * (SIDE // CELLS)
    film[y : y + 16, x : x + 16] = 230
    return film, (x / SIDE, y / SIDE, (x + 16) / SIDE, (y + 16) / SIDE)


def made_of(collection: str | None) -> Plan:
    return Plan.model_construct(source=Source(name="made", collection=collection), fingerprint="made")


def folder(parts: dict[str, int], seed: int = 0) -> Prepared:
    """Prepared films in memory: each film has a square, called Mass or Nodule in turn; two films a patient."""
    rng = np.random.default_rng(seed)
    drawn = [film_with_square(rng) for _ in range(sum(parts.values()))]
    split = [name for name, count in parts.items() for _ in range(count)]
    index = pd.DataFrame(
        {
            "image_id": [f"{i:04d}.png" for i in range(len(drawn))],
            "patient": [f"{name}{i // 2}" for i, name in enumerate(split)],
            "split": split,
        }
    )
    boxes = pd.DataFrame(
        [(f"{i:04d}.png", i, ("Mass", "Nodule")[i % 2], *box) for i, (_, box) in enumerate(drawn)],
        columns=["image_id", "row", "finding", "x0", "y0", "x1", "y1"],
    )
    return Prepared(
        Path("tiny"),
        np.stack([film for film, _ in drawn]),
        index,
        boxes,
        made_of(None),
    )


class Brightness(nn.Module):
    """A backbone with one channel: the mean brightness of each of 8 x 8 cells. It sees the square and nothing else."""

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(image_BCHW, CELLS).clamp(min=0)


def seeing() -> Predictor:
    """An AG-CNN that finds bright squares, for every finding."""
    model = AGCNN(
        "resnet10t",
        weights="none",
        image_size=SIDE,
        resize=SIDE,
        normalisation="mean",
        attention=Attention(threshold=0.5, min_side=8),
    )
    for branch in (model.global_branch, model.local_branch):
        branch.backbone = Brightness()  # type: ignore[assignment]
        branch.head = nn.Linear(1, len(model.labels))
    model.fusion_head = nn.Linear(2, len(model.labels))
    with torch.no_grad():
        for head in (model.global_branch.head, model.local_branch.head, model.fusion_head):
            head.weight.fill_(1)
    return Predictor(model, device="cpu")


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> tuple[Localization, Path]:
    out = tmp_path_factory.mktemp("localize")
    return localize(seeing(), folder({"test": 24}), out=out, resamples=200, progress=False), out


def test_a_model_that_sees_the_squares_scores_near_the_ceiling_and_far_above_the_floors(found):
    looked = found[0]
    assert (looked.cases, looked.films, looked.patients, looked.grid) == (24, 24, 12, (8, 8))
    assert looked.findings == ("Mass", "Nodule")
    assert looked.score("global").of("hit").value == 1.0
    assert looked.score("fusion").of("hit").value == 1.0
    assert looked.score("ceiling").of("iou").value == pytest.approx(1.0)
    assert looked.score("global").of("iou>0.5").value == 1.0
    assert looked.score("attention").of("iou").value > 0.7
    # A random map points anywhere: the squares are 1/16 of the film.
    assert looked.score("random").of("hit").value == pytest.approx(1 / 16, abs=0.04)
    for floor in ("random", "prior"):
        gap = looked.gap("fusion", floor, "Nodule", "hit")
        assert gap.low > 0.5
        assert gap.p < 0.05
        expected = looked.score("fusion", "Nodule").of("hit").value - looked.score(floor, "Nodule").of("hit").value
        assert gap.value == pytest.approx(expected)


def test_no_score_passes_its_ceiling_in_hits_and_energy(found):
    looked = found[0]
    for finding in (*looked.findings, "mean"):
        for measure in ("hit", "energy"):
            top = looked.score("ceiling", finding).of(measure).value
            assert looked.score("global", finding).of(measure).value <= top + 1e-6
            top = looked.score("ceiling-crop", finding).of(measure).value
            assert looked.score("local", finding).of(measure).value <= top + 1e-6


def test_intervals_hold_their_values_and_the_mean_is_over_findings(found):
    looked = found[0]
    for score in looked.scores:
        assert [m.name for m in score.measures] == list(MEASURES)
        assert all(0 <= m.low <= m.value + 1e-9 <= m.high + 2e-9 <= 1 + 3e-9 for m in score.measures)
    each = [looked.score("local", finding).of("iou").value for finding in looked.findings]
    assert looked.score("local").of("iou").value == pytest.approx(np.mean(each))


def test_thresholds_are_chosen_on_other_patients(found):
    looked = found[0]
    assert looked.fitted == "the other half of the patients of the scored films (two-fold cross-fitting)"
    assert {t.method for t in looked.thresholds} == {"random", "prior", "global", "local", "fusion"}
    assert all((t.fitted_on, t.used_for) == (12, 12) for t in looked.thresholds)


def test_maps_without_evidence_are_counted_and_score_nothing():
    predictor = seeing()
    with torch.no_grad():
        predictor.model.global_branch.head.weight[predictor.labels.index("Nodule")] = -1
    looked = localize(predictor, folder({"test": 8}), rectify="relu", resamples=20, progress=False)
    assert [looked.score("global", finding).empty for finding in ("Mass", "Nodule", "mean")] == [0, 4, 4]
    assert looked.score("fusion").empty == 0
    assert [m.value for m in looked.score("global", "Nodule").measures] == [0.0] * len(MEASURES)


def test_crops_and_examples_describe_the_scored_films(found):
    looked = found[0]
    mean = looked.crops[-1]
    assert (mean.finding, mean.films, mean.fallbacks, mean.fallback_share) == ("mean", 24, 0, 0.0)
    assert 0 < mean.area_low <= mean.area_median <= mean.area_high < 0.2
    assert [(e.finding, e.rank) for e in looked.examples[:3]] == [("Mass", r) for r in ("best", "median", "worst")]
    best, median, worst = looked.examples[:3]
    assert best.iou >= median.iou >= worst.iou


def test_the_files_are_written_and_read_back(found):
    looked, out = found
    assert Localization.load(out) == looked
    assert (out / "localization.png").read_bytes().startswith(b"\x89PNG")


def test_the_text_and_the_published_rows(found):
    looked = found[0]
    wang = next(published for published in looked.published if published.source == "Wang 2017")
    assert wang.by_measure["iobb>0.9"] == 0.209
    assert "iou>0.1" not in wang.by_measure
    assert "Grad-CAM (min-max), fusion" in str(looked)
    assert "24 boxed findings on 24 test films" in str(looked)
    assert looked.empty == "global 0, local 24, fusion 0 of 24 each"
    few = looked.model_copy(update={"scores": tuple(one.model_copy(update={"patients": 19}) for one in looked.scores)})
    many = looked.model_copy(update={"scores": tuple(one.model_copy(update={"patients": 20}) for one in looked.scores)})
    assert "Mass† " in str(few)
    assert str(few).endswith("† Boxes of fewer than 20 patients: p is rough, of one patient there is none.")
    assert "†" not in str(many)
    with pytest.raises(ValueError, match="no score of 'fusion' on 'Hernia'; there are random, prior"):
        looked.score("fusion", "Hernia")


def test_a_p_at_its_floor_says_so_where_resamples_were_left_out(found):
    looked = found[0]
    lost = {"p": 2 / 151, "left_out": 50}
    few = looked.model_copy(update={"gaps": tuple(gap.model_copy(update=lost) for gap in looked.gaps)})
    assert few.resamples == 200
    assert str(few).count("≤.013") == len(looked.findings)
    more = looked.model_copy(update={"gaps": tuple(g.model_copy(update=lost | {"left_out": 0}) for g in looked.gaps)})
    assert "≤" not in str(more)


def test_the_report_shows_every_measure_between_floor_and_ceiling_with_intervals(found):
    looked, out = found
    section = looks(looked, "localization.png")
    page = Page("t", "s", "n", (Section("Summary", ()), section))
    html, text = to_html(page, out), to_markdown(page, out)
    tables = [block for block in section.blocks if isinstance(block, Table)]
    mean, hits, mass, nodule = tables
    titles = [row[0].text for row in mean.cells]
    assert titles[:3] == ["Floor: random map", "Floor: centre prior", "Attention box"]
    assert titles[-3:] == ["Published: Wang 2017", "Published: Grad-CAM++", "Published: random map"]
    assert mean.head[1:] == (
        "Hit",
        "Energy",
        "Mean",
        *(f"> .{t}" for t in "12345"),
        *(f"> {t}" for t in (".1", ".25", ".5", ".75", ".9")),
    )
    assert [cell.text for cell in mean.cells[-3][1:]] == [""] * 8 + [".63", ".49", ".33", ".24", ".21"]
    assert [cell.text for cell in mean.cells[-2][1:]] == [""] * 3 + [".62", ".42", ".28", ".18", ".10"] + [""] * 5
    assert all(re.fullmatch(r"(\.\d\d|1\.00)–(\.\d\d|1\.00)", cell.soft) for row in mean.rows[:8] for cell in row[1:])
    assert (mass.folded, nodule.folded) == ("Mass, 12 cases", "Nodule, 12 cases")
    assert [row[0] for row in hits.rows] == ["Mass†", "Nodule†", "Mean over findings"]
    assert "lies inside the annotated box in 100 % of the cases" in text
    assert "more often than that of a random map" in text
    assert '<figure class="wide">' in html
    assert "](localization.png)" in text


def test_published_rows_stand_beside_the_nihs_boxes_only():
    data = folder({"test": 4})
    drawn = replace(data, plan=made_of("phantom, seed 0"))
    looked = localize(seeing(), drawn, resamples=10, progress=False)
    assert looked.published == ()
    text = to_markdown(Page("t", "s", "n", (looks(looked, "localization.png"),)), Path())
    assert "Published" not in text
    nih = replace(data, plan=made_of("nih"))
    assert len(localize(seeing(), nih, resamples=10, progress=False).published) == 3


def test_how_maps_were_made_and_which_are_empty_is_said():
    """The crop holds the square and nothing else, so its map is flat: 0 everywhere once its lowest value is taken."""
    predictor = seeing()
    with torch.no_grad():
        predictor.model.global_branch.head.weight[predictor.labels.index("Nodule")] = -1
    for rectify, said in (
        ("relu", "global 4, local 0, fusion 0 of 8 each"),
        ("minmax", "global 0, local 8, fusion 0 of 8 each"),
    ):
        looked = localize(predictor, folder({"test": 8}), rectify=rectify, resamples=20, progress=False)
        text = to_markdown(Page("t", "s", "n", (looks(looked, "localization.png"),)), Path())
        assert f"Maps that are 0 everywhere have no box and score 0: {said}" in text
        assert CAM[rectify] in text
        assert "Selvaraju et al." in text


def test_what_the_crop_shows_is_bold_both_ways():
    row = Covered(
        finding="Mass", boxes=20, patients=20, coverage=0.2, chance=0.4, gap=-0.2, gap_low=-0.3, gap_high=-0.1, p=0.01
    )
    one = row.model_copy(update={"finding": "Hernia", "gap_low": np.nan, "gap_high": np.nan})
    text = to_markdown(Page("t", "s", "n", (crops(Coverage(resamples=99, rows=(row, one))),)), Path())
    assert "**▾ −.200** (−.300 to −.100)" in text
    assert "| −.200 (one patient) |" in text
    assert "Differences in bold have an interval that leaves out 0; ▾ marks those for the worse." in text


def test_words_are_no_stronger_than_the_intervals(found):
    looked = found[0]

    def said(low: float, high: float) -> str:
        gaps = tuple(gap.model_copy(update={"low": low, "high": high}) for gap in looked.gaps)
        section = looks(looked.model_copy(update={"gaps": gaps}), "localization.png")
        return section.blocks[0].text

    assert ": less often than that of a random map (" in said(-0.2, -0.1)
    assert ": not surely more often than that of a random map (" in said(-0.2, 0.1)
    assert "and more often than that of a map that only knows where the finding usually lies" in said(0.1, 0.2)
    lone = said(np.nan, np.nan)
    assert lone.endswith("(floor: centre prior), without an interval: too few patients for any claim.")
    assert "often" not in lone


def test_a_colour_means_the_same_in_every_picture(found):
    """As `evaluate` and `explain` draw them: amber what was annotated, blue where it attended."""
    assert (ANNOTATED, CROP) == ("#ffb347", "#4dd0e1")
    text = to_markdown(Page("t", "s", "n", (looks(found[0], "localization.png"),)), Path())
    assert "Amber: annotated. Blue, dashed: the attended box. Green: the box of the map." in text


def test_batches_do_not_change_the_result(found):
    again = localize(seeing(), folder({"test": 24}), resamples=200, batch_size=5, progress=False)
    for mine, theirs in zip(again.scores, found[0].scores, strict=True):
        np.testing.assert_allclose(
            [m.value for m in mine.measures], [m.value for m in theirs.measures], atol=1e-5, err_msg=mine.method
        )


def test_validation_boxes_are_preferred_for_fitting():
    data = folder({"train": 6, "val": 40, "test": 8})
    chosen = choose_cases(data, "test", Findings.of(FINDINGS))
    assert [len(part) for part in (chosen.scored, chosen.fitting, chosen.extra)] == [8, 40, 6]
    assert (
        chosen.fitted_words() == "40 boxed findings of validation films; the prior also on 6 of other patients' films"
    )
    cases = (*chosen.scored, *chosen.fitting)
    (fold,) = folds_of(cases, 8, chosen.extra, np.random.default_rng(0))
    assert fold.score_N.tolist() == [True] * 8 + [False] * 40
    assert (fold.fit_N == ~fold.score_N).all()


def test_only_the_split_is_scored_when_validation_boxes_are_fitted_on():
    looked = localize(seeing(), folder({"val": 40, "test": 8}), resamples=20, progress=False)
    assert (looked.cases, looked.crops[-1].films, {e.row >= 40 for e in looked.examples}) == (8, 8, {True})
    assert all((t.fitted_on, t.used_for) == (40, 8) for t in looked.thresholds)
    assert looked.score("fusion").of("hit").value == 1.0


def test_boxes_are_of_what_they_mean():
    chosen = choose_cases(folder({"test": 4}), "test", Findings.of(["Pulmonary nodule", "Fracture"]))
    assert {case.finding for case in chosen.scored} == {"Pulmonary nodule"}
    assert chosen.left_out == ("2 cases of Mass, which the model does not know",)


def test_few_validation_boxes_serve_the_prior_only():
    chosen = choose_cases(folder({"val": 4, "test": 8}), "test", Findings.of(FINDINGS))
    assert [len(part) for part in (chosen.scored, chosen.fitting, chosen.extra)] == [8, 0, 4]


def test_patients_of_scored_films_are_never_fitted_on():
    data = folder({"train": 2, "val": 40, "test": 8})
    data.index.loc[data.index["split"] == "test", "patient"] = "val1"
    chosen = choose_cases(data, "test", Findings.of(FINDINGS))
    assert len(chosen.fitting) == 0
    assert not {case.patient for case in chosen.extra} & {"val1"}


def test_halves_share_no_patient():
    chosen = choose_cases(folder({"test": 12}), "test", Findings.of(FINDINGS))
    for fold in folds_of(chosen.scored, 12, (), np.random.default_rng(0)):
        sides = [
            {c.patient for c, on in zip(chosen.scored, mask, strict=True) if on} for mask in (fold.fit_N, fold.score_N)
        ]
        assert len(sides[0]) == len(sides[1]) == 3
        assert not sides[0] & sides[1]


def test_what_cannot_be_scored_is_refused_or_named():
    with pytest.raises(ValueError, match="no film of the val split of tiny has a box"):
        choose_cases(folder({"test": 4}), "val", Findings.of(FINDINGS))
    with pytest.raises(ValueError, match="the boxes to score are of 1 patient"):
        localize(seeing(), folder({"test": 2}), progress=False)
    data = folder({"test": 4})
    chosen = choose_cases(data, "test", Findings.of(["Mass"]))
    assert chosen.left_out == ("2 cases of Nodule, which the model does not know",)


def test_patients_that_were_trained_on_are_refused_unless_allowed():
    predictor, data = seeing(), folder({"test": 4})
    predictor.model.card = predictor.model.new_card(train_patients=Patients.of(["test1"]))
    with pytest.raises(PatientLeak, match="trained on 1 of the 2 patients of 'test'"):
        localize(predictor, data, progress=False)
    looked = localize(predictor, data, resamples=10, allow_leak=True, progress=False)
    assert (looked.leak.shared_patients, looked.leak.shared_films) == (1, 2)


def test_boxes_of_a_finding_on_a_film_are_one_case():
    data = folder({"test": 2})
    boxes = pd.concat([data.boxes, data.boxes.iloc[[0]].assign(x0=0.0, y0=0.0, x1=0.5, y1=0.5)], ignore_index=True)
    first, second = cases_of(boxes, data.index, "test")
    assert (first.finding, first.box_B4.shape, second.finding, second.box_B4.shape) == (
        "Mass",
        (2, 4),
        "Nodule",
        (1, 4),
    )


def test_the_threshold_with_the_best_mean_over_findings_is_chosen():
    value_NTV = np.zeros((3, 19, len(MEASURES)))
    # Two cases of a prefer the first threshold by .3 each, one case of b the second by .4: findings weigh the same.
    value_NTV[:2, 0, IOU], value_NTV[2, 1, IOU] = 0.3, 0.4
    assert choose(value_NTV, np.array(["a", "a", "b"])) == 1


def case(box: tuple[float, ...], finding: str = "Mass", patient: str = "p") -> Case:
    return Case(0, "a.png", patient, finding, np.array([box]))


def test_the_random_floor_is_the_expectation_over_its_maps():
    noise = RandomMaps.draw((4, 4), np.array([0.0, 0, 1, 1]), np.random.default_rng(0), count=100)
    value = noise.measure([case((0.0, 0.0, 0.5, 1.0)), case((0.0, 0.0, 1.0, 1.0))])
    assert value.shape == (2, 19, len(MEASURES))
    assert value[0, 0, HIT] == pytest.approx(0.5, abs=0.12)
    assert value[0, 0, MEASURES.index("energy")] == pytest.approx(0.5, abs=0.03)
    assert value[1, :, MEASURES.index("iobb")] == pytest.approx(np.ones(19))
    assert value[1, 0, MEASURES.index("energy")] == pytest.approx(1.0, abs=1e-5)


def test_the_prior_knows_where_a_finding_usually_is():
    fitted_on = [case((0.5, 0.5, 1, 1)), case((0.5, 0.5, 1, 1)), case((0, 0, 0.5, 0.5), "Nodule")]
    usual, elsewhere, unseen = measure_prior(
        [case((0.5, 0.5, 1, 1)), case((0, 0.5, 0.5, 1)), case((0.5, 0.5, 1, 1), "Hernia")], fitted_on
    )
    assert usual[:, IOU].tolist() == [1.0] * 19
    assert elsewhere[:, HIT].tolist() == [0.0] * 19
    assert unseen[0, MEASURES.index("energy")] == pytest.approx(2 / 3)  # the mean of all three boxes


def test_intervals_are_over_patients_not_over_films():
    """Ten films of one patient and one of another: a resample holds one patient twice, or each once."""
    cases = [case((0, 0, 1, 1), patient="a") for _ in range(10)] + [case((0, 0, 1, 1), patient="b")]
    value_NV = np.zeros((11, len(MEASURES)))
    value_NV[10] = 1
    tracks = [Track(method, value_NV, np.full(11, -1)) for method in METHODS]
    scores, gaps = summarise(cases, tracks, 300, np.random.default_rng(0))
    hit = scores[0].of("hit")
    assert hit.value == pytest.approx(1 / 11)
    assert (hit.low, hit.high) == (0.0, 1.0)
    assert all(gap.low < 0 == gap.value < gap.high for gap in gaps)  # so few films that agree leave much open


def test_one_patient_has_no_interval():
    cases = [case((0, 0, 1, 1), "Mass", f"p{i}") for i in range(9)] + [case((0, 0, 1, 1), "Hernia", "p0")]
    value_NV = np.tile(np.linspace(0, 1, 10)[:, None], (1, len(MEASURES)))
    tracks = [Track(method, value_NV, np.full(10, -1)) for method in METHODS]
    scores, gaps = summarise(cases, tracks, 300, np.random.default_rng(0))
    by_name = {score.finding: score.of("hit") for score in scores if score.method == "fusion"}
    assert (by_name["Hernia"].value, by_name["Mass"].value) == (1.0, pytest.approx(4 / 9))
    assert np.isnan(by_name["Hernia"].low)
    assert by_name["Mass"].low < 4 / 9 < by_name["Mass"].high
    # The mean is over both findings, so it has no interval either; resamples that lack Hernia's patient have no value.
    assert np.isnan(by_name["mean"].low)
    assert all(np.isnan(gap.low) and np.isnan(gap.p) for gap in gaps if gap.finding == "mean")
    assert by_name["mean"].value == pytest.approx((1 + 4 / 9) / 2)
    assert all(np.isnan(gap.low) and np.isnan(gap.p) for gap in gaps if gap.finding == "Hernia")
    # p0 is missing with probability (8/9)^9 = .35, the masses never.
    left_out = {gap.finding: gap.left_out for gap in gaps}
    assert left_out["Mass"] == 0
    assert left_out["mean"] == left_out["Hernia"] == pytest.approx(104, abs=25)
