"""A prepared folder described for other programs: croissant.json, MLCommons' metadata for data sets (Croissant 1.0)."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from agcxr.data.collection_names import collections_in
from agcxr.data.prepared import Plan, read_plan
from agcxr.notices import CITATION, HOME

FILE = "croissant.json"
TERMS = (
    "citeAs column equivalentProperty extract field fileObject fileProperty fileSet format includes isLiveDataset "
    "jsonPath key md5 parentField path recordSet references regex repeated replace samplingRate separator source "
    "subField transform"
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{term: f"cr:{term}" for term in TERMS.split()},
}
"""The format's own, so that readers which compare it find what they know."""
FORMATS = {".npy": "application/octet-stream", ".parquet": "application/x-parquet"}
ABOUT = {
    "images.npy": "The films, uint8, N x S x S, as NumPy stores an array.",
    "index.parquet": "One row a film, in the order of images.npy.",
    "boxes.parquet": "Annotated boxes, as fractions of the film's width and height, exclusive end.",
}
"""The files that are described, and how."""
NIH = {"url": HOME, "citeAs": CITATION, "creator": {"@type": "sc:Organization", "name": "NIH Clinical Center"}}


def write_croissant(folder: Path) -> Path:
    """Describe the files of a prepared folder, whole but for this one, in croissant.json there; see `croissant`."""
    path = folder / FILE
    path.write_text(json.dumps(croissant(folder), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def croissant(folder: Path) -> dict[str, Any]:
    """The description as JSON-LD: files by their SHA-256, and the columns of the two tables. No patient is named."""
    plan = read_plan(folder)
    tables = [name for name in ABOUT if name.endswith(".parquet")]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"{plan.source.collection or plan.source.name}, prepared by agcxr",
        "version": "1.0.0",
        "description": _about(plan),
        **(NIH if "nih" in collections_in(plan.source.collection) else {}),
        "distribution": [_file(folder, name) for name in ABOUT],
        "recordSet": [_records(folder, name) for name in tables],
    }


def _about(plan: Plan) -> str:
    parts = ", ".join(f"{part.part} {part.images:,} films of {part.patients:,} patients" for part in plan.counts.parts)
    return (
        f"{plan.counts.prepared:,} chest films of {plan.size} x {plan.size} pixels ({plan.resize_rule}), labelled with "
        f"{', '.join(plan.labels)}: 1 present, 0 absent, empty unknown. Split by {plan.split.rule}: {parts}. "
        "Research use only."
    )


def _file(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": ABOUT[name],
        "contentUrl": name,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": FORMATS[path.suffix],
        "sha256": digest,
    }


def _records(folder: Path, file: str) -> dict[str, Any]:
    name = Path(file).stem
    columns = pd.read_parquet(folder / file).dtypes
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": ABOUT[file],
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{place}_{re.sub(r'[^A-Za-z0-9]', '_', str(column))}",  # an id holds no blanks
                "name": str(column),
                "dataType": _data_type(kind),
                "source": {"fileObject": {"@id": file}, "extract": {"column": str(column)}},
            }
            for place, (column, kind) in enumerate(columns.items())
        ],
    }


def _data_type(kind: Any) -> str:
    if pd.api.types.is_bool_dtype(kind):
        return "sc:Boolean"
    if pd.api.types.is_integer_dtype(kind):
        return "sc:Integer"
    return "sc:Float" if pd.api.types.is_float_dtype(kind) else "sc:Text"
