"""Are there patients among films whom the model was trained on? Its card says so, by hashes of their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from agcxr.data.external import UNDER_OTHER_NAMES
from agcxr.data.prepared import Member, Prepared
from agcxr.evaluation.results import LeakResult
from agcxr.models.checkpoint import Card

Use = Literal["evaluate", "calibrate"]
CURES: dict[Use, str] = {
    "evaluate": "so its results there would be too good; evaluate a split that shares no patients with training, or "
    "pass --allow-leak to go on and have the report say so",
    "calibrate": "so it is surer of them than of others, and a calibration fitted there would not hold; calibrate on "
    "films that share no patients with training, or pass --allow-leak to go on and have the card and reports say so",
}
"""What follows from a leak, and what to do."""


class PatientLeak(ValueError):
    """The split holds patients that the checkpoint was trained on."""


def check_films(
    card: Card | None, films: Prepared, rows: np.ndarray, split: str, *, allow: bool, use: Use = "evaluate"
) -> LeakResult:
    """`check_leak` for the patients of some rows of a prepared folder, each by the collection that it is of."""
    return _check(card, list(films.patients(rows)), split, allow, use)


def check_each(
    cards: Sequence[Card | None], films: Prepared, rows: np.ndarray, split: str, *, allow: bool, use: Use = "evaluate"
) -> LeakResult:
    """`check_films` for every model of an average: the worst of them; unchecked where one of them is."""
    each = [check_films(card, films, rows, split, allow=allow, use=use) for card in cards]
    worst = max(each, key=lambda leak: (leak.shared_patients, leak.shared_films))
    unchecked = next((leak for leak in each if not leak.checked), worst)
    return worst.model_copy(update={"checked": unchecked.checked, "why": unchecked.why})


def check_leak(
    card: Card | None,
    patients: pd.Series,
    split: str,
    *,
    collection: str | None,
    allow: bool,
    use: Use = "evaluate",
) -> LeakResult:
    """Patients of a split (one name a film) that the checkpoint's card lists as trained on. `collection`: whose
    patients they are, as the prepared folder's plan says. `use`: what the films are for, for the words.

    Raises PatientLeak where there are some and they are not allowed.
    """
    whose = Member(name=collection or "", collection=collection, fingerprint="", films=len(patients))
    return _check(card, [(whose, patients)], split, allow, use)


def _check(
    card: Card | None, people: Sequence[tuple[Member, pd.Series]], split: str, allow: bool, use: Use
) -> LeakResult:
    """people: the patients of each collection, one a film."""
    if card is None or card.train_patients is None:
        return LeakResult(checked=False, shared_patients=0, shared_films=0, allowed=allow)
    trained, why, by_number = card.train_patients, "", ""
    shared = on_films = every = films = 0
    for whose, patients in people:
        every, films = every + patients.nunique(), films + len(patients)
        untold = [_unchecked(group.collection, whose.collection) for group in trained.groups]
        why = why or next(filter(None, untold), "")
        if all(untold):
            continue
        known = trained.known(patients, whose.collection, whose.fingerprint)
        shared, on_films = shared + len(known), on_films + int(patients.isin(known).sum())
        if known and not by_number and whose.fingerprint not in {group.films for group in trained.groups}:
            by_number = _by_number(trained.collection, whose.collection)
    if shared and not allow:
        raise PatientLeak(
            f"the model was trained on {shared:,} of the {every:,} patients of {split!r} "
            f"({on_films:,} of {films:,} films), {CURES[use]}{by_number}"
        )
    return LeakResult(checked=not why, why=why, shared_patients=shared, shared_films=on_films, allowed=allow)


def _unchecked(trained: str | None, collection: str | None) -> str:
    """Why names of patients cannot tell whom two collections share; empty where they can."""
    for renamed, other in ((collection, trained), (trained, collection)):
        origin = UNDER_OTHER_NAMES.get(renamed or "")
        if origin and renamed != other and (other is None or UNDER_OTHER_NAMES.get(other, other) == origin):
            whose = "the model does" if other == trained else "these films do"
            also = f", and {whose} not say of which collection" if other is None else f", as {other} does"
            return f"{renamed} holds films of {origin} under names of its own{also}"
    return ""


def _by_number(trained: str | None, collection: str | None) -> str:
    if trained and collection:
        return ""
    who = "the model does" if not trained else "these films do"
    return (
        f". (Patients were compared by number alone, as {who} not say of which collection; "
        f"if not of {trained or collection or 'the same one'}, they are others.)"
    )
