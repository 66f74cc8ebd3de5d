"""What is computed once equals what is computed every time."""

from dataclasses import replace

import pytest
import torch
from tiny import tiny_config

from agcxr import geometry
from agcxr.config import Augment, Fusion, Train
from agcxr.data.augment import random_views
from agcxr.data.dataset import Films, Shard, evaluation_batches, films
from agcxr.data.prepared import open_prepared
from agcxr.models.agcnn import AGCNN
from agcxr.training import frozen, stages
from agcxr.training.frozen import Machine
from agcxr.training.run_folder import RunFolder
from agcxr.training.tasks import Data

torch.set_num_threads(1)
ALONE = Machine(torch.device("cpu"), Shard(), lambda tensor: tensor[None], torch.inference_mode)


@pytest.fixture(scope="module")
def train_films(prepared) -> Films:
    return films(open_prepared(prepared), "train")


def network(config: Train) -> AGCNN:
    torch.manual_seed(1)
    return stages.build(config).freeze("global", "local")


@pytest.mark.parametrize("crop_source", ["view", "prepared"])
def test_features_are_those_of_the_network(train_films, crop_source):
    config = tiny_config(image_size=36, resize=40).model_copy(
        update={"local": tiny_config().local.model_copy(update={"crop_source": crop_source})}
    )
    model = network(config)
    views = frozen.centre(len(train_films), train_films, config)
    found = frozen.film_features(model, train_films, views, config, 7, ALONE)
    (batch,) = evaluation_batches(train_films, 100)
    shown = frozen.picture(batch, views, config)
    assert (shown.sharp is None) == (crop_source == "view")
    out = model(shown.view_B1HW, shown.sharp)
    expected = torch.cat([out.pooled_global_BD, out.pooled_local_BD], 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("crops", [{}, {"crops": 3}, {"crops": 4, "window": 0.3}], ids=str)
def test_boxes_of_a_film_follow_the_view(train_films, crops):
    """Per image: the boxes of the evaluation view, found again in any other view of the film."""
    config = tiny_config(local=tiny_config().local.model_copy(update=crops))
    model = network(config)
    box_NR4 = frozen.film_boxes(model, train_films, config, 8, ALONE)
    centre = frozen.centre(len(train_films), train_films, config)
    (batch,) = evaluation_batches(train_films, 100)
    of_view = frozen.look(model, frozen.picture(batch, centre, config)).box_BR4
    assert of_view.shape == (len(train_films), crops.get("crops", 1), 4)
    torch.testing.assert_close(frozen.box_in_view(box_NR4, centre, config), of_view, atol=1e-3, rtol=0)
    mirrored = frozen.box_in_view(box_NR4, replace(centre, flip_B=~centre.flip_B), config)
    some = geometry.present(of_view)
    assert some.sum() > len(some) if crops else some.all()
    torch.testing.assert_close(mirrored[some][:, [0, 2]], 48 - of_view[some][:, [2, 0]], atol=1e-3, rtol=0)
    assert not mirrored[~some].any()


@pytest.mark.parametrize(
    ("look", "flat", "whole"),
    [("whole", False, True), ("attention", True, True), ("centre", True, True), ("attention", False, False)],
    ids=["control", "fallback", "fallback of a control", "attention"],
)
def test_a_film_that_is_shown_whole_is_shown_whole_in_every_view(train_films, look, flat, whole):
    """Not the place of its evaluation view, which another view shows only in part. `flat`: attention falls back."""
    config = tiny_config(local=tiny_config().local.model_copy(update={"attention_per": "image", "look": look}))
    model, draw = network(config), torch.Generator().manual_seed(0)
    if flat:
        model.load_state_dict({key: torch.zeros_like(value) for key, value in model.state_dict().items()})
    box_NR4 = frozen.film_boxes(model, train_films, config, 8, ALONE)
    for augment in (Augment(), Augment(crop="random-resized")):
        views = random_views(
            len(train_films), train_films.size, image_size=48, resize=64, augment=augment, generator=draw
        )
        whole_N = (frozen.box_in_view(box_NR4, views, config)[:, 0] == torch.tensor([0.0, 0, 48, 48])).all(1)
        assert whole_N.all() == whole


def test_boxes_of_films_are_found_once_for_all_views(prepared, tmp_path, monkeypatch):
    """Attention per image, three cached views: one pass for the boxes of a part, and one a view for its features."""
    passes = {"boxes": 0, "features": 0}
    counted = {name: getattr(frozen, f"film_{name}") for name in passes}

    def count(name):
        def call(*args):
            passes[name] += 1
            return counted[name](*args)

        return call

    for name in passes:
        monkeypatch.setattr(frozen, f"film_{name}", count(name))
    local = tiny_config().local.model_copy(update={"attention_per": "image"})
    config = tiny_config(local=local, fusion=Fusion(epochs=1, batch_size=8, cached_views=3))
    opened = open_prepared(prepared)
    data = Data(films(opened, "train"), films(opened, "val"))
    stages.train_stage("fusion", network(config), config, data, RunFolder(tmp_path), progress=False)
    assert passes == {"boxes": 2, "features": 4}


def test_features_are_of_the_boxes_given(train_films):
    config = tiny_config()
    model = network(config)
    centre = frozen.centre(len(train_films), train_films, config)
    box_NR4 = frozen.film_boxes(model, train_films, config, 8, ALONE)
    looked = frozen.film_features(model, train_films, centre, config, 8, ALONE)
    given = frozen.film_features(model, train_films, centre, config, 8, ALONE, box_NR4)
    torch.testing.assert_close(given, looked, atol=1e-4, rtol=0)
    moved = frozen.film_features(model, train_films, centre, config, 8, ALONE, box_NR4 * 0.5)
    assert not torch.allclose(moved, looked, atol=1e-2)


def test_the_processes_parts_make_the_whole(train_films):
    config = tiny_config()
    model = network(config)
    alone = frozen.film_boxes(model, train_films, config, 8, ALONE)
    for world in (2, 3):
        pieces: list[list[torch.Tensor]] = []
        for rank in range(world):
            piece: list[torch.Tensor] = []

            def keep(tensor: torch.Tensor, piece: list[torch.Tensor] = piece) -> torch.Tensor:
                piece.append(tensor)
                return tensor[None]

            frozen.film_boxes(model, train_films, config, 8, replace(ALONE, shard=Shard(rank, world), gather=keep))
            pieces.append(piece)
        gathered = iter([torch.stack(parts) for parts in zip(*pieces, strict=True)])
        whole = frozen.whole(pieces[0][0], pieces[0][1], len(train_films), lambda _: next(gathered))  # noqa: B023
        torch.testing.assert_close(whole, alone, atol=1e-4, rtol=0)


def test_large_caches_stay_on_the_host():
    accelerator = torch.device("meta")
    assert frozen.feature_device(1, 80_000, 4096, accelerator) == accelerator
    assert frozen.feature_device(10, 80_000, 4096, accelerator) == torch.device("cpu")


@pytest.mark.parametrize("attention_per", ["view", "image"])
def test_cached_stage_three_equals_the_uncached_one(prepared, tmp_path, attention_per):
    """With augmentation off: the same losses, scores and weights."""
    results = []
    for cached in (0, 1):
        local = tiny_config().local.model_copy(update={"attention_per": attention_per})
        fusion = Fusion(epochs=3, batch_size=8, optimiser="adamw", lr=1e-2, cached_views=cached)
        config = tiny_config(augment=Augment(crop="none", flip=0), local=local, fusion=fusion)
        model = network(config)
        opened = open_prepared(prepared)
        data = Data(films(opened, "train"), films(opened, "val"))
        run = RunFolder(tmp_path / str(cached))
        summary = stages.train_stage("fusion", model, config, data, run, progress=False)
        results.append((summary.val_auc, model.fusion_head.weight.detach()))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-5, rtol=0)
