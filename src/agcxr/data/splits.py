"""Which image belongs to train, val and test: by the official lists, by patient, or by image as in the paper.

A patient's (or image's) place is the rank of a hash of the seed and the name. So a split is the same on every machine,
does not depend on the order of the table, and one film more or less moves at most the few at the borders.
"""

import hashlib
import itertools
import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import Literal, get_args

import pandas as pd
from pydantic import BaseModel, ConfigDict

from agcxr.data.radiograph import stem, without_suffix

Rule = Literal["official", "patient", "image", "test", "train"]
Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = get_args(Part)

FRACTIONS = (0.7, 0.1, 0.2)
"""Train, val, test of the paper and of the lite recipe."""

OFFICIAL_VAL = 0.125
"""Share of the official train_val patients that becomes val: 10 of the 80 %."""


class LeakCheck(BaseModel):
    """How many patients and images stand in more than one part. `clean` where it is none."""

    model_config = ConfigDict(frozen=True)

    patients_train_val: int
    patients_train_test: int
    patients_val_test: int
    images_in_two_parts: int

    @property
    def clean(self) -> bool:
        return not any(self.model_dump().values())

    def __str__(self) -> str:
        if self.clean:
            return "no patient is in two parts"
        return (
            f"patients shared by train and val: {self.patients_train_val}, train and test: {self.patients_train_test}, "
            f"val and test: {self.patients_val_test}; images in two parts: {self.images_in_two_parts}"
        )


class PatientLeakWarning(UserWarning):
    """A split lets films of one patient into several parts."""


def assign(
    rows: pd.DataFrame, rule: Rule, seed: int, *, train_val: Collection[str] = (), test: Collection[str] = ()
) -> pd.Series:
    """Rows (image_id, patient) -> "train" | "val" | "test" for each, aligned with rows.

    official: `test` as listed; val is carved from `train_val` by patient (OFFICIAL_VAL). patient: 70/10/20 of patients.
    image: 70/10/20 of the images as in the paper (warns: patients leak). test: every film is a test film. train: none
    is, 90/10 of patients, for a model to give away whose recipe folds have measured. Names in lists are compared
    without extension. Raises ValueError for an image in neither or both lists, and for too few patients.
    """
    if rule == "official":
        return _official(rows, seed, train_val, test)
    if rule == "test":
        return pd.Series("test", index=rows.index)
    if rule not in get_args(Rule):
        raise ValueError(f"split {rule!r}; expected one of {', '.join(get_args(Rule))}")
    units = rows["image_id"] if rule == "image" else rows["patient"]
    names, parts = ranked(units.unique(), seed), PARTS[: 2 if rule == "train" else 3]
    if len(names) < len(parts):
        unit, into = "image" if rule == "image" else "patient", ", ".join(parts[:-1]) + f" and {parts[-1]}"
        raise ValueError(f"{len(names)} {unit}s cannot be split into {into}; at least {len(parts)} are needed")
    n_test = max(1, round(FRACTIONS[2] * len(names))) if rule != "train" else 0
    n_val = max(1, round(FRACTIONS[1] * len(names)))
    part = dict.fromkeys(names, "train")
    part |= dict.fromkeys(names[:n_test], "test") | dict.fromkeys(names[n_test : n_test + n_val], "val")
    if rule == "image" and rows["patient"].nunique() < len(rows):
        warnings.warn(
            "split by image: films of one patient stand in train and in test, so test results are too good; "
            "use the split by patient (or official) unless you repeat the paper",
            PatientLeakWarning,
            stacklevel=2,
        )
    return units.map(part)


def _official(rows: pd.DataFrame, seed: int, train_val: Collection[str], test: Collection[str]) -> pd.Series:
    if not train_val or not test:
        raise ValueError(
            "the official split needs train_val_list.txt and test_list.txt; give their folder with --lists"
        )
    in_test, in_train = {stem(name) for name in test}, {stem(name) for name in train_val}
    stems = rows["image_id"].map(stem)
    is_test, is_train = stems.isin(in_test), stems.isin(in_train)
    odd = rows.loc[is_test == is_train, "image_id"]
    if len(odd):
        both = int((is_test & is_train).sum())
        raise ValueError(
            f"{len(odd) - both} images stand in neither official list and {both} in both (first: {odd.iloc[0]}); "
            "the lists do not belong to this table: use another --lists or --split patient"
        )
    names = ranked(rows.loc[is_train, "patient"].unique(), seed)
    val = set(names[: max(1, round(OFFICIAL_VAL * len(names)))] if len(names) > 1 else ())
    part = rows["patient"].isin(val).map({True: "val", False: "train"})
    return part.mask(is_test, "test")


def assign_folds(rows: pd.DataFrame, folds: int, seed: int, findings: Sequence[str]) -> tuple[pd.Series, ...]:
    """Cross-validation by patient: the parts of each fold, aligned with rows (patient, and a column a finding).

    Every patient is a test patient of exactly one fold. Of the others an eighth (at least one) is val, as of the
    official lists, the rest train. Folds differ by at most one patient in size, and have about as many patients of
    every finding. Like every split they depend on names and seed, and a patient more or less moves the few at the
    borders. Raises ValueError for fewer than two folds, or too few patients to have all parts in each.
    """
    order = _spread(rows, seed, findings)
    patients = len(order)
    if folds < 2 or patients < folds or patients - -(-patients // folds) < 2:
        raise ValueError(
            f"{folds} folds of {patients} patients; expected at least 2 folds, each with a patient to test and 2 others"
        )
    borders = [patients * fold // folds for fold in range(folds + 1)]
    parts = []
    for start, stop in itertools.pairwise(borders):
        rest = order[stop:] + order[:start]
        val = max(1, round(OFFICIAL_VAL * len(rest)))
        part: dict[str, Part] = dict.fromkeys(order[start:stop], "test")
        part.update(dict.fromkeys(rest[:val], "val"))
        part.update(dict.fromkeys(rest[val:], "train"))
        parts.append(rows["patient"].map(part))
    return tuple(parts)


def _spread(rows: pd.DataFrame, seed: int, findings: Sequence[str]) -> list[str]:
    """Patients in an order of which any stretch has its share of those with each finding: at random, but those whose
    rarest finding is the same (any of their films shows it) at equal distances."""
    has = (rows[list(findings)] == 1).groupby(rows["patient"]).any()
    rarest_first = has.sum().sort_values(kind="stable").index
    rarest = has[rarest_first].idxmax(axis=1).where(has.any(axis=1), "")
    place: dict[str, float] = {}
    kinds = (*findings, "")
    for k, kind in enumerate(kinds):
        names = ranked(rarest.index[rarest == kind], seed, purpose="folds")
        place |= {name: ((i + 0.5) / len(names) + k / len(kinds)) % 1 for i, name in enumerate(names)}
    return sorted(ranked(place, seed, purpose="folds"), key=place.__getitem__)


def draw(rows: pd.DataFrame, seed: int, *, limit: int | None = None, fraction: float | None = None) -> pd.DataFrame:
    """At most `limit` images (or `fraction` of them) as whole patients drawn at random; table order is kept.

    A patient with more films than are left to draw is passed over, so the count is met exactly or nearly.
    """
    if limit is not None and fraction is not None:
        raise ValueError("limit and fraction were both given; give one of them")
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction {fraction}; expected more than 0 and at most 1")
        limit = max(1, round(fraction * len(rows)))
    if limit is None or limit >= len(rows):
        return rows
    if limit < 1:
        raise ValueError(f"limit {limit}; expected at least 1 image")
    counts = rows["patient"].value_counts()
    # A key other than the split's: with the same one a small draw would hold only test patients.
    left, chosen = limit, []
    for patient in ranked(counts.index, seed, purpose="draw"):
        if counts[patient] <= left:
            chosen.append(patient)
            left -= int(counts[patient])
            if not left:
                break
    if not chosen:
        raise ValueError(f"limit {limit} is smaller than the films of any one patient; raise it")
    return rows[rows["patient"].isin(chosen)]


def check_leaks(rows: pd.DataFrame) -> LeakCheck:
    """Count the patients and images of rows (image_id, patient, split) that stand in more than one part."""
    patients = {part: set(rows.loc[rows["split"] == part, "patient"]) for part in PARTS}
    parts_of_image = rows.assign(key=rows["image_id"].map(without_suffix)).groupby("key")["split"].nunique()
    return LeakCheck(
        patients_train_val=len(patients["train"] & patients["val"]),
        patients_train_test=len(patients["train"] & patients["test"]),
        patients_val_test=len(patients["val"] & patients["test"]),
        images_in_two_parts=int((parts_of_image > 1).sum()),
    )


def ranked(names: Iterable[str], seed: int, purpose: str = "split") -> list[str]:
    """Names in a random order that depends on each name, the seed and the purpose alone."""
    return sorted(names, key=lambda name: hashlib.blake2b(f"{purpose}:{seed}:{name}".encode(), digest_size=8).digest())
