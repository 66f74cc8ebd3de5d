"""Tables of other programs are understood; what does not fit is named; numbers equal scikit-learn's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from agcxr.cli import main
from agcxr.evaluation.score import score
from agcxr.evaluation.score_results import Scored
from agcxr.evaluation.score_tables import split_column
from agcxr.findings import CHESTXRAY14
from agcxr.inference.table import Table


def write(path: Path, **columns: object) -> Path:
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Eight films of four patients, as the NIH writes them."""
    path = tmp_path / "labels.csv"
    path.write_text(
        "Image Index,Finding Labels,Patient ID,OriginalImage[Width,Height]\n"
        + "\n".join(
            f"0000000{n // 2}_00{n % 2}.png,{names},{n // 2},2000,2000"
            for n, names in enumerate(
                ["Mass|Edema", "Mass", "No Finding", "Edema", "No Finding", "No Finding", "Mass", "Edema"]
            )
        )
    )
    return path


IMAGES = [f"0000000{n // 2}_00{n % 2}" for n in range(8)]
MASS = [0.9, 0.4, 0.1, 0.5, 0.3, 0.2, 0.8, 0.2]
EDEMA = [0.8, 0.3, 0.2, 0.4, 0.6, 0.1, 0.2, 0.9]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("Edema", ("", "Edema")),
        ("prob_Pleural_Thickening", ("prob", "Pleural_Thickening")),
        ("pleural thickening", ("", "Pleural_Thickening")),
        ("No_Finding", ("", "No Finding")),
        ("my-model.v2 Lung Mass", ("my-model.v2", "Mass")),
        ("fusion:infiltrate", ("fusion", "Infiltration")),
        ("box_x0", None),
        ("Massive", None),
        ("Edema_score", ("score", "Edema")),
        ("Lung Mass-proba", ("proba", "Mass")),
        ("Mass_cm", None),
    ],
)
def test_columns_are_found_in_any_spelling(column: str, expected: tuple[str, str] | None) -> None:
    assert split_column(column, CHESTXRAY14) == expected


def check(found: Scored, patients: int = 2) -> None:
    mass = found.analysis.label("Mass")
    assert (mass.positives, mass.negatives, mass.positive_patients) == (3, 5, patients)
    assert mass.branches[-1].auroc.value == pytest.approx(roc_auc_score([1, 1, 0, 0, 0, 0, 1, 0], MASS))


def test_nih_labels_matched_by_name(tmp_path: Path, labels: Path) -> None:
    path = write(tmp_path / "p.csv", filename=[f"a/b/{name}.jpg" for name in IMAGES], prob_Mass=MASS, prob_Edema=EDEMA)
    found = score(path, labels, resamples=20)
    check(found)
    assert found.matched_by == "file name"
    assert found.analysis.branches == ("scored",)
    assert found.patients_from == str(labels)
    assert (found.analysis.resampling.clusters, found.analysis.resampling.unit) == (4, "patient")
    absent = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Nodule", "Pneumonia", "Pneumothorax")
    absent += ("Consolidation", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia", "No Finding")
    assert found.left_out == {"not predicted": absent}
    assert f"Findings not predicted: {', '.join(absent).replace('_', ' ')}." in str(found).splitlines()
    assert "Not scored" not in str(found)
    assert found.analysis.mean.findings == ("Mass", "Edema")
    assert "Mean of 2" in str(found)


def test_one_column_a_finding_without_patients(tmp_path: Path) -> None:
    truth = write(
        tmp_path / "t.csv",
        image=IMAGES,
        Mass=[1, 1, 0, 0, 0, 0, 1, 0],
        label_Edema=[1, 0, -1, 1, "", 0, 0, 1],
        Hernia=[0] * 8,
    )
    path = write(tmp_path / "p.csv", image=IMAGES[::-1], Mass=MASS[::-1], Edema=EDEMA[::-1], Fibrosis=MASS)
    found = score(path, truth, resamples=20)
    check(found, patients=3)
    assert found.matched_by == "file name"
    assert found.analysis.label("Edema").unknown == 2
    assert found.left_out == {"not predicted": ("Hernia",), "without labels": ("Fibrosis",)}
    assert found.patients_from is None
    assert found.analysis.resampling.unit == "film"
    assert "every film was taken as its own patient" in str(found)


def test_branches_of_our_own_predictions(tmp_path: Path, labels: Path) -> None:
    path = write(
        tmp_path / "p.csv",
        image=IMAGES,
        **{f"{p}_{f}": v for p in ("prob", "global", "local") for f, v in (("Mass", MASS), ("Edema", EDEMA))},
        calibrated_Mass=MASS,
        calibrated_Edema=[""] * 8,
        call_Mass=[0, 1] * 4,
        error=[""] * 8,
    )
    found = score(path, labels, resamples=20)
    assert found.analysis.branches == ("global", "local", "fusion")
    assert [(g.branch, g.against) for g in found.analysis.mean.gaps if g.measure == "auroc"] == [
        ("fusion", "global"),
        ("fusion", "local"),
    ]
    assert {(g.value, g.p) for g in found.analysis.mean.gaps} == {(0.0, 1.0)}


def test_against_another_file(tmp_path: Path, labels: Path) -> None:
    ours = write(tmp_path / "ours.csv", image=IMAGES, Mass=MASS, Edema=EDEMA)
    theirs = write(
        tmp_path / "theirs.csv", Path=[f"x/{n}.png" for n in IMAGES[:0:-1]], Mass=[0.5] * 7, Edema=EDEMA[:0:-1]
    )
    found = score(ours, labels, against=theirs, resamples=20)
    assert found.analysis.branches == ("theirs", "ours")
    assert found.films == 7
    assert found.labels_without_predictions == 1
    mass = found.analysis.label("Mass")
    assert mass.branches[0].auroc.value == 0.5
    assert mass.branches[1].auroc.value == pytest.approx(roc_auc_score([1, 0, 0, 0, 0, 1, 0], MASS[1:]))
    edema = found.analysis.label("Edema")
    assert edema.branches[0].auroc.value == edema.branches[1].auroc.value


def test_rows_without_score_are_counted(tmp_path: Path, labels: Path) -> None:
    path = write(tmp_path / "p.csv", image=[*IMAGES, "other"], Mass=[*MASS[:-1], "", 0.5])
    found = score(path, labels, resamples=5)
    assert (found.films, found.without_score) == (7, 1)
    assert (found.predictions_without_labels, found.labels_without_predictions) == (1, 0)
    lines = str(found).splitlines()
    assert "Not scored: 1 prediction without labels." in lines
    assert "Left out: 1 film without a single score." in lines


def test_logits(tmp_path: Path, labels: Path) -> None:
    logit = np.log(np.array(MASS) / (1 - np.array(MASS)))
    path = write(tmp_path / "p.csv", image=IMAGES, Mass=logit)
    with pytest.raises(
        ValueError, match=r"scores run from -2.197\d+ to 2.197\d+; .* if they are logits, pass --logits"
    ):
        score(path, labels)
    check(score(path, labels, logits=True, resamples=5))


def test_parquet_of_an_evaluation(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image_id": IMAGES, "patient": [n // 2 for n in range(8)]})
    frame["label_Mass"] = np.float32([1, 1, 0, 0, 0, 0, 1, 0])
    for branch in ("global", "local", "fusion"):
        frame[f"{branch}_Mass"] = np.float64(MASS)
    frame["calibrated_Mass"] = np.float64(MASS) / 2
    path = tmp_path / "predictions.parquet"
    frame.to_parquet(path)
    found = score(path, path, resamples=5)
    check(found)
    assert found.analysis.branches == ("global", "local", "fusion"), "calibrated scores have the order of the fusion"
    assert found.patients_from == str(path)


def test_parquet_with_empty_cells(tmp_path: Path) -> None:
    """As `evaluate` writes a label that is not known; a score and a patient that are missing."""
    labels = pd.DataFrame({"image_id": IMAGES, "patient": ["a", None, "b", "b", "c", "c", "d", "d"]})
    labels["label_Mass"] = np.float32([1, 1, 0, 0, 0, np.nan, 1, 0])
    labels.to_parquet(tmp_path / "t.parquet")
    pd.DataFrame({"image_id": IMAGES, "prob_Mass": [*MASS[:7], None]}).to_parquet(tmp_path / "p.parquet")
    found = score(tmp_path / "p.parquet", tmp_path / "t.parquet", resamples=5)
    assert (found.films, found.without_score, found.analysis.label("Mass").unknown) == (7, 1, 1)
    assert found.analysis.resampling.clusters == 5  # the film without a patient is its own


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": IMAGES, "Masses": MASS}, "no column named after a finding; it has image, Masses"),
        ({"picture": IMAGES, "Mass": MASS}, "has no image column among picture, Mass; name one `image`"),
        (
            {"image": ["a", "b"], "Mass": MASS[:2]},
            r"no image of .*p.csv is in .*labels.csv \(e.g. 'a' and '00000000_000.png'\); their names must",
        ),
        (
            {"image": [*IMAGES, IMAGES[0]], "Mass": [*MASS, 0.1]},
            r"p.csv: image '00000000_000' occurs more than once \(1 rows too many in all\); keep one row an image",
        ),
        ({"image": IMAGES, "Mass": [100 * p for p in MASS]}, "from 10 to 90; .* percentages, divide them by 100"),
        ({"image": IMAGES, "Mass": [""] * 8}, "every column of a finding in .*p.csv is empty"),
        (
            {"image": IMAGES, "a_Mass": [0.5, ""] * 4, "b_Mass": ["", 0.5] * 4},
            r"p.csv: no film with labels in .*labels.csv has a score of every branch; fill the empty cells",
        ),
        ({"image": [f"{f}/x" for f in "ab"], "Mass": MASS[:2]}, "'x' alone stands for several images of .*p.csv"),
        ({"image": IMAGES, "Mass": MASS, "mass": MASS}, r"two columns for Mass \(the second is 'mass'\)"),
        ({"image": IMAGES, "Mass": [*MASS[:-1], "high"]}, r"column 'Mass': 'high' is not a number \(1 such cells\)"),
    ],
)
def test_bad_predictions_are_named(tmp_path: Path, labels: Path, columns: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(write(tmp_path / "p.csv", **columns), labels)


def test_bad_labels_are_named(tmp_path: Path, labels: Path) -> None:
    path = write(tmp_path / "p.csv", image=IMAGES, Mass=MASS)
    with pytest.raises(ValueError, match="has no labels: neither a column `Finding Labels`"):
        score(path, write(tmp_path / "t.csv", image=IMAGES, other=MASS))
    with pytest.raises(ValueError, match="labels must be 0, 1, or empty or -1 for unknown, found 0.1"):
        score(path, write(tmp_path / "t.csv", image=IMAGES, Mass=MASS))
    with pytest.raises(ValueError, match="unknown finding 'Cough' in the labels"):
        score(path, write(tmp_path / "t.csv", image=IMAGES, finding_labels=["Cough"] * 8))
    with pytest.raises(ValueError, match="no finding is on both sides: predicted are Mass, labelled Edema"):
        score(path, write(tmp_path / "t.csv", image=IMAGES, Edema=[0, 1] * 4))
    with pytest.raises(ValueError, match="there is no file .*nowhere.csv"):
        score(path, tmp_path / "nowhere.csv")


def test_columns_that_were_not_read_are_named(tmp_path: Path, labels: Path) -> None:
    path = write(tmp_path / "p.csv", image=IMAGES, prob_Mass=MASS, Cough=MASS, study=IMAGES, error=[""] * 8)
    truth = write(tmp_path / "t.csv", image=IMAGES, Mass=[1, 1, 0, 0, 0, 0, 1, 0], Fracture=[0] * 8, age=[50] * 8)
    found = score(path, truth, resamples=5)
    check(found, patients=3)
    assert found.not_read == {str(path): ("Cough", "study"), str(truth): ("Fracture",)}
    text = str(found).splitlines()
    assert f"Columns of {path} that were not read, as they name no finding of ours: Cough, study." in text
    assert f"Columns of {truth} that were not read, as they name no finding of ours: Fracture." in text
    written = Table(("Mass",), calibrated=True, also=("picture", "dicom", "dicom_reason", "fhir")).columns
    cells = {name: MASS if name.endswith("Mass") else [""] * 8 for name in written} | {"image": IMAGES}
    assert score(write(path, **cells), labels, resamples=5).not_read == {}


@pytest.mark.parametrize("mark", ["|", ";", ", "])
def test_one_column_of_class_names(tmp_path: Path, mark: str) -> None:
    names = [f"lung mass{mark}Edema", "Mass", "normal", "edema", "No Finding", f"Cough{mark}TB", "mass", "Cough"]
    path = write(tmp_path / "p.csv", image=IMAGES, Mass=MASS, Hernia=MASS)
    found = score(path, write(tmp_path / "t.csv", image=IMAGES, label=names), resamples=5)
    check(found, patients=3)
    assert found.left_out == {"not predicted": ("Edema", "No Finding"), "without labels": ("Hernia",)}
    assert "Labels: class names left out, not findings of ours: Cough (2), TB (1)." in str(found).splitlines()


def test_patients_are_the_same_however_they_are_written(tmp_path: Path) -> None:
    truth = write(
        tmp_path / "t.csv",
        image=IMAGES,
        patient=["13", "13.0", "00000013", " 13", "P7", "7", "1e1", "nan"],
        Mass=["yes", "True", "0", "0.0", "no", "0", "1", "F"],
    )
    found = score(write(tmp_path / "p.csv", image=IMAGES, Mass=MASS), truth, resamples=5)
    check(found)
    assert found.analysis.resampling.clusters == 5  # 13, P7, 7, 1e1, and the film without one
    several = "Labels: 1 patients are written in several ways (13 and 13.0 and 00000013): each counts as one patient."
    assert several in str(found).splitlines()


def test_a_table_as_others_write_it(tmp_path: Path, labels: Path) -> None:
    """Truth and probabilities side by side, percent signs, a finding nobody scored, semicolons, another order."""
    rows = [
        f"x;{IMAGES[n]}.png;{100 * MASS[n]:g} %;{EDEMA[n]};;{n % 2};{(n + 1) % 2}" for n in (3, 1, 2, 0, 7, 6, 5, 4)
    ]
    path = tmp_path / "theirs.csv"
    path.write_text("\n".join(["study;filename;prob_Mass;prob_Edema;prob_Hernia;Mass;Edema", *rows]))
    found = score(path, labels, resamples=5)
    check(found)
    assert found.analysis.branches == ("scored",)
    assert found.analysis.mean.findings == ("Mass", "Edema")
    assert found.not_scored == ("without a prefix",)
    assert "Hernia" in found.left_out["not predicted"]
    assert "Not scored, for they hold only 0 and 1 (labels or calls): columns without a prefix." in str(found)
    assert "Mean over findings: Brier score ." in str(found)


def test_what_is_no_table_is_said(tmp_path: Path, labels: Path) -> None:
    path = tmp_path / "book.csv"
    path.write_bytes(b"PK\x03\x04\xff\xfe\xfa")
    with pytest.raises(
        ValueError, match=r"book.csv cannot be read as a table .*; save it as .csv \(UTF-8\) or .parquet"
    ):
        score(path, labels)


def test_an_empty_cell_leaves_out_its_finding_alone(tmp_path: Path, labels: Path) -> None:
    """Without its negative film at .5, Mass is ranked perfectly; Edema keeps all films: 14 of 15 pairs."""
    gap = [*MASS[:3], "", *MASS[4:]]
    path = write(
        tmp_path / "p.csv", image=IMAGES, prob_Mass=MASS, global_Mass=gap, prob_Edema=EDEMA, global_Edema=EDEMA
    )
    found = score(path, labels, resamples=5)
    mass, edema = found.analysis.label("Mass"), found.analysis.label("Edema")
    assert (found.films, found.without_score) == (8, 0)
    assert [(c.finding, c.films, c.without_score, c.unknown) for c in found.findings] == [
        ("Mass", 7, 1, 0),
        ("Edema", 8, 0, 0),
    ]
    assert [branch.auroc.value for branch in mass.branches] == [1, 1], "both branches lose the film: they are paired"
    assert edema.branches[1].auroc.value == pytest.approx(14 / 15)
    assert "Films that lack a score, left out of that finding alone: Mass 1." in str(found).splitlines()


UID = "1.2.276.0.7230010.3.1.4.8323329"


@pytest.mark.parametrize("pattern", [UID + ".{}.dcm", "out/" + UID + ".{}.png", UID + ".{}"])
def test_dots_in_uids_are_no_extensions(tmp_path: Path, pattern: str) -> None:
    truth = write(tmp_path / "t.csv", image=[f"{UID}.{n}" for n in range(8)], Mass=[1, 1, 0, 0, 0, 0, 1, 0])
    path = write(tmp_path / "p.csv", SOPInstanceUID=[pattern.format(n) for n in range(8)], Mass=MASS)
    found = score(path, truth, image_column="SOPInstanceUID", resamples=5)
    check(found, patients=3)
    assert found.matched_by == "file name"


CHEXPERT = [f"patient{64541 + n // 3}/study{n // 3 % 2 + 1}/view{n % 3 + 1}_frontal.jpg" for n in range(8)]


@pytest.mark.parametrize(
    ("predicted", "labelled", "by"),
    [
        ("valid/{}", "CheXpert-v1.0-small/valid/{}", "the last 4 parts of their paths"),
        ("D:\\films\\valid\\{}", "CheXpert-v1.0-small/valid/{}", "the last 4 parts of their paths"),
        ("{}", "{}", "the last 3 parts of their paths"),
    ],
)
def test_paths_are_matched_by_their_ends(tmp_path: Path, predicted: str, labelled: str, by: str) -> None:
    """Three patients by their folders; one of them has the positive films 0 and 1, another film 6."""
    truth = write(tmp_path / "t.csv", Path=[labelled.format(n) for n in CHEXPERT], Mass=[1, 1, 0, 0, 0, 0, 1, 0])
    path = write(tmp_path / "p.csv", image=[predicted.format(n) for n in CHEXPERT], Mass=MASS)
    found = score(path, truth, resamples=5)
    check(found, patients=2)
    assert found.matched_by == by
    assert (found.analysis.resampling.clusters, found.analysis.resampling.unit) == (3, "patient")
    assert f"Patients: from the paths in {truth}, such as patient64541." in str(found).splitlines()


def test_patients_of_films_without_one(tmp_path: Path) -> None:
    names = [*(f"files/p10/p1000003{n}/s1/x{n}.dcm" for n in (2, 2, 3)), "a/b/s1/y.dcm"]
    names[1] = names[1].replace("x2", "z2")
    truth = write(tmp_path / "t.csv", image=names, Mass=[1, 0, 0, 1])
    path = write(tmp_path / "p.csv", image=names, Mass=MASS[:4])
    assert score(path, truth, resamples=5).analysis.resampling.clusters == 3, "p10000032, p10000033 and the last film"
    truth = write(tmp_path / "t.csv", image=names, patient=[7, 7, "", ""], Mass=[1, 0, 0, 1])
    assert score(path, truth, resamples=5).analysis.resampling.clusters == 3, "an empty cell is no patient"


def test_decimal_commas(tmp_path: Path, labels: Path) -> None:
    rows = [f"{name};{value:g};{value:.1e}".replace(".", ",") for name, value in zip(IMAGES, MASS, strict=True)]
    path = tmp_path / "p.csv"
    path.write_text("\n".join(["image;Mass;Edema", *rows]))
    check(score(path, labels, resamples=5))
    path.write_text("\n".join(["image,Mass", *(row.rpartition(";")[0].replace(";", ",") for row in rows)]))
    with pytest.raises(
        ValueError, match=r"p.csv has rows with more cells .* decimals written with a comma \(0,258\)\?"
    ):
        score(path, labels)
    path.write_text("image,Mass\na,0\nb,0,258\n")
    with pytest.raises(ValueError, match=r"Then put semicolons between the cells"):
        score(path, labels)


VALIDATION = [0.9] * 8 + [0.5] * 2 + [0.7] + [0.4] * 9
"""Ten films with a mass, then ten without. Youden's point: .5 (ten and nine of ten right); 95 % of those with it: .5;
95 % of those without: .9, for at .7 and .5 only nine are right."""


@pytest.fixture
def validation(tmp_path: Path) -> Path:
    names = [f"val_{n}" for n in range(20)]
    both = {f"{prefix}_Mass": VALIDATION for prefix in ("prob", "global")}
    return write(tmp_path / "val.csv", image=names, **both, label_Mass=[1] * 10 + [0] * 10)


def test_operating_points_are_chosen_there_and_measured_here(tmp_path: Path, labels: Path, validation: Path) -> None:
    """Fusion at .5 calls .9, .5, .8: two of three positives, one of five negatives; global calls the positives only."""
    other = [0.9, 0.6, 0.1, 0.4, 0.3, 0.2, 0.8, 0.2]
    path = write(
        tmp_path / "p.csv", image=IMAGES, prob_Mass=MASS, global_Mass=other, prob_Edema=EDEMA, global_Edema=EDEMA
    )
    found = score(path, labels, points_from=validation, resamples=50)
    mass = found.analysis.label("Mass")
    measured = [(p.point, p.threshold, p.sensitivity.value, p.specificity.value) for p in mass.branches[1].points]
    assert measured == [
        ("youden", 0.5, pytest.approx(2 / 3), pytest.approx(4 / 5)),
        ("sensitivity95", 0.5, pytest.approx(2 / 3), pytest.approx(4 / 5)),
        ("specificity95", 0.9, pytest.approx(1 / 3), 1.0),
    ]
    gaps = {(gap.measure, gap.point): gap.value for gap in mass.gaps}
    assert gaps["sensitivity", "youden"] == pytest.approx(-1 / 3)
    assert gaps["specificity", "youden"] == pytest.approx(-1 / 5)
    assert gaps["sensitivity", "specificity95"] == 0
    assert np.isnan(found.analysis.label("Edema").branches[1].points[0].threshold)
    assert mass.chosen_on == 10
    assert [(c.file, c.films, c.patients_shared) for c in found.points_from] == [(str(validation), 20, 0)]
    text = str(found)
    assert re.search("Youden's point, fusion\n\nFinding +Threshold", text)
    assert "No such point (it takes 10 films with the finding and 10 without it): Edema." in text
    assert f"Thresholds were chosen on 20 films of {validation}; a film is called at or over them." in text


def test_points_that_no_finding_has_are_a_line_and_no_tables(tmp_path: Path, labels: Path) -> None:
    validation = write(tmp_path / "val.csv", image=["a", "b"], prob_Mass=[0.1, 0.9], label_Mass=[0, 1])
    path = write(tmp_path / "p.csv", image=IMAGES, prob_Mass=MASS)
    found = score(path, labels, points_from=validation, resamples=5)
    none = "No operating points: no finding has enough films to choose them on (it takes 10 films with the finding and"
    for text in (str(found), found.markdown()):
        assert text.count(f"{none} 10 without it).") == 1
        assert "Youden" not in text
        assert "specificity" not in text


def test_points_of_two_programs(tmp_path: Path, labels: Path, validation: Path) -> None:
    """Labels of validation films may stand among the others; each program is called at its own thresholds."""
    ours = write(tmp_path / "ours.csv", image=IMAGES, Mass=MASS)
    theirs = write(tmp_path / "theirs.csv", image=IMAGES, Mass=[p / 2 for p in MASS])
    truth = tmp_path / "all.csv"
    rows = [f"val_{n},{'Mass' if n < 10 else 'No Finding'},{n % 4 if n < 2 else 100 + n},," for n in range(20)]
    truth.write_text("\n".join([labels.read_text(), *rows]))
    names = [f"val_{n}" for n in range(20)]
    own_val = write(tmp_path / "own_val.csv", image=names, Mass=VALIDATION)
    their_val = write(tmp_path / "their_val.csv", image=names, Mass=[p / 2 for p in VALIDATION])
    found = score(ours, truth, against=theirs, points_from=[own_val, their_val], resamples=5)
    mass = found.analysis.label("Mass")
    assert found.analysis.branches == ("theirs", "ours")
    assert [branch.points[0].threshold for branch in mass.branches] == [0.25, 0.5]
    assert {gap.value for gap in mass.gaps if gap.point} == {0}
    assert [one.branches for one in found.points_from] == [("ours",), ("theirs",)]
    assert [one.labels_file for one in found.points_from] == [str(truth)] * 2
    assert "Caution: 2 patients there are among the scored ones too, by their names." in str(found)
    alone = score(ours, truth, against=theirs, points_from=own_val, resamples=5).analysis.label("Mass")
    assert [np.isnan(branch.points[0].threshold) for branch in alone.branches] == [True, False]


def test_bad_points_are_named(tmp_path: Path, labels: Path, validation: Path) -> None:
    path = write(tmp_path / "p.csv", image=IMAGES, prob_Mass=MASS, global_Mass=MASS)
    with pytest.raises(
        ValueError, match=r"8 films of .*p.csv are films of .*p.csv \(the same labels' rows\); .* apart from"
    ):
        score(path, labels, points_from=path)
    with pytest.raises(ValueError, match=r"--points-from names 2 files, but predictions come from 1"):
        score(path, labels, points_from=[validation, validation])
    plain = write(tmp_path / "plain.csv", image=["a", "b"], Mass=[0.1, 0.2], label_Mass=[0, 1])
    with pytest.raises(ValueError, match=r"plain.csv holds scores of scored, .*p.csv also of global, fusion"):
        score(path, labels, points_from=plain)


def test_scored_films_are_known_in_other_digits(tmp_path: Path) -> None:
    """Six digits on one side, float32 on the other; labels beside both, as `evaluate` writes them."""
    values = [0.1234564, 0.8999996, 0.5000004, 0.25] * 5
    truth = [1, 0] * 10
    names = [f"{n}.png" for n in range(20)]
    path = write(tmp_path / "p.csv", image=names, Mass=[f"{p:.6f}" for p in values])
    labels = write(tmp_path / "t.csv", image=names, Mass=truth)
    exact = tmp_path / "val.parquet"
    frame = pd.DataFrame({"image_id": names, "label_Mass": truth, "fusion_Mass": np.float32(values)})
    frame.to_parquet(exact)
    with pytest.raises(
        ValueError, match=r"20 films of .*val.parquet are films of .*p.csv \(the same names and scores\)"
    ):
        score(path, labels, points_from=exact)
    frame["fusion_Mass"] += np.float32(3e-6)  # other films of the same names; the last has no score on either side
    frame.loc[19, "fusion_Mass"] = np.nan
    frame.to_parquet(exact)
    write(path, image=names, Mass=[*(f"{p:.6f}" for p in values[:19]), ""])
    assert score(path, labels, points_from=exact, resamples=5).points_from[0].films == 19


def test_scored_films_are_known_by_their_labels(tmp_path: Path, labels: Path) -> None:
    """The validation films' labels stand in the same table: the row is the film, whatever its scores are."""
    path = write(tmp_path / "p.csv", image=IMAGES, Mass=MASS)
    other = write(tmp_path / "val.csv", image=IMAGES[6:], Mass=[0.5, 0.6])
    with pytest.raises(ValueError, match=r"2 films of .*val.csv are films of .*p.csv \(the same labels' rows\)"):
        score(path, labels, points_from=other)


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_list_of_findings_says_nothing(tmp_path: Path, empty: str) -> None:
    lists = ["Mass", "Mass|Edema", "No Finding", empty, empty, "No Finding", "Mass", "Edema"]
    path = write(tmp_path / "p.csv", image=IMAGES, Mass=MASS)
    found = score(path, write(tmp_path / "t.csv", image=IMAGES, finding_labels=lists), resamples=5)
    mass = found.analysis.label("Mass")
    assert (mass.positives, mass.negatives, mass.unknown) == (3, 3, 2)
    assert [(c.films, c.unknown) for c in found.findings] == [(6, 2)]
    nulls = tmp_path / "t.parquet"
    pd.DataFrame({"image": IMAGES, "Finding Labels": [text.strip() or None for text in lists]}).to_parquet(nulls)
    assert score(path, nulls, resamples=5).analysis.label("Mass").unknown == 2


def test_level_and_seed(tmp_path: Path, labels: Path) -> None:
    path = write(tmp_path / "p.csv", image=IMAGES, Edema=EDEMA)

    def ends(**how: float) -> tuple[float, float]:
        auroc = score(path, labels, resamples=200, **how).analysis.label("Edema").branches[0].auroc  # type: ignore[arg-type]
        return auroc.low, auroc.high

    assert ends(level=0.5)[0] > ends(level=0.95)[0]
    assert ends(seed=3) == ends(seed=3)
    assert score(path, labels, seed=3, resamples=5).analysis.resampling.seed == 3
    with pytest.raises(ValueError, match="level is 95; expected a share between 0 and 1, such as 0.95"):
        score(path, labels, level=95)


def test_a_column_that_no_table_has(tmp_path: Path, labels: Path) -> None:
    path = write(tmp_path / "p.csv", image=IMAGES, Mass=MASS)
    with pytest.raises(
        ValueError, match=r"--patient-column is 'pat', but .*p.csv and .*labels.csv have no such column"
    ):
        score(path, labels, patient_column="pat")


def test_the_command_writes_results_and_tables(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "p.csv", image=IMAGES, Mass=MASS, Edema=EDEMA)
    command = ["score", "p.csv", "--labels", "labels.csv", "--resamples", "5", "--level", "0.9", "--seed", "1"]
    assert main([*command, "--out", "o/r.json", "o/r.md"]) == 0
    shown = capsys.readouterr().out
    assert "AUROC with 90 % intervals: 5 resamples of 4 patients; seed 1." in shown
    read = Scored.model_validate_json((tmp_path / "o/r.json").read_text())
    assert str(read) == shown.rstrip("\n"), "the file holds all that is shown"
    table = (tmp_path / "o/r.md").read_text().splitlines()
    assert table[0] == "# Scores of p.csv"
    assert "| Finding | Films | Positives | AUROC | DeLong | Average precision |" in table
    assert "- 8 films, matched by file name." in table
    assert main([*command, "--out", "r.txt"]) == 2
    assert (
        "cannot write r.txt; expected results as .json, tables as .md, or all estimates as .csv"
        in capsys.readouterr().err
    )


def test_the_example_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/score.md: its files and its command give its output, word for word."""
    page = (Path(__file__).parents[2] / "docs" / "score.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name, text in re.findall(r"^`(\S+\.csv)`:\n\n```\n(.*?)```", page, flags=re.M | re.S):
        Path(name).write_text(text)
    command, shown = re.search(
        r"```bash\nagcxr (score theirs.csv [^\n]*)\n```\n\n```\n(.*?)```", page, flags=re.S
    ).groups()  # type: ignore[union-attr]
    assert main(command.split()) == 0
    assert capsys.readouterr().out == shown
