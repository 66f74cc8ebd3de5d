"""Batches: every film where it belongs, orders that depend on the seed alone, parts dealt out to processes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from agcxr.data.dataset import Batches, Films, Shard, epoch_seed, evaluation_batches, films, train_batches
from agcxr.data.prepared import Plan, Prepared
from agcxr.labels import LABELS


def ten(rows: list[int] | None = None) -> Films:
    """Films of 2 x 2 pixels; film i of images is full of i."""
    images = np.arange(20, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    row = np.array(rows or range(5, 15))
    return Films(images, row, np.repeat(row[:, None], 15, 1).astype(np.float32), row.astype(str))


def rows_of(batches: Batches) -> list[list[int]]:
    return [batch.row_B.tolist() for batch in batches]


def test_a_batch_carries_pixels_labels_and_rows_in_the_order_asked_for():
    batch = ten([3, 8, 9, 17]).read(np.array([2, 0, 3]), np.array([0, 1, 2]))
    assert batch.row_B.tolist() == [9, 3, 17]
    assert batch.image_B1SS.shape == (3, 1, 2, 2)
    assert batch.image_B1SS.dtype == torch.uint8
    assert batch.image_B1SS[:, 0, 1, 0].tolist() == [9, 3, 17]
    assert batch.label_BK[:, 4].tolist() == [9, 3, 17]
    assert batch.place_B.tolist() == [0, 1, 2]
    assert len(batch) == 3


def test_an_epoch_is_a_shuffle_that_the_seed_decides():
    first, again, other = (rows_of(train_batches(ten(), 4, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(row for rows in first for row in rows) == list(range(5, 15))
    assert [len(batch) for batch in first] == [4, 4, 2]


def test_batches_can_be_read_twice():
    batches = train_batches(ten(), 4, seed=0)
    assert rows_of(batches) == rows_of(batches)
    assert len(batches) == 3


def test_a_last_batch_of_one_film_is_left_out_of_training():
    assert [len(rows) for rows in rows_of(train_batches(ten(), 3, seed=0))] == [3, 3, 3]
    assert [len(rows) for rows in rows_of(train_batches(ten().first(1), 3, seed=0))] == [1]


def test_steps_of_two_batches_show_the_films_of_one_of_twice_the_size():
    for n in range(1, 11):
        one = rows_of(train_batches(ten().first(n), 6, seed=3))
        two = rows_of(train_batches(ten().first(n), 3, accumulate=2, seed=3))
        steps = [[row for rows in two[i : i + 2] for row in rows] for i in range(0, len(two), 2)]
        assert steps == one
    assert [len(rows) for rows in rows_of(train_batches(ten(), 3, accumulate=2, seed=3))] == [3, 3, 2, 2]
    assert [len(rows) for rows in rows_of(train_batches(ten(), 4, accumulate=4, seed=3))] == [3, 3, 4]


def test_two_processes_and_two_batches_a_step():
    films = ten()
    one = rows_of(train_batches(films, 8, seed=3))
    two = [rows_of(train_batches(films, 4, accumulate=2, seed=3, shard=Shard(rank, 2))) for rank in range(2)]
    assert [[len(rows) for rows in batches] for batches in two] == [[2, 2], [2, 2]]
    assert sorted(row for batches in two for rows in batches for row in rows) == sorted(one[0])


def test_two_processes_take_the_steps_of_one():
    one = rows_of(train_batches(ten(), 4, seed=3))
    two = [rows_of(train_batches(ten(), 4, seed=3, shard=Shard(rank, 2))) for rank in range(2)]
    assert [len(batches) for batches in two] == [2, 2]  # the last one would be of one film a process
    for step, (left, right) in enumerate(zip(*two, strict=True)):
        assert sorted(left + right) == sorted(one[step])


def test_places_count_over_all_processes():
    places = [b.place_B.tolist() for rank in range(2) for b in train_batches(ten(), 4, seed=3, shard=Shard(rank, 2))]
    assert places == [[0, 2], [4, 6], [1, 3], [5, 7]]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_evaluation_counts_every_film_once(world, batch_size):
    shards = [list(evaluation_batches(ten(), batch_size, shard=Shard(rank, world))) for rank in range(world)]
    assert len({len(batches) for batches in shards}) == 1
    counted = [
        (int(place), int(row))
        for batches in shards
        for batch in batches
        for place, row in zip(batch.place_B, batch.row_B, strict=True)
        if place >= 0
    ]
    assert sorted(counted) == [(i, i + 5) for i in range(10)]


def test_without_pixels_nothing_is_read():
    batch = next(iter(evaluation_batches(replace(ten(), pixels=False), 4)))
    assert batch.image_B1SS.shape == (4, 1, 0, 0)
    assert batch.row_B.tolist() == [5, 6, 7, 8]


def test_an_abandoned_epoch_ends_its_thread():
    iterator = iter(evaluation_batches(ten(), 1))
    next(iterator)
    iterator.close()  # joins the reading thread


def test_epoch_seeds_differ_by_every_part():
    seeds = {epoch_seed(seed, stage, epoch) for seed in range(3) for stage in range(3) for epoch in range(9)}
    assert len(seeds) == 81
    assert epoch_seed(0, 1, 2) == epoch_seed(0, 1, 2)


def test_parts_of_a_prepared_folder():
    index = pd.DataFrame(np.eye(6, 15, dtype=np.float32), columns=list(LABELS))
    index["split"] = ["val", "train", "test", "train", "val", "train"]
    index["patient"] = list("aabbcd")
    images = np.zeros((6, 4, 4), np.uint8)
    prepared = Prepared(Path("here"), images, index, pd.DataFrame(), Plan.model_construct())
    train = films(prepared, "train")
    assert train.row_N.tolist() == [1, 3, 5]
    assert train.label_NK.argmax(1).tolist() == [1, 3, 5]
    assert train.patient_N.tolist() == ["a", "b", "d"]
    assert train.first(2).patient_N.tolist() == ["a", "b"]
    assert (len(train), train.size, len(train.first(2)), len(train.first(None))) == (3, 4, 2, 3)
    with pytest.raises(ValueError, match=r"here has no films in the part 'dev' \(it has: train 3, val 2, test 1\)"):
        films(prepared, "dev")


def test_batches_that_do_not_fit_the_devices():
    with pytest.raises(ValueError, match="batch_size is 5 films over 2 devices; expected a multiple of 2, such as 4"):
        train_batches(ten(), 5, seed=0, shard=Shard(0, 2))
    with pytest.raises(ValueError, match="1 films cannot be dealt out to 2 devices"):
        train_batches(ten().first(1), 4, seed=0, shard=Shard(0, 2))
