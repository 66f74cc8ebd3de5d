from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from agcxr.data.splits import LeakCheck, PatientLeakWarning, assign, assign_folds, check_leaks, draw


def rows(patients: int = 100, films: int = 3) -> pd.DataFrame:
    names = [(f"{p:08d}_{f:03d}.png", str(p)) for p in range(patients) for f in range(films)]
    return pd.DataFrame(names, columns=["image_id", "patient"])


def test_by_patient_is_70_10_20_and_never_leaks():
    made = rows()
    made["split"] = assign(made, "patient", 0)
    assert made.groupby("split")["patient"].nunique().to_dict() == {"train": 70, "val": 10, "test": 20}
    assert check_leaks(made).clean


def test_train_holds_no_patient_out():
    made = rows()
    made["split"] = assign(made, "train", 0)
    assert made.groupby("split")["patient"].nunique().to_dict() == {"train": 90, "val": 10}
    assert check_leaks(made).clean
    with pytest.raises(ValueError, match="1 patients cannot be split into train and val; at least 2 are needed"):
        assign(rows(1), "train", 0)


def test_by_image_is_70_10_20_and_warns():
    made = rows()
    with pytest.warns(PatientLeakWarning, match="films of one patient stand in train and in test"):
        made["split"] = assign(made, "image", 0)
    assert made["split"].value_counts().to_dict() == {"train": 210, "test": 60, "val": 30}
    leaks = check_leaks(made)
    assert not leaks.clean
    assert leaks.patients_train_test > 20
    assert leaks.images_in_two_parts == 0


def test_official_carves_val_from_train_val_by_patient():
    made = rows(80, 2)
    test = [name for name in made["image_id"] if int(name[:8]) % 5 == 0]
    train_val = [
        name.replace(".png", ".jpg") for name in made["image_id"] if name not in test
    ]  # extensions do not count
    made["split"] = assign(made, "official", 3, train_val=train_val, test=test)
    assert set(made.loc[made["split"] == "test", "image_id"]) == set(test)
    assert made.groupby("split")["patient"].nunique().to_dict() == {"train": 56, "val": 8, "test": 16}
    assert check_leaks(made).clean


def test_same_seed_same_split_whatever_the_order_and_almost_without_a_patient():
    made = rows()
    first = assign(made, "patient", 5)
    shuffled = made.sample(frac=1, random_state=1)
    assert assign(shuffled, "patient", 5).sort_index().equals(first)
    assert (assign(made, "patient", 6) != first).any()
    fewer = made[made["patient"] != "42"]
    changed = made.loc[fewer.index[assign(fewer, "patient", 5) != first[fewer.index]], "patient"].nunique()
    assert changed <= 2


@pytest.mark.parametrize("limit", [1, 50, 299])
def test_draw_takes_whole_patients(limit):
    made = rows()
    made = made.drop(index=[0, 1])  # one patient has a single film
    limit = min(limit, len(made))
    drawn = draw(made, 0, limit=limit)
    assert limit - 2 <= len(drawn) <= limit
    assert set(made["patient"].value_counts()[drawn["patient"].unique()]) <= {1, 3}
    assert drawn["patient"].value_counts().equals(made["patient"].value_counts()[drawn["patient"].value_counts().index])
    assert drawn.index.is_monotonic_increasing
    assert len(draw(made, 0, fraction=limit / len(made))) == len(drawn)


def test_draw_is_independent_of_the_split():
    made = rows(300, 1)
    made["split"] = assign(made, "patient", 0)
    share = draw(made, 0, limit=150)["split"].value_counts(normalize=True)
    assert np.abs(share["train"] - 0.7) < 0.1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"limit": 1, "fraction": 0.5}, "give one of them"),
        ({"fraction": 1.5}, "fraction 1.5; expected"),
        ({"limit": 0}, "limit 0; expected at least 1"),
        ({"limit": 2}, "limit 2 is smaller than the films of any one patient"),
    ],
)
def test_bad_draws(options, reason):
    with pytest.raises(ValueError, match=reason):
        draw(rows(), 0, **options)


def test_bad_splits():
    made = rows()
    with pytest.raises(ValueError, match="split 'thirds'; expected one of official, patient, image"):
        assign(made, "thirds", 0)
    with pytest.raises(ValueError, match="2 patients cannot be split"):
        assign(rows(2), "patient", 0)
    with pytest.raises(ValueError, match="the official split needs"):
        assign(made, "official", 0)
    names = list(made["image_id"])
    with pytest.raises(
        ValueError, match=r"1 images stand in neither official list and 0 in both \(first: 00000000_000"
    ):
        assign(made, "official", 0, train_val=names[1:200], test=names[200:])
    with pytest.raises(ValueError, match="0 images stand in neither official list and 2 in both"):
        assign(made, "official", 0, train_val=names[:202], test=names[200:])


def test_leaks_are_counted():
    made = pd.DataFrame(
        {
            "image_id": ["a.png", "a.jpg", "b.png", "c.png", "d.png"],
            "patient": ["1", "1", "2", "2", "3"],
            "split": ["train", "val", "train", "test", "test"],
        }
    )
    leaks = check_leaks(made)
    assert leaks == LeakCheck(patients_train_val=1, patients_train_test=1, patients_val_test=0, images_in_two_parts=1)
    assert "train and val: 1" in str(leaks)


def found(patients: int = 200, films: int = 2) -> pd.DataFrame:
    """Rows with a common finding, one that four patients have and one that nobody has; labels of one are unknown."""
    made = rows(patients, films)
    number = made["patient"].astype(int)
    made["common"] = np.where(number % 3 == 0, 1.0, 0.0)
    made["rare"] = np.where(number.isin([3, 50, 51, 99]) & made["image_id"].str.contains("_000"), 1.0, 0.0)
    made["absent"] = 0.0
    made.loc[number == 7, "common"] = np.nan
    return made


NAMES = ("common", "rare", "absent")


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_every_patient_is_tested_in_one_fold_and_never_leaks(folds):
    made = found()
    parts = assign_folds(made, folds, 0, NAMES)
    assert len(parts) == folds
    tests = pd.concat([part == "test" for part in parts], axis=1)
    assert (tests.sum(axis=1) == 1).all()
    for part in parts:
        assert check_leaks(made.assign(split=part)).clean
        counts = made.assign(split=part).groupby("split")["patient"].nunique()
        assert counts["test"] == 200 // folds
        assert counts["val"] == round((200 - counts["test"]) / 8)


def test_rare_findings_are_dealt_out_evenly():
    made = found()
    for part in assign_folds(made, 4, 1, NAMES):
        tested = made[part == "test"]
        assert tested.loc[tested["rare"] == 1, "patient"].nunique() == 1
        assert tested.loc[tested["common"] == 1, "patient"].nunique() == pytest.approx(67 / 4, abs=2)
    homes = [
        made.loc[(part == "test") & (made["rare"] == 1), "patient"].nunique()
        for part in assign_folds(made, 8, 1, NAMES)
    ]
    assert sorted(homes) == [0, 0, 0, 0, 1, 1, 1, 1]


def test_folds_depend_on_names_and_seed_and_hardly_on_one_patient():
    made = found()
    first = assign_folds(made, 5, 3, NAMES)
    shuffled = made.sample(frac=1, random_state=1)
    for part, again in zip(first, assign_folds(shuffled, 5, 3, NAMES), strict=True):
        assert again.sort_index().equals(part)
    assert any((part != other).any() for part, other in zip(first, assign_folds(made, 5, 4, NAMES), strict=True))
    fewer = made[made["patient"] != "42"]
    for part, other in zip(first, assign_folds(fewer, 5, 3, NAMES), strict=True):
        moved = (part[fewer.index] == "test") != (other == "test")
        assert fewer.loc[moved, "patient"].nunique() <= 5


def test_few_patients_still_have_every_part():
    made = found(3, 1)
    for part in assign_folds(made, 3, 0, NAMES):
        assert sorted(part) == ["test", "train", "val"]
    sizes = [(part == "test").sum() for part in assign_folds(found(11, 1), 4, 0, NAMES)]
    assert sorted(sizes) == [2, 3, 3, 3]


@pytest.mark.parametrize(("patients", "folds"), [(2, 2), (3, 2), (4, 5), (9, 1), (9, 0), (9, -1)])
def test_too_few_patients_or_folds(patients, folds):
    with pytest.raises(ValueError, match=f"{folds} folds of {patients} patients; expected at least 2 folds"):
        assign_folds(found(patients), folds, 0, NAMES)
