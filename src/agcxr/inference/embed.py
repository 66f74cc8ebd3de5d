"""`agcxr embed`: films or a prepared folder -> Parquet, a row a film with the global branch's pooled features.

Written a batch at a time, so memory does not grow with the number of films; the file has its name only when complete.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agcxr.data.prepared import Prepared, open_prepared
from agcxr.data.radiograph import stem
from agcxr.inference.batch import open_films
from agcxr.inference.engine import Engine
from agcxr.inference.load import load_engine
from agcxr.inference.prediction import Failure, Prediction
from agcxr.inference.stream import batches, to_film
from agcxr.progress import ProgressBar

FEATURE = "feature"
"""Column of the features, a list of D float32; beside it `image_id` (how the film was given), `error` ("" or why it
could not be read; its features are then null) and, of films as files, `intake` (accept, warn or refuse)."""

BATCH = 32
Row = dict[str, Any]


def embed(
    model: str | os.PathLike[str],
    inputs: Sequence[str],
    out: str | os.PathLike[str],
    *,
    device: str | None = None,
    progress: bool = True,
) -> int:
    """Write the features of every film; returns how many films have some.

    Args:
        model: run folder, model folder, hub id, or an exported file.
        inputs: files, folders and globs as `predict` takes them, or one prepared folder.
        out: Parquet file to write.
    Raises ValueError for a name that is not *.parquet, or inputs without films.
    """
    target = Path(out)
    if target.suffix.lower() != ".parquet":
        raise ValueError(f"{target} is to hold a Parquet table; give a name that ends in .parquet")
    engine = load_engine(model, device)
    prepared = len(inputs) == 1 and (Path(inputs[0]) / "plan.json").is_file()
    batches = _of_prepared(engine, open_prepared(inputs[0])) if prepared else _of_files(engine, inputs)
    # The first film that can be read says how many features there are.
    waiting, first = [], None
    for batch in batches:
        waiting.append(batch)
        first = next((row[FEATURE] for row in batch if row[FEATURE] is not None), None)
        if first is not None:
            break
    if first is None:
        raise ValueError(f"none of the films in {', '.join(inputs)} could be read: `agcxr predict` says why of each")
    schema = pa.schema(
        [
            ("image_id", pa.string()),
            (FEATURE, pa.list_(pa.float32(), len(first))),
            ("intake", pa.string()),
            ("error", pa.string()),
        ],
        metadata={"model": os.fspath(model), "features": "pooled, of the global branch"},
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    count = 0
    with (
        pq.ParquetWriter(partial, schema) as file,
        ProgressBar(desc="embed", unit=" films", disable=not progress, smoothing=0.1) as bar,
    ):
        for batch in itertools.chain(waiting, batches):
            table = pa.Table.from_pylist(batch, schema=schema)
            file.write_table(table)
            count += len(batch) - table[FEATURE].null_count
            bar.update(len(batch))
    os.replace(partial, target)
    return count


def read_embedding(path: str | os.PathLike[str], image_ids: Sequence[str]) -> np.ndarray:
    """Features N x D of these films, in this order, from a file that `embed` wrote.

    Films are matched by name, without folders and suffixes of films. Raises ValueError for a file of another kind, and
    for films that it lacks.
    """
    try:
        table = pq.read_table(path, columns=["image_id", FEATURE])
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise ValueError(f"{path} is no table of features ({error}); make one with `agcxr embed`") from error
    table = table.filter(pc.is_valid(table[FEATURE]))
    place = {stem(name): row for row, name in enumerate(table["image_id"].to_pylist())}
    lacking = [name for name in image_ids if stem(name) not in place]
    if lacking:
        raise ValueError(
            f"{path} lacks {len(lacking):,} of {len(image_ids):,} films, such as {lacking[0]}; make it of the prepared "
            "folder: `agcxr embed RUN PREPARED --out FILE.parquet`"
        )
    rows = table[FEATURE].combine_chunks()
    values = rows.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1)
    return np.asarray(values[[place[stem(name)] for name in image_ids]])


def _of_prepared(engine: Engine, films: Prepared) -> Iterator[list[Row]]:
    names = films.index["image_id"].astype(str).to_numpy()
    for start in range(0, len(names), BATCH):
        rows = np.arange(start, min(start + BATCH, len(names)))
        answers = engine.predict_arrays(films.images, rows, batch_size=BATCH)
        assert answers.feature_ND is not None
        yield [
            {"image_id": name, FEATURE: feature, "intake": None, "error": ""}
            for name, feature in zip(names[rows], answers.feature_ND, strict=True)
        ]


def _of_files(engine: Engine, inputs: Sequence[str]) -> Iterator[list[Row]]:
    _, walk = open_films(inputs, [])
    for answers in batches(engine.stream(map(to_film, walk), batch_size=BATCH), BATCH):
        yield [_row(answer) for answer in answers]


def _row(answer: Prediction | Failure) -> Row:
    if isinstance(answer, Failure):
        return {"image_id": answer.name, FEATURE: None, "intake": None, "error": answer.reason}
    decision = None if answer.intake is None else answer.intake.decision
    return {"image_id": answer.name, FEATURE: answer.features, "intake": decision, "error": ""}
