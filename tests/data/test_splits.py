from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from agcxr.data.splits import LeakCheck, PatientLeakWarning, assign, check_leaks, draw


def rows(patients: int = 100, films: int = 3) -> pd.DataFrame:
    names = [(f"{p:08d}_{f:03d}.png", str(p)) for p in range(patients) for f in range(films)]
    return pd.DataFrame(names, columns=["image_id", "patient"])


def test_by_patient_is_70_10_20_and_never_leaks():
    made = rows()
    made["split"] = assign(made, "patient", 0)
    assert made.groupby("split")["patient"].nunique().to_dict() == {"train": 70, "val": 10, "test": 20}
    assert check_leaks(made).clean


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
