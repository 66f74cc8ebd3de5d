"""Rows + films -> a prepared folder: the one way into training, for every source.

The steps, in order: which films exist -> draw (limit, fraction) -> split -> decode and resize in parallel into
OUT.partial -> leak check -> index, boxes, rejected.csv, plan.json -> OUT. Nothing appears under the name OUT before it
is whole.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from agcxr.data import nih
from agcxr.data.archives import list_archive
from agcxr.data.partial import Partial, Settings, finish
from agcxr.data.prepared import (
    FORMAT,
    Counts,
    Plan,
    Prepared,
    Source,
    SourceFile,
    SplitPlan,
    check_names,
    index_columns,
    open_prepared,
    part_counts,
    read_plan,
)
from agcxr.data.radiograph import RESIZE_RULE, stem
from agcxr.data.sources import ImageFiles, find_files
from agcxr.data.splits import Rule, assign, check_leaks, draw
from agcxr.data.storing import USUAL, Storing
from agcxr.data.workers import CHUNK, Archive, Files, Job, run_jobs
from agcxr.findings import CHESTXRAY14, Findings
from agcxr.machine import cores, versions
from agcxr.progress import ProgressBar

__all__ = ["Plan", "Prepared", "Source", "open_prepared", "prepare", "prepare_nih", "source_of"]

PLACES = "places.csv"
"""Beside a phantom's labels: where small findings are or, on films without, would be."""
ZIP_JOBS = 32
"""Jobs that the films of a .zip are shared out in, at most."""

SMALL = 128
"""Fewer films than this are worked through in this process: starting others would take longer."""


@dataclass(frozen=True)
class _Wanted:
    """The rows to prepare (with their split) and where each film is: a path, the archives, or nowhere ("")."""

    rows: pd.DataFrame
    paths: list[str]
    in_archives: tuple[Path, ...]
    """Archives that are read from front to back."""
    zipped: dict[str, tuple[str, str]]
    """Paths that are members of a .zip: the .zip, and their names in it."""
    breaks: tuple[str, ...]
    """Archives that could not be listed, in words."""
    table: int
    left_out: int
    duplicates: int

    def missing(self) -> list[int]:
        return [] if self.in_archives else [row for row, path in enumerate(self.paths) if not path]


def prepare(
    rows: pd.DataFrame,
    boxes: pd.DataFrame | None,
    files: ImageFiles,
    out: str | Path,
    *,
    source: Source,
    findings: Findings = CHESTXRAY14,
    split: Rule = "patient",
    train_val: Collection[str] = (),
    test: Collection[str] = (),
    storing: Storing = USUAL,
    places: pd.DataFrame | None = None,
) -> Prepared:
    """Prepare rows (`nih.row_columns` of `findings`) and boxes (nih.BOX_COLUMNS) with the films of `files` into `out`.

    places: boxes likewise, on films with the finding and without (see Prepared).

    With `storing.subset`, rows without a file are left out and counted, not rejected. Films that cannot be used
    (missing, corrupt) are in rejected.csv; a share of them above `storing.max_rejected` is an error.
    A rerun after a kill continues; with other pixels (films, size) it starts over; a finished folder of the same
    settings is returned as it is. Raises ValueError.
    """
    out = Path(out)
    if out.name in ("", ".."):
        raise ValueError(f"the folder to make is {out}; give it a name of its own, such as {out / 'prepared'}")
    storing.check()
    check_names(findings)
    _check_rows(rows, findings)
    wanted = _want(rows, files, storing)
    parts = assign(wanted.rows, split, storing.seed, train_val=train_val, test=test)
    wanted = replace(wanted, rows=wanted.rows.assign(split=parts))
    boxes = pd.DataFrame(columns=list(nih.BOX_COLUMNS)) if boxes is None else boxes
    settings = _settings(wanted.rows, files, storing.size)
    chosen = SplitPlan(rule=split, seed=storing.seed, limit=storing.limit, fraction=storing.fraction)
    more = () if places is None else (places,)
    fingerprint = _hash(settings, chosen, source.tables, findings, wanted.rows, boxes, *more)
    partial = out.with_name(out.name + ".partial")
    if _is_finished(out, partial, fingerprint):
        return open_prepared(out)
    if wanted.missing():
        why = "; ".join([MISSING, *wanted.breaks])
        _check_rejected(dict.fromkeys(wanted.missing(), why), wanted, storing.max_rejected, None)
    with Partial(out, settings, _say) as place:
        rejected = _decode(wanted, place, storing.workers)
        _write_rejected(partial, wanted.rows, rejected)
        _check_rejected(rejected, wanted, storing.max_rejected, partial / "rejected.csv")
        if not place.count:
            raise ValueError(f"none of the {len(wanted.rows)} films could be used; see {partial / 'rejected.csv'}")
        plan = _write_folder(place, wanted, boxes, places, source, findings, chosen, fingerprint)
        finish(partial, out, plan.counts.prepared, storing.size)
    _say(plan.summary())
    return open_prepared(out)


def prepare_nih(
    images: str | Path | Sequence[str | Path],
    labels: str | Path,
    out: str | Path,
    *,
    boxes: str | Path | None = None,
    split: Rule | None = None,
    lists: str | Path | None = None,
    storing: Storing = USUAL,
) -> Prepared:
    """Prepare NIH ChestX-ray14 (or anything in its layout) from its official files; see `prepare`.

    images: folder(s) and archive(s). lists: the folder of train_val_list.txt and test_list.txt (default: beside the
    labels). split: default official where the lists are found, else patient.
    """
    labels = Path(labels)
    entries = nih.read_entries(labels)
    found = nih.find_lists(lists or labels.parent)
    if found is None and (lists is not None or split == "official"):
        raise ValueError(f"no {' and '.join(nih.LISTS)} in {lists or labels.parent}; give their folder with --lists")
    notes = entries.notes
    if split is None:
        split = "official" if found else "patient"
        if not found:
            notes += (f"no {' and '.join(nih.LISTS)} in {labels.parent}: split by patient, not as the NIH does",)
    train_val, test = (nih.read_list(path) for path in found) if found and split == "official" else ((), ())
    box_table = nih.read_boxes(boxes) if boxes is not None else None
    place_list = labels.parent / PLACES
    places = nih.read_boxes(place_list).frame if place_list.is_file() else None
    tables = [labels, *([Path(boxes)] if boxes is not None else []), *(found if found and split == "official" else ())]
    files = find_files(images)
    source = source_of("nih", files, tables, notes + (box_table.notes if box_table else ()))
    return prepare(
        entries.frame,
        box_table.frame if box_table else None,
        files,
        out,
        source=source,
        split=split,
        train_val=train_val,
        test=test,
        storing=storing,
        places=places,
    )


def source_of(name: str, files: ImageFiles, tables: Iterable[str | Path], notes: tuple[str, ...]) -> Source:
    """The record of a source: where its films lie, and each table by path, length and SHA-256."""
    read = []
    for path in tables:
        path = nih.at_hand(path)
        data = path.read_bytes()
        read.append(SourceFile(path=str(path), bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    collection = nih.collection_of(Path(read[0].path).parent) if name == "nih" else None if name == "table" else name
    images = tuple(map(str, files.folders))
    return Source(name=name, collection=collection, images=images, tables=tuple(read), notes=notes + files.notes)


MISSING = "missing: no file of this name"
BREAKS = "breaks off"


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


def _check_rows(rows: pd.DataFrame, findings: Findings) -> None:
    absent = [name for name in nih.row_columns(findings) if name not in rows]
    if absent:
        raise ValueError(f"rows lack the columns {', '.join(absent)}")
    if not len(rows):
        raise ValueError("the label table has no rows")
    if rows["image_id"].duplicated().any():
        raise ValueError(
            f"the image {rows['image_id'][rows['image_id'].duplicated()].iloc[0]} is listed more than once"
        )


def _want(rows: pd.DataFrame, files: ImageFiles, storing: Storing) -> _Wanted:
    table = len(rows)
    if storing.subset:
        # Archives must be gone through once more here: which rows there are decides the draw and the split.
        listed: set[str] = set()
        for path in ProgressBar(files.archives, desc="listing archives", unit=" archives", disable=not files.archives):
            listed.update(map(stem, list_archive(path, _say)))
        here = rows["image_id"].map(lambda name: files.find(name) is not None or stem(name) in listed)
        rows = rows[here.astype(bool)]
        if not len(rows):
            raise ValueError(f"none of the {table:,} rows of the table has a film under {files.folders[0]}")
    left_out = table - len(rows)
    rows = draw(rows, storing.seed, limit=storing.limit, fraction=storing.fraction).reset_index(drop=True)
    paths = [files.find(name) or "" for name in rows["image_id"]]
    if files.archives and rows["image_id"].map(stem).duplicated().any():
        raise ValueError("files in archives are found by name alone, and two rows have the same; unpack the archives")
    _check_apart(rows["image_id"], paths)
    breaks = tuple(note for note in files.notes if BREAKS in note)
    doubled = sum(bool(path) and files.is_ambiguous(name) for name, path in zip(rows["image_id"], paths, strict=True))
    return _Wanted(rows, paths, files.archives, files.zipped, breaks, table, left_out, doubled)


def _check_apart(names: pd.Series, paths: list[str]) -> None:
    """No two rows may be one film: "a.png" beside "a.jpg", or "p1/a.png" beside "p2/a.png" with one a.png there."""
    first: dict[str, str] = {}
    for name, path in zip(names, paths, strict=True):
        if path and first.setdefault(path, name) != name:
            raise ValueError(
                f"the rows {first[path]} and {name} both name the file {path}; keep the one that is meant, or give the "
                "folder that holds both films"
            )


def _is_finished(out: Path, partial: Path, fingerprint: str) -> bool:
    """True if `out` holds, or after its last step now holds, exactly what is asked for."""
    if (partial / "plan.json").is_file() and not out.exists():
        plan = read_plan(partial)
        if plan.fingerprint == fingerprint:
            _say(f"{partial} lacked only its last step")
            finish(partial, out, plan.counts.prepared, plan.size)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / "plan.json").is_file():
        raise ValueError(f"{out} exists and is not a prepared folder; choose another --out")
    plan = read_plan(out)
    if plan.fingerprint != fingerprint:
        raise ValueError(f"{out} holds films prepared with other settings or tables; delete it or choose another --out")
    rejected = plan.counts.rejected
    again = f"; to try its {rejected:,} rejected films again, delete it first" if rejected else ""
    _say(f"{out} is prepared already{again}")
    return True


def _settings(rows: pd.DataFrame, files: ImageFiles, size: int) -> Settings:
    names = hashlib.sha256("\n".join(rows["image_id"]).encode()).hexdigest()
    places = ", ".join(str(folder.resolve()) for folder in files.folders)
    return Settings(size=size, films=len(rows), film_list=names, images=places, resize_rule=RESIZE_RULE)


def _hash(
    settings: Settings, chosen: SplitPlan, tables: Sequence[SourceFile], findings: Findings, *frames: pd.DataFrame
) -> str:
    digest = hashlib.sha256(f"{settings}{chosen}{[table.sha256 for table in tables]}".encode())
    if not findings.is_default:
        digest.update(findings.model_dump_json().encode())
    for frame in frames:
        digest.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def _decode(wanted: _Wanted, place: Partial, workers: int | None) -> dict[int, str]:
    """Read every film that is not done yet; row -> reason of those that could not be used."""
    total = len(wanted.rows)
    if place.count:
        _say(f"continuing: {place.count:,} of {total:,} films are done")
    rejected: dict[int, str] = {}
    breaks = list(wanted.breaks)
    with ProgressBar(total=total, initial=place.count, desc="preparing", unit=" films", smoothing=0.05) as bar:
        count = workers or (1 if total < SMALL else cores())
        for batch in run_jobs(_jobs(wanted, place), place.target, count):
            for done in batch:
                if done.row < 0:
                    breaks.append(done.reason)
                    _say(done.reason)
                elif done.reason:
                    rejected[done.row] = done.reason
                elif not place.has(done.row):
                    place.add(done)
            bar.update(place.count + len(rejected) - bar.n)
            if rejected:
                bar.set_postfix(rejected=len(rejected), refresh=False)
        missing = set(np.flatnonzero(~place.done_N).tolist()) - set(rejected)
        bar.update(len(missing))
    why = "; ".join([MISSING, *breaks])
    return {row: reason for row, reason in (rejected | dict.fromkeys(missing, why)).items() if not place.has(row)}


def _jobs(wanted: _Wanted, place: Partial) -> Iterator[Job]:
    """Archives first: they take longest and cannot be shared out. Then the files, listed as they are asked for."""
    if wanted.in_archives:
        names = wanted.rows["image_id"].map(stem)
        in_archives = {name: row for row, name in enumerate(names) if not wanted.paths[row] and not place.has(row)}
        yield from (Archive(str(path), in_archives) for path in wanted.in_archives if in_archives)
    zips: dict[str, dict[str, int]] = {}
    for row, path in enumerate(wanted.paths):
        if path in wanted.zipped and not place.has(row):
            archive, name = wanted.zipped[path]
            zips.setdefault(archive, {})[name] = row
    for archive, rows in zips.items():
        # Many jobs, so that workers share a .zip; few, as each of them reads the list of its members.
        left, share = iter(rows.items()), max(CHUNK, -(-len(rows) // ZIP_JOBS))
        while some := dict(islice(left, share)):
            yield Archive(archive, some)
    films = (
        (row, path)
        for row, path in enumerate(wanted.paths)
        if path and path not in wanted.zipped and not place.has(row)
    )
    while chunk := tuple(islice(films, CHUNK)):
        yield Files(chunk)


def _write_folder(
    place: Partial,
    wanted: _Wanted,
    boxes: pd.DataFrame,
    places: pd.DataFrame | None,
    source: Source,
    findings: Findings,
    chosen: SplitPlan,
    fingerprint: str,
) -> Plan:
    """Index, boxes, places and, last of all, plan.json: where it stands, the others are whole."""
    index = _index(wanted.rows, place.close_gaps(), place, findings)
    kept = _join_boxes(boxes, index)
    index.to_parquet(place.folder / "index.parquet", index=False)
    kept.to_parquet(place.folder / "boxes.parquet", index=False)
    if places is not None:
        _join_boxes(places, index).to_parquet(place.folder / "places.parquet", index=False)
    plan = Plan(
        format=FORMAT,
        labels=findings.labels,
        findings=findings,
        size=place.settings.size,
        resize_rule=RESIZE_RULE,
        source=source,
        split=chosen,
        leak_check=check_leaks(index),
        counts=_count(wanted, index, kept, len(boxes), findings),
        versions=versions("agcxr", "numpy", "pandas", "opencv-python-headless", "pydicom"),
        fingerprint=fingerprint,
    )
    (place.folder / "plan.json.new").write_text(plan.model_dump_json(indent=1))
    (place.folder / "plan.json.new").replace(place.folder / "plan.json")
    return plan


def _write_rejected(folder: Path, rows: pd.DataFrame, rejected: dict[int, str]) -> None:
    places = sorted(rejected)
    frame = pd.DataFrame({"image_id": rows["image_id"].iloc[places], "reason": [rejected[row] for row in places]})
    frame.to_csv(folder / "rejected.csv", index=False)
    if rejected:
        _say(f"rejected: {len(rejected):,} of {len(rows):,} films ({_kinds(rejected)})")


def _kinds(rejected: dict[int, str]) -> str:
    kinds = Counter(reason.split(":")[0][:60] for reason in rejected.values())
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(4))


def _check_rejected(rejected: dict[int, str], wanted: _Wanted, max_rejected: float, listed_in: Path | None) -> None:
    share = len(rejected) / len(wanted.rows)
    if share <= max_rejected:
        return
    first = min(rejected)
    missing = sum(reason == MISSING for reason in rejected.values())
    cures = [f"allow it with --max-rejected {min(1.0, np.ceil(share * 1000) / 1000):g}"]
    if missing > len(rejected) / 2:
        cures.insert(0, "if the films are only a part of the collection, say so with --subset")
    if any(BREAKS in reason for reason in rejected.values()):
        cures.insert(0, "fetch the archive that breaks off again")
    raise ValueError(
        f"{len(rejected):,} of {len(wanted.rows):,} films ({share:.1%}) cannot be used ({_kinds(rejected)}), more than "
        f"the {max_rejected:.1%} allowed; the first is {wanted.rows['image_id'].iloc[first]} ({rejected[first]}); "
        + (f"all are listed in {listed_in}; " if listed_in else "")
        + "; or ".join(cures)
    )


def _index(rows: pd.DataFrame, order: np.ndarray, place: Partial, findings: Findings) -> pd.DataFrame:
    index = rows.iloc[order].reset_index(drop=True)
    index["width"], index["height"] = place.width_N[order], place.height_N[order]
    labels = list(findings.labels)
    index[labels] = index[labels].astype(np.float32)
    return index[list(index_columns(findings))]


def _join_boxes(boxes: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    row_of = {stem(name): row for row, name in enumerate(index["image_id"])}
    row = boxes["image_id"].map(lambda name: row_of.get(stem(name), -1)).astype(np.int64)
    kept = boxes.assign(row=row)[row >= 0].reset_index(drop=True)
    corners = ["x0", "y0", "x1", "y1"]
    kept[corners] = kept[corners].astype(np.float64)
    return kept[["image_id", "row", "finding", *corners]]


def _count(wanted: _Wanted, index: pd.DataFrame, boxes: pd.DataFrame, all_boxes: int, findings: Findings) -> Counts:
    return Counts(
        table=wanted.table,
        left_out=wanted.left_out,
        drawn=len(wanted.rows),
        prepared=len(index),
        rejected=len(wanted.rows) - len(index),
        duplicate_stems=wanted.duplicates,
        boxes=len(boxes),
        boxed_images=int(boxes["row"].nunique()),
        boxes_left_out=all_boxes - len(boxes),
        parts=part_counts(index),
        positives={label: int((index[label] == 1).sum()) for label in findings.labels},
    )
