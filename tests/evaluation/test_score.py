"""Tables of other programs are understood; what does not fit is named; numbers equal scikit-learn's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from agcxr.evaluation.score import Scored, score, split_column


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
    assert split_column(column) == expected


def check(found: Scored, patients: int = 2) -> None:
    mass = found.analysis.label("Mass")
    assert (mass.positives, mass.negatives, mass.positive_patients) == (3, 5, patients)
    assert mass.branches[-1].auroc.value == pytest.approx(roc_auc_score([1, 1, 0, 0, 0, 0, 1, 0], MASS))


def test_nih_labels_matched_by_stem(tmp_path: Path, labels: Path) -> None:
    path = write(tmp_path / "p.csv", filename=[f"a/b/{name}.jpg" for name in IMAGES], prob_Mass=MASS, prob_Edema=EDEMA)
    found = score(path, labels, resamples=20)
    check(found)
    assert found.matched_by == "stem"
    assert found.analysis.branches == ("scored",)
    assert found.patients_from == str(labels)
    assert (found.analysis.resampling.clusters, found.analysis.resampling.unit) == (4, "patient")
    assert "Atelectasis (not predicted)" in found.left_out
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
    assert found.matched_by == "path"
    assert found.analysis.label("Edema").unknown == 2
    assert found.left_out == ("Fibrosis (no labels)", "Hernia (not predicted)")
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
    assert "1 prediction with an empty cell left out" in str(found)


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
    path = tmp_path / "predictions.parquet"
    frame.to_parquet(path)
    found = score(path, path, resamples=5)
    check(found)
    assert found.patients_from == str(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": IMAGES, "Masses": MASS}, "no column named after a finding; it has image, Masses"),
        ({"picture": IMAGES, "Mass": MASS}, "has no image column among picture, Mass; name one `image`"),
        (
            {"image": ["a", "b"], "Mass": MASS[:2]},
            r"no image of .* could be matched .* \(e.g. 'a' and '00000000_000.png'\)",
        ),
        (
            {"image": [*IMAGES, IMAGES[0]], "Mass": [*MASS, 0.1]},
            r"p.csv: image '00000000_000' occurs more than once \(1 rows too many in all\); keep one row an image",
        ),
        ({"image": IMAGES, "Mass": [100 * p for p in MASS]}, "from 10 to 90; .* percentages, divide them by 100"),
        ({"image": IMAGES, "Mass": [""] * 8}, "every column of a finding in .*p.csv is empty"),
        ({"image": IMAGES, "Mass": [0.5, ""] * 4, "Edema": ["", 0.5] * 4}, "no labelled film has a score for every"),
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
    assert "Hernia (not predicted)" in found.left_out
    assert "Not scored, for they hold only 0 and 1 (labels or calls): columns without a prefix." in str(found)
    assert "Mean over findings, scored: average precision ." in str(found)


def test_what_is_no_table_is_said(tmp_path: Path, labels: Path) -> None:
    path = tmp_path / "book.csv"
    path.write_bytes(b"PK\x03\x04\xff\xfe\xfa")
    with pytest.raises(ValueError, match=r"book.csv cannot be read as CSV .*; save the table as .csv or .parquet"):
        score(path, labels)
