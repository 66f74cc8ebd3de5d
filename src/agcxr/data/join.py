"""Several prepared folders as one: a joined index over their memory maps. No pixel is copied.

A film and a patient are called <collection>/<name> in it, so that patient 27 of one collection is not taken for patient
27 of another; every film keeps the part that its own folder gave it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from functools import reduce
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from agcxr.data.collection_names import AND
from agcxr.data.external import UNDER_OTHER_NAMES
from agcxr.data.prepared import (
    FACTS,
    FORMAT,
    Counts,
    JoinedImages,
    Member,
    Plan,
    Prepared,
    Source,
    SplitPlan,
    index_columns,
    open_prepared,
    part_counts,
    read_plan,
    write_members,
)
from agcxr.data.splits import LeakCheck, check_leaks
from agcxr.findings import Findings, read_findings


def join(folders: Sequence[str | Path | Prepared], findings: Findings | str = "union") -> Prepared:
    """Several prepared folders as one, of films of the same side.

    findings: all that any of them states ("union"), those that every one states ("intersection"), or a set, its name or
    its file. What a folder does not state of them is unknown on its films. Names that mean the same are one finding.
    Raises ValueError for folders that cannot be joined: of other sizes, joined already, with a film or a patient's
    parts in conflict, or with no finding that all state.
    """
    opened = tuple(one if isinstance(one, Prepared) else open_prepared(one) for one in folders)
    if not opened:
        raise ValueError("there is nothing to join; give prepared folders")
    _check_alike(opened)
    chosen = _chosen([films.findings for films in opened], findings)
    names = _names(opened)
    index = pd.concat([_index(films, name, chosen) for films, name in zip(opened, names, strict=True)])
    index = index.reset_index(drop=True)
    boxes = _boxes(opened, names, chosen)
    leaks = check_leaks(index)
    _check_apart(opened, names, index, leaks)
    plan = _plan(opened, names, chosen, index, boxes, leaks)
    place = Path(" + ".join(str(films.folder) for films in opened))
    return Prepared(place, JoinedImages([films.images for films in opened]), index, boxes, plan, opened)


def write_joined(films: Prepared, out: Path) -> Path:
    """Write a joined folder, which opens as any other; where `out` holds these films already, only where they lie is
    written anew. Several processes may do it at once. Raises ValueError where it holds others."""
    if not (out / "plan.json").is_file():
        beside = out.with_name(f".{out.name}.{os.getpid()}")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        films.index.to_parquet(beside / "index.parquet", index=False)
        films.boxes.to_parquet(beside / "boxes.parquet", index=False)
        (beside / "plan.json").write_text(films.plan.model_dump_json(indent=1) + "\n", encoding="utf-8")
        write_members(beside, films.members)
        try:
            beside.replace(out)
        except OSError:  # another process was first, or something else lies there
            shutil.rmtree(beside)
            if not (out / "plan.json").is_file():
                raise
    if read_plan(out).fingerprint != films.plan.fingerprint:
        raise ValueError(
            f"{out} joins other films, or other findings of theirs, than {films.folder}; give the --data and "
            "--findings that it was begun with, or --out a new folder"
        )
    write_members(out, films.members)
    return out


def _check_alike(opened: Sequence[Prepared]) -> None:
    first = opened[0].plan
    for films in opened:
        plan = films.plan
        if plan.joined:
            raise ValueError(f"{films.folder} is joined already; give the folders that it joins")
        if (plan.size, plan.resize_rule) != (first.size, first.resize_rule):
            raise ValueError(
                f"{opened[0].folder} was prepared at {first.size} px ({first.resize_rule}) and {films.folder} at "
                f"{plan.size} px ({plan.resize_rule}); prepare both alike, with the same --size"
            )
    for one, other in combinations(opened, 2):
        if one.folder.resolve() == other.folder.resolve() or one.plan.fingerprint == other.plan.fingerprint:
            raise ValueError(f"{one.folder} and {other.folder} hold the same films; give each folder once")


def _chosen(sets: Sequence[Findings], which: Findings | str) -> Findings:
    if isinstance(which, Findings):
        return which
    if which == "union":
        return reduce(Findings.union, sets)
    if which != "intersection":
        return read_findings(which)
    first, *others = sets
    shared = [label for label in first.labels if all(first.column(label, other) for other in others)]
    if not set(shared) & set(first.names):
        raise ValueError(
            "there is no finding that all of these folders state, so --findings intersection leaves nothing; take "
            "--findings union, or give findings the same names where they mean the same"
        )
    return first.restricted(shared)


def _names(opened: Sequence[Prepared]) -> list[str]:
    """What each is called: its collection, or where it states none its folder; a number tells these apart."""
    taken = {films.plan.source.collection for films in opened}
    names = []
    for films in opened:
        own = name = films.folder.resolve().name.replace("/", " ")
        number = 1
        while name in taken:
            number += 1
            name = f"{own} {number}"
        names.append(films.plan.source.collection or name)
        taken.add(names[-1])
    return names


def _index(films: Prepared, name: str, findings: Findings) -> pd.DataFrame:
    """The rows of one folder, by the names and the labels of the joined one."""
    index = films.index
    unknown = np.full(len(index), np.nan, np.float32)
    columns = films.columns(findings).items()
    labels = {label: unknown if column is None else index[column].to_numpy(np.float32) for label, column in columns}
    named = {key: _named(index, key, name) for key in ("image_id", "patient")}
    facts = index[list(FACTS)].assign(**named, collection=name)
    together = pd.concat([facts, pd.DataFrame(labels, index=index.index)], axis=1)
    return together[[*index_columns(findings), "collection"]]


def _boxes(opened: Sequence[Prepared], names: Sequence[str], findings: Findings) -> pd.DataFrame:
    """The boxes of all, by the rows and the labels of the joined folder."""
    parts, start = [], 0
    for films, name in zip(opened, names, strict=True):
        boxes = films.boxes_of(findings)
        parts.append(boxes.assign(image_id=_named(boxes, "image_id", name), row=boxes["row"] + start))
        start += len(films.index)
    return pd.concat(parts, ignore_index=True)


def _named(table: pd.DataFrame, column: str, collection: str) -> pd.Series:
    """Names of films or patients as they are in the joined folder."""
    return f"{collection}/" + table[column].astype(str)


def _check_apart(opened: Sequence[Prepared], names: Sequence[str], index: pd.DataFrame, leaks: LeakCheck) -> None:
    """No film twice, and no patient of one collection in another part here than there."""
    twice = index["image_id"][index["image_id"].duplicated()]
    if len(twice):
        raise ValueError(
            f"{len(twice):,} films are in two of these folders, such as {twice.iloc[0]}; give folders without films in "
            "common"
        )
    if leaks.clean or not all(films.plan.leak_check.clean for films in opened):
        return
    parts = index.groupby("patient")["split"].nunique()
    shared = parts.index[parts > 1]
    raise ValueError(
        f"{len(shared):,} patients stand in other parts in one of these folders than in another, such as {shared[0]}: "
        "the model would be measured on patients that it was trained on. Prepare these films of one collection "
        "together, or with the same split"
    )


def _plan(
    opened: Sequence[Prepared],
    names: Sequence[str],
    findings: Findings,
    index: pd.DataFrame,
    boxes: pd.DataFrame,
    leaks: LeakCheck,
) -> Plan:
    plans = [films.plan for films in opened]
    members = tuple(
        Member(
            name=name,
            collection=plan.source.collection,
            fingerprint=plan.fingerprint,
            films=len(films.index),
        )
        for films, plan, name in zip(opened, plans, names, strict=True)
    )
    rules = ", ".join(dict.fromkeys(plan.split.rule for plan in plans))
    digest = hashlib.sha256(f"{findings.model_dump_json()}{members}".encode())
    whole = AND.join(dict.fromkeys(names))
    return Plan(
        format=FORMAT,
        labels=findings.labels,
        findings=findings,
        size=plans[0].size,
        resize_rule=plans[0].resize_rule,
        source=Source(
            name=whole,
            collection=whole,
            tables=tuple(table for plan in plans for table in plan.source.tables),
            notes=_notes(opened, names),
        ),
        split=SplitPlan(rule=f"each collection's own ({rules})", seed=plans[0].split.seed),
        leak_check=leaks,
        counts=_counts(plans, findings, index, boxes),
        versions=plans[0].versions,
        fingerprint=digest.hexdigest(),
        joined=members,
    )


def _counts(plans: Sequence[Plan], findings: Findings, index: pd.DataFrame, boxes: pd.DataFrame) -> Counts:
    summed = ("table", "left_out", "drawn", "rejected", "duplicate_stems", "boxes_left_out")
    return Counts(
        **{name: sum(getattr(plan.counts, name) for plan in plans) for name in summed},
        prepared=len(index),
        boxes=len(boxes),
        boxed_images=int(boxes["row"].nunique()),
        parts=part_counts(index),
        positives={label: int((index[label] == 1).sum()) for label in findings.labels},
    )


def _notes(opened: Sequence[Prepared], names: Sequence[str]) -> tuple[str, ...]:
    """What cannot be told about the patients that two folders may share."""
    notes = []
    for (one, mine), (other, theirs) in combinations(zip(opened, names, strict=True), 2):
        if mine != theirs and UNDER_OTHER_NAMES.get(mine, mine) == UNDER_OTHER_NAMES.get(theirs, theirs):
            notes.append(
                f"{mine} and {theirs} hold films of the same patients under other names, so nobody can tell whether "
                "patients trained on in one are measured in the other"
            )
        if not (one.plan.source.collection and other.plan.source.collection):
            shared = set(one.index["patient"].astype(str)) & set(other.index["patient"].astype(str))
            if shared:
                notes.append(
                    f"{len(shared):,} patients are called alike in {mine} and {theirs}, such as {min(shared)}: they "
                    "are taken for others. If they are the same people, prepare these films together"
                )
    return tuple(notes)
