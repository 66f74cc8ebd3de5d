"""Other public collections -> rows as the NIH's: CheXpert, MIMIC-CXR, PadChest, Open-i, RSNA, VinDr-CXR, SIIM.

The tables are those that TorchXRayVision ships (extra `external`), read as tables: none of its code runs, so none of
its defaults apply (PA films only; one film a patient, made for CheXpert by a grouping that takes each label from
another film; people under ten left out of PadChest; terms found inside other terms). Every film is a row, whatever its
view. MIMIC's tables are not free; its users have them.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from agcxr.data import nih
from agcxr.data.external_tables import FRAME, ShippedTable, extent, read_reports, shipped
from agcxr.data.external_terms import (
    CHEXPERT_COLUMNS,
    NO_FINDING,
    OPENI_SILENT,
    OPENI_TERMS,
    PADCHEST_SILENT,
    PADCHEST_TERMS,
    VINDR_CLASSES,
)
from agcxr.data.label_cells import UNCERTAIN, Uncertain, cell_number
from agcxr.data.patients import OLDEST, is_blank, patient_id, read_ages, read_patients, read_sexes, unread
from agcxr.data.prepare import prepare, source_of
from agcxr.data.prepared import Prepared
from agcxr.data.sources import find_files
from agcxr.data.splits import Rule
from agcxr.data.storing import USUAL, Storing
from agcxr.findings import CHESTXRAY14, Findings

Name = Literal["chexpert", "mimic", "padchest", "openi", "rsna", "vindr", "siim"]
COLLECTIONS: tuple[Name, ...] = get_args(Name)
View = Literal["PA", "AP", "LATERAL", "unknown"]

UNCERTAIN_MEANS: dict[str, Uncertain] = {
    **{how: how for how in UNCERTAIN},
    "unknown": "ignore",
    "negative": "zeros",
    "positive": "ones",
}
"""What uncertain labels become; also in the words of earlier versions."""
UNCERTAIN_WORDS: dict[Uncertain, str] = {
    "ignore": "unknown",
    "zeros": "negative",
    "ones": "positive",
    "smoothed": "smoothed for training, else unknown",
}
DEVICES = "Support Devices"
"""Of the CheXpert labeler: they may be there beside No Finding."""

UNDER_OTHER_NAMES = {"rsna": "nih", "siim": "nih"}
"""Collections whose films are another's, under names of their own: names cannot tell whom the two share."""
FROM_NIH = (
    "these films are films of NIH ChestX-ray14 under other names: a model trained on the NIH's has seen many of them, "
    "and no leak check by patient can tell"
)
NO_PATIENTS = "the table states no patients: each film counts as a patient of its own, so leaks between parts go unseen"


@dataclass(frozen=True)
class Options:
    """How the statements of a collection are read.

    findings: the fifteen of ChestX-ray14, as far as the collection states them, or every finding of its own. labels,
    metadata: own copies of the tables; None: TorchXRayVision's. blank (CheXpert, MIMIC): what a finding that the report
    does not mention is. uncertain: what one that it is unsure of (-1) is; smoothed: a target between the two, of
    training alone. readers: how many of VinDr's three
    radiologists must have drawn a finding. views: only films of these views; empty: every film.
    """

    labels: Path | None = None
    metadata: Path | None = None
    blank: Literal["unknown", "negative"] = "unknown"
    uncertain: Literal["ignore", "zeros", "ones", "smoothed", "unknown", "negative", "positive"] = "ignore"
    readers: int = 1
    views: tuple[View, ...] = ()
    findings: Literal["nih", "own"] = "nih"


@dataclass(frozen=True)
class Rows:
    """frame: `nih.row_columns` of the findings; boxes: nih.BOX_COLUMNS or None; tables: the files read; notes: for
    people."""

    frame: pd.DataFrame
    tables: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    boxes: pd.DataFrame | None = None
    findings: Findings = CHESTXRAY14


def read_collection(name: str, options: Options | None = None) -> Rows:
    """Rows of a collection. Raises ValueError for an unknown name, and for tables that are absent or another's."""
    if name not in COLLECTIONS:
        raise ValueError(f"unknown collection {name!r}; expected one of {', '.join(COLLECTIONS)}, or use a table")
    options = options or Options()
    if not 1 <= options.readers <= 3:
        raise ValueError(f"readers is {options.readers}; expected 1, 2 or 3 of the three radiologists")
    rows = _READERS[name](options)
    unstated = [label for label in rows.findings.names if not rows.frame[label].notna().any()]
    if unstated:
        rows = replace(rows, notes=(*rows.notes, f"findings the collection does not state: {', '.join(unstated)}"))
    return _of_views(rows, options.views)


def prepare_external(
    name: str,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    options: Options | None = None,
    split: Rule = "test",
    storing: Storing = USUAL,
) -> Prepared:
    """Prepare a collection's films; see `read_collection` and `prepare`. By default every film is a test film.

    Raises ValueError, also for the official split, which only the NIH's collection has.
    """
    if split == "official":
        raise ValueError("only the NIH collection has an official split here; expected split test, patient or image")
    rows = read_collection(name, options)
    files = find_files(images)
    source = source_of(name, files, rows.tables, rows.notes)
    return prepare(
        rows.frame, rows.boxes, files, out, source=source, findings=rows.findings, split=split, storing=storing
    )


# --- the collections --------------------------------------------------------------------------------------------------


def _chexpert(options: Options) -> Rows:
    table = ShippedTable(options.labels, "chexpert_train.csv.gz", ("Path", *CHEXPERT_COLUMNS))
    images = table["Path"]
    labels, notes = _statements(table, options, "CheXpert-14")
    lateral = table.get("Frontal/Lateral").str.lower().eq("lateral") | images.str.contains("lateral")
    age, odd = read_ages(table.get("Age"))
    newborn = int((age == 0).sum())
    study = images.str.extract(r"study(\d+)")[0]
    frame, more = _frame(
        images,
        images.str.extract(r"(patient\d+)")[0].fillna(images),
        labels,
        follow_up=pd.to_numeric(study, errors="coerce").astype("Int64"),
        age=age.mask(age == 0),
        sex=table.get("Sex"),
        view=table.get("AP/PA").map(nih.view).where(~lateral, "LATERAL"),
    )
    notes += (f"{newborn} ages of 0 stand for unknown in this table",) if newborn else ()
    return Rows(frame, table.paths, notes + odd + more, findings=labels.findings)


def _mimic(options: Options) -> Rows:
    needs = "MIMIC-CXR's tables come with its films: give mimic-cxr-2.0.0-{}.csv.gz with --{}"
    if options.labels is None:
        raise ValueError(needs.format("chexpert", "labels"))
    if options.metadata is None:
        raise ValueError(needs.format("metadata", "metadata"))
    studies = ShippedTable(options.labels, None, ("subject_id", "study_id", *CHEXPERT_COLUMNS))
    films = ShippedTable(options.metadata, None, ("dicom_id", "subject_id", "study_id", "ViewPosition"))
    study, film_study = (table["study_id"].map(patient_id) for table in (studies, films))
    if study.duplicated().any():
        raise ValueError(f"{options.labels}: study {study[study.duplicated()].iloc[0]} is listed more than once")
    by_study, notes = _statements(studies, options, "MIMIC-14")
    at = pd.Series(np.arange(len(by_study.values_NK)), index=study).reindex(film_study).to_numpy(float)
    labels = _Labels.unknown(by_study.findings, len(at))
    labels.values_NK[~np.isnan(at)] = by_study.values_NK[at[~np.isnan(at)].astype(int)]
    when = films.get("StudyDate") + films.get("StudyTime").str.split(".").str[0].str.zfill(6) + film_study
    view, odd_views = nih.read_views(films["ViewPosition"])
    frame, odd = _frame(
        films["dicom_id"] + ".jpg",
        films["subject_id"],
        labels,
        follow_up=when.groupby(films["subject_id"].map(patient_id)).rank(method="dense").astype("Int64"),
        view=view,
    )
    silent = int(np.isnan(at).sum())
    notes += (f"{silent} films belong to studies without labels and are unknown",) if silent else ()
    return Rows(frame, (*studies.paths, *films.paths), notes + odd + odd_views, findings=labels.findings)


def _padchest(options: Options) -> Rows:
    table = ShippedTable(
        options.labels,
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz",
        ("ImageID", "PatientID", "Projection", "Labels"),
    )
    terms = table["Labels"].map(lambda text: frozenset(one.strip() for one in re.findall(r"'([^']*)'", text)))
    labels, notes = _from_terms(terms, PADCHEST_TERMS, PADCHEST_SILENT, options, "PadChest")
    year = pd.to_numeric(table.get("StudyDate_DICOM").str[:4], errors="coerce")
    birth = table.get("PatientBirth")
    born = pd.to_numeric(birth, errors="coerce")
    notes += unread(birth[born.isna() & ~birth.map(is_blank)], "years of birth")
    age = (year - born).astype(float)
    impossible = int(((age < 0) | (age > OLDEST)).sum())
    notes += (f"{impossible} ages below 0 or over {OLDEST} years were left out as unknown",) if impossible else ()
    view = table["Projection"].map({"PA": "PA", "AP": "AP", "AP_horizontal": "AP", "L": "LATERAL"})
    frame, odd = _frame(
        table["ImageID"],
        table["PatientID"],
        labels,
        age=age.where(age.between(0, OLDEST)),
        sex=table.get("PatientSex_DICOM"),
        view=view.fillna(""),
    )
    return Rows(frame, table.paths, notes + odd, findings=labels.findings)


def _openi(options: Options) -> Rows:
    path = options.labels or shipped("NLMCXR_reports.tgz")
    reports = read_reports(path)
    labels, notes = _from_terms(reports["terms"], OPENI_TERMS, OPENI_SILENT, options, "Open-i")
    facts = ShippedTable(options.metadata, "nlmcxr_dicom_metadata.csv.gz", ("imageid", "View Position"))
    stated = facts["View Position"].str.replace("LARGE ", "").map(nih.view)
    view = reports["image"].map(dict(zip(facts["imageid"], stated, strict=True))).fillna("")
    tables = (path, *facts.paths)
    if options.metadata is None:
        # Its views are noisy; where a view was found by looking at the films, that one counts.
        seen = ShippedTable(None, "nlmcxr_tsne_pa.csv.gz", ("imageid", "tsne-view"))
        view = (
            reports["image"].map(dict(zip(seen["imageid"], seen["tsne-view"].map(nih.view), strict=True))).fillna(view)
        )
        tables += seen.paths
    frame, odd = _frame(reports["image"] + ".png", reports["report"], labels, view=view)
    note = "Open-i has reports, not patients: a patient with two reports counts as two"
    return Rows(frame, tables, (*notes, note, *odd), findings=labels.findings)


def _rsna(options: Options) -> Rows:
    table = ShippedTable(
        options.labels, "kaggle_stage_2_train_labels.csv.zip", ("patientId", "x", "y", "width", "height", "Target")
    )
    headers = ShippedTable(
        options.metadata, "kaggle_stage_2_train_images_dicom_headers.csv.gz", ("PatientID", "ViewPosition")
    )
    stated = table.numbers("Target")
    if len(odd_labels := stated[stated.notna() & ~stated.isin([0, 1])]):
        raise ValueError(f"{table.paths[0]}, column 'Target': {odd_labels.iloc[0]:g} is not a label; expected 0 or 1")
    target = stated.groupby(table["patientId"], sort=False).max()
    facts = headers.table.drop_duplicates("PatientID").set_index("PatientID").reindex(target.index).fillna("")
    images = pd.Series(target.index, dtype=str)
    labels = _only("Pneumonia", target, options, "RSNA")
    blank = pd.Series("", index=facts.index)
    age, odd = read_ages(facts.get("PatientAge", blank))
    frame, more = _frame(
        images + ".dcm",
        images,
        labels,
        age=age.to_numpy(),
        sex=facts.get("PatientSex", blank).reset_index(drop=True),
        view=facts["ViewPosition"].map(nih.view).to_numpy(),
    )
    drawn = table.table[table["x"] != ""]
    x, y, w, h = (table.numbers(name)[drawn.index].to_numpy() / FRAME for name in ("x", "y", "width", "height"))
    boxes = pd.DataFrame({"image_id": drawn["patientId"] + ".dcm", "finding": "Pneumonia"})
    whole = np.isfinite(x + y + w + h) & (w > 0) & (h > 0)
    boxes = boxes.assign(x0=x, y0=y, x1=x + w, y1=y + h)[whole].reset_index(drop=True)
    cut = (f"{int((~whole).sum())} boxes without a size were left out",) if not whole.all() else ()
    boxes[["x0", "y0", "x1", "y1"]] = boxes[["x0", "y0", "x1", "y1"]].clip(0, 1)
    meant = "Pneumonia here is the challenge's target: an opacity that radiologists suspect to be pneumonia"
    return Rows(
        frame, (*table.paths, *headers.paths), (meant, FROM_NIH, NO_PATIENTS, *odd, *more, *cut), boxes, labels.findings
    )


def _vindr(options: Options) -> Rows:
    table = ShippedTable(options.labels, "vinbigdata-train.csv.gz", ("image_id", "class_name"))
    classes = table["class_name"].str.strip()
    if options.findings == "own":
        findings = Findings.of_terms(classes, "VinDr-CXR")
        label_of = {name: findings.canonical(name) for name in classes.unique()}
    else:
        findings = CHESTXRAY14
        label_of = {name: VINDR_CLASSES.get(name.lower()) for name in classes.unique()}
    # One row a box: a reader who drew two nodules counts once. The test part has one reader, the consensus.
    reader = table.get("rad_id")
    seen = pd.DataFrame({"image": table["image_id"], "reader": reader, "finding": classes.map(label_of)})
    count = seen.groupby("image", sort=False)["reader"].nunique()
    votes = seen.dropna().drop_duplicates().groupby(["image", "finding"]).size().unstack(fill_value=0)
    votes = votes.reindex(count.index, fill_value=0)
    needed = np.minimum(options.readers, count)
    labels = _Labels.unknown(findings, len(count))
    for finding in votes:
        # "No finding" holds unless as many readers as a finding needs found something.
        enough = count - votes[finding] < needed if finding == findings.none else votes[finding] >= needed
        labels.values_NK[:, findings.labels.index(str(finding))] = enough
    images = pd.Series(count.index, dtype=str)
    out = sorted({name for name, label in label_of.items() if label is None})
    notes = (_left_out(out), NO_PATIENTS, "boxes are left out: the table does not state the sizes of the films")
    frame, odd = _frame(images + ".dicom", images, labels)
    return Rows(frame, table.paths, tuple(note for note in (*notes, *odd) if note), findings=findings)


def _siim(options: Options) -> Rows:
    table = ShippedTable(options.labels, "siim-pneumothorax-train-rle.csv.gz", ("ImageId", "EncodedPixels"))
    runs = table["EncodedPixels"]
    there = ~(runs.isin(["-1", "-1.0"]) | runs.map(is_blank))
    # Several masks of one film are several rows.
    positive = there.groupby(table["ImageId"], sort=False).any()
    images = pd.Series(positive.index, dtype=str)
    labels = _only("Pneumothorax", positive, options, "SIIM-ACR")
    corners = np.array([extent(text) for text in runs[there]]).reshape(-1, 4) / FRAME
    boxes = pd.DataFrame({"image_id": (table["ImageId"][there] + ".dcm").to_numpy(), "finding": "Pneumothorax"})
    boxes[["x0", "y0", "x1", "y1"]] = corners
    frame, odd = _frame(images + ".dcm", images, labels)
    notes = ("boxes are the extents of the drawn masks", FROM_NIH, NO_PATIENTS, *odd)
    return Rows(frame, table.paths, notes, boxes, labels.findings)


_READERS: dict[str, Callable[[Options], Rows]] = {
    "chexpert": _chexpert,
    "mimic": _mimic,
    "padchest": _padchest,
    "openi": _openi,
    "rsna": _rsna,
    "vindr": _vindr,
    "siim": _siim,
}


# --- statements -> labels ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Labels:
    """What the films of a collection are labelled with: N x K of 0, 1, NaN (unknown) or a target between."""

    findings: Findings
    values_NK: np.ndarray

    @classmethod
    def unknown(cls, findings: Findings, films: int) -> "_Labels":
        return cls(findings, np.full((films, len(findings.labels)), np.nan, np.float32))


def _only(finding: str, value_N: pd.Series, options: Options, collection: str) -> _Labels:
    """Of a collection that states one finding."""
    findings = Findings.of([finding], collection) if options.findings == "own" else CHESTXRAY14
    labels = _Labels.unknown(findings, len(value_N))
    labels.values_NK[:, findings.labels.index(finding)] = value_N
    return labels


def _statements(table: ShippedTable, options: Options, collection: str) -> tuple[_Labels, tuple[str, ...]]:
    """The CheXpert labeler's columns -> labels: 1, 0, and -1 and blank as the options say.

    "No Finding" means that no finding is positive or uncertain, so there all but the devices are 0. It is 1 or blank:
    blank beside a positive statement means 0.
    """
    blank = {"unknown": np.nan, "negative": 0.0}[options.blank]
    unsure = UNCERTAIN_MEANS[options.uncertain]
    values = {"1": 1.0, "0": 0.0, "-1": UNCERTAIN[unsure], "": blank}
    cells = {name: table[name].map({cell: _plain(cell) for cell in table[name].unique()}) for name in CHEXPERT_COLUMNS}
    for name, column in cells.items():
        odd = sorted(set(column) - set(values))
        if odd:
            raise ValueError(
                f"{table.paths[0]}, column {name!r}: {odd[0]!r} is not a label; expected 1, 0, -1 or blank"
            )
    healthy = cells[NO_FINDING].eq("1").to_numpy()
    diseases = [name for name in CHEXPERT_COLUMNS if name not in (NO_FINDING, DEVICES)]
    ill = np.logical_or.reduce([cells[name].eq("1").to_numpy() for name in diseases])
    stated = cells[NO_FINDING].map({"1": 1.0, "0": 0.0}).to_numpy(float)
    columns = {name: np.where(healthy, 0, cells[name].map(values)) for name in diseases}
    columns |= {DEVICES: cells[DEVICES].map(values).to_numpy(), NO_FINDING: np.where(np.isnan(stated) & ill, 0, stated)}
    own = options.findings == "own"
    findings = Findings.of(CHEXPERT_COLUMNS, collection) if own else CHESTXRAY14
    labels = _Labels.unknown(findings, len(healthy))
    kept = {name: label for name in CHEXPERT_COLUMNS if (label := findings.canonical(name))}
    for name, label in kept.items():
        labels.values_NK[:, findings.labels.index(label)] = columns[name]
    uncertain = sum(int(cells[name].eq("-1").sum()) for name in kept)
    notes = (
        _left_out(sorted(name for name in CHEXPERT_COLUMNS if name not in kept)),
        f"findings that a report does not mention are {options.blank}; {uncertain} uncertain ones are "
        f"{UNCERTAIN_WORDS[unsure]}",
    )
    return labels, tuple(note for note in notes if note)


def _plain(cell: str) -> str:
    """ "1.0", "1,0" -> "1"; "nan" -> "". What is no number stays."""
    if is_blank(cell):
        return ""
    number = cell_number(cell)
    return cell if number is None else f"{number:g}"


def _from_terms(
    terms: pd.Series, meaning: dict[str, tuple[str, ...]], silent: Collection[str], options: Options, collection: str
) -> tuple[_Labels, tuple[str, ...]]:
    """Sets of terms -> labels: 1 where a term means the label, else 0; unknown where there are none but silent ones.
    Own labels are the terms themselves."""
    every = pd.Series([word for one in terms for word in one if word not in silent], dtype=str)
    if options.findings == "own":
        findings = Findings.of_terms(every.unique(), collection)
        spellings = {word: findings.canonical(word) for word in every.unique()}
        meaning = {label: tuple(word for word, of in spellings.items() if of == label) for label in findings.labels}
    else:
        findings = CHESTXRAY14
    labels = _Labels(findings, np.zeros((len(terms), len(findings.labels)), np.float32))
    for label, words in meaning.items():
        labels.values_NK[:, findings.labels.index(label)] = [not one.isdisjoint(words) for one in terms]
    if findings.none is not None:
        none = findings.labels.index(findings.none)
        labels.values_NK[labels.values_NK[:, list(findings.positions)].any(axis=1), none] = 0
    says_nothing = np.array([one <= set(silent) for one in terms])
    labels.values_NK[says_nothing] = np.nan
    known = {word for words in meaning.values() for word in words}
    others = every[~every.isin(known)].value_counts()
    named = [f"{word} ({number:,})" for word, number in others.head(12).items()]
    more = f" and {len(others) - len(named)} rarer ones" if len(others) > len(named) else ""
    notes: tuple[str, ...] = (_left_out([", ".join(named) + more] if named else []),)
    if says_nothing.any():
        notes += (f"{int(says_nothing.sum()):,} films whose report says nothing (or was not coded) are unknown",)
    return labels, tuple(note for note in notes if note)


def _left_out(names: Sequence[str]) -> str:
    return f"left out, not findings of ours: {', '.join(names)}" if len(names) else ""


def _frame(
    images: pd.Series, patients: pd.Series, labels: _Labels, **facts: object
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Rows of `nih.row_columns`, and notes; facts: follow_up, age, sex, view where the collection states them."""
    frame = pd.DataFrame({"image_id": images.to_numpy()}, dtype=str)
    twice = frame["image_id"].duplicated()
    if twice.any():
        raise ValueError(f"the film {frame['image_id'][twice].iloc[0]} is listed more than once; keep one")
    stated = pd.Series(patients.to_numpy(), dtype=str)
    frame["patient"], notes = read_patients(stated, otherwise=frame["image_id"])
    columns = list(labels.findings.labels)
    frame = pd.concat([frame, pd.DataFrame(labels.values_NK, columns=columns)], axis=1)
    frame["follow_up"] = pd.array(np.asarray(facts.get("follow_up", [pd.NA] * len(frame))), dtype="Int64")
    frame["age"] = np.asarray(facts.get("age", np.full(len(frame), np.nan)), float)
    frame["view"] = np.asarray(facts.get("view", [""] * len(frame)), object)
    sexes = pd.Series(np.asarray(facts.get("sex", [""] * len(frame)), object), dtype=str)
    frame["sex"], odd = read_sexes(sexes)
    return frame[list(nih.row_columns(labels.findings))], notes + odd


def _of_views(rows: Rows, views: Sequence[View]) -> Rows:
    if not views:
        return rows
    wanted = {"" if one == "unknown" else one for one in views}
    here = rows.frame["view"].isin(wanted)
    if not here.any():
        found = ", ".join(f"{view or 'unknown'} ({n:,})" for view, n in rows.frame["view"].value_counts().items())
        raise ValueError(f"no film of the views {', '.join(views)}; the collection has {found}")
    note = f"{int((~here).sum()):,} films of other views than {', '.join(views)} were left out"
    return replace(rows, frame=rows.frame[here].reset_index(drop=True), notes=(*rows.notes, note))
