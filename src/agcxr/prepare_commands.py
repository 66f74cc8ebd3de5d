"""The `agcxr prepare ...` commands: the NIH's files, any table, other public collections. As commands.py."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from agcxr.data.storing import USUAL, Storing

COLLECTIONS = {
    "chexpert": "CheXpert (Stanford): 223,414 films of every view, its 14 labels or seven of the NIH's findings",
    "mimic": "MIMIC-CXR-JPG: needs --labels and --metadata, the tables that come with its films",
    "padchest": "PadChest (Alicante): 160,861 films, all of its findings or the NIH's",
    "openi": "Open-i (Indiana): 7,470 films, all of its findings or the NIH's, coded by people",
    "rsna": "RSNA Pneumonia Challenge: 26,684 NIH films read again, pneumonia and its boxes",
    "vindr": "VinDr-CXR (Hanoi): 15,000 films read by three radiologists each",
    "siim": "SIIM-ACR Pneumothorax: 12,047 NIH films read again, pneumothorax and its boxes",
}


AsFlags = Annotated[Storing, tyro.conf.arg(name="")]


def prepare_nih(
    images: Path,
    labels: Path,
    out: Path,
    *,
    boxes: Path | None = None,
    split: Literal["official", "patient", "image", "train"] | None = None,
    lists: Path | None = None,
    storing: AsFlags = USUAL,
) -> int:
    """Read the official ChestX-ray14 files into a prepared folder: pixels, index, boxes, plan.

    Args:
        images: Folder with the films (any depth; PNG, JPEG, WebP, DICOM) or archives (.zip, .tar.gz), or an archive.
        labels: Data_Entry_2017.csv or Data_Entry_2017_v2020.csv, gzipped or not.
        out: Prepared folder to make.
        boxes: BBox_List_2017.csv.
        split: Default: official where the lists are found, else by patient. train: no test films, for a model that is
            to be given away after folds have measured its recipe.
        lists: Folder of train_val_list.txt and test_list.txt; default: beside the labels.
        storing: Which films, and how.
    """
    from agcxr.data.prepare import prepare_nih as prepare

    prepare(images, labels, out, boxes=boxes, split=split, lists=lists, storing=storing)
    return 0


def prepare_table(
    table: Path,
    images: Path,
    out: Path,
    *,
    image_column: str,
    label_columns: tuple[str, ...] = (),
    patient_column: str | None = None,
    age_column: str | None = None,
    sex_column: str | None = None,
    view_column: str | None = None,
    findings: str | None = None,
    uncertain: Literal["ignore", "zeros", "ones", "smoothed"] = "ignore",
    split: Literal["patient", "image", "test", "train"] = "patient",
    storing: AsFlags = USUAL,
) -> int:
    """Read any CSV with an image column, and its films, into a prepared folder.

    Args:
        table: CSV (or .csv.gz) with a row a film.
        images: Folder with the films (any depth; PNG, JPEG, WebP, DICOM) or archives (.zip, .tar.gz), or an archive.
        out: Prepared folder to make.
        image_column: Column of file names; folders and extensions in them may differ from the files'.
        label_columns: Columns of 1, 0, and -1 or blank for unknown, of any names, or one of class names such as
            Tuberculosis|Fracture; default: all such columns, or Finding Labels or label.
        patient_column: Without it each film counts as a patient of its own.
        age_column: In years (60, 60.0, 060Y), or with a unit (6M).
        sex_column: M, F, male, female.
        view_column: PA, AP or LATERAL.
        findings: own: those of the table; nih: the fifteen of ChestX-ray14, as far as it states them; cxr-lt-30: the
            classes of CXR-LT 2026; or a file of findings (YAML or JSON: labels, aliases, codes, ...;
            docs/own_findings.md). Default: nih where the table states no other than those, else own.
        uncertain: What -1 is: unknown (ignore), 0 (zeros), 1 (ones), or a target of 0.7 for training (smoothed).
        split: By patient, by image, every film a test film, or none (train).
        storing: Which films, and how.
    """
    from agcxr.data.table import prepare_table as prepare
    from agcxr.findings import read_findings

    prepare(
        table,
        images,
        out,
        image_column=image_column,
        label_columns=label_columns or None,
        patient_column=patient_column,
        age_column=age_column,
        sex_column=sex_column,
        view_column=view_column,
        findings=findings if findings in (None, "own", "nih") else read_findings(findings),  # type: ignore[arg-type]
        uncertain=uncertain,
        split=split,
        storing=storing,
    )
    return 0


def prepare_collection(
    images: Path,
    out: Path,
    *,
    labels: Path | None = None,
    metadata: Path | None = None,
    views: tuple[Literal["PA", "AP", "LATERAL", "unknown"], ...] = (),
    findings: Literal["nih", "own"] = "nih",
    blank: Literal["unknown", "negative"] = "unknown",
    uncertain: Literal["ignore", "zeros", "ones", "smoothed", "unknown", "negative", "positive"] = "ignore",
    readers: int = 1,
    split: Literal["test", "patient", "image"] = "test",
    storing: AsFlags = USUAL,
    collection: str,
) -> int:
    """Read a public collection into a prepared folder."""
    from agcxr.data.external import Options, prepare_external

    options = Options(labels, metadata, blank, uncertain, readers, views, findings)
    prepare_external(collection, images, out, options=options, split=split, storing=storing)
    return 0


ARGUMENTS = """

    Args:
        images: Folder with the films (any depth; PNG, JPEG, WebP, DICOM) or archives (.zip, .tar.gz), or an archive.
        out: Prepared folder to make.
        labels: Own copy of the label table; default: TorchXRayVision's (extra `external`).
        metadata: Own copy of the table of views, where the collection has one apart.
        views: Only films of these views; default: every film.
        findings: nih: the fifteen of ChestX-ray14, as far as the collection states them; own: every finding of its own.
        blank: CheXpert, MIMIC: what a finding is that the report does not mention.
        uncertain: CheXpert, MIMIC: what a finding is that the report is unsure of: unknown (ignore), negative (zeros),
            positive (ones), or a target of 0.7 for training (smoothed).
        readers: VinDr: how many of the three radiologists must have seen a finding.
        split: Every film a test film, or train, val and test by patient or by image.
        storing: Which films, and how.
    """


def prepare_commands() -> dict[str, Callable[..., int | None]]:
    """Names such as "prepare nih" and "prepare table" -> what they do."""
    commands: dict[str, Callable[..., int | None]] = {"prepare nih": prepare_nih, "prepare table": prepare_table}
    return commands | {f"prepare {name}": _command(name, title) for name, title in COLLECTIONS.items()}


def _command(name: str, title: str) -> Callable[..., int | None]:
    """`prepare_collection` of one collection, with a help of its own."""

    def command(*args: object, **flags: object) -> int:
        return prepare_collection(*args, **flags, collection=name)  # type: ignore[arg-type]

    signature = inspect.signature(prepare_collection, eval_str=True)
    kept = [one for one in signature.parameters.values() if one.name != "collection"]
    command.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in kept} | {"return": int}
    command.__doc__ = f"Prepare {title}.{ARGUMENTS}"
    command.__name__ = f"prepare_{name}"
    return command
