"""The budget: costs that are counted, crops at annotated places, and comparisons fixed before the run."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from evaluated import SIZE, write_prepared

from agcxr.config import Augment, Fusion, Local, Stage, Train
from agcxr.data import augment
from agcxr.data.dataset import films as films_of
from agcxr.data.prepared import open_prepared
from agcxr.experiments.ablate import ablate
from agcxr.experiments.ablation import Draws, Planned, SeedDifference
from agcxr.experiments.budget import holm, place_alone
from agcxr.experiments.budget_tables import verdict
from agcxr.experiments.controls import arms
from agcxr.experiments.cost import film_cost, side_of_cost, sized
from agcxr.inference.predictor import Predictor
from agcxr.training import frozen
from agcxr.training.frozen import ALL
from agcxr.training.stages import build, train

torch.set_num_threads(1)


def settings(**local: object) -> Train:
    common: dict[str, object] = {"epochs": 1, "batch_size": 6}
    crops = {"min_side": 4, "crop_source": "prepared", "window": 0.25, "statistic": "l2"}
    return Train(
        backbone="test_resnet",
        weights="none",
        output_stride=8,
        image_size=48,
        resize=54,
        augment=Augment(flip=0),
        global_=Stage(**common),
        local=Local(**(common | crops | local)),
        fusion=Fusion(**common),
        precision="fp32",
    )


# --- cost -------------------------------------------------------------------------------------------------------------


def test_operations_are_those_of_the_convolutions_and_products():
    """A multiplication and an addition are two; the norms are folded, and cost nothing."""
    base = settings()
    net = build(base).global_branch.eval()
    wanted = 2 * net.head.in_features * net.head.out_features

    def count(layer, given, out):
        nonlocal wanted
        wanted += 2 * layer.weight.numel() // layer.out_channels * out.numel()

    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        net(torch.zeros(1, 1, 48, 48))
    assert film_cost(base, "global") == wanted
    fusion = 2 * 2 * net.head.in_features * net.head.out_features
    assert film_cost(base) == 2 * wanted + fusion
    assert film_cost(settings(crops=3)) == 4 * wanted + fusion - 2 * 2 * net.head.in_features * net.head.out_features
    assert film_cost(settings(look="oracle")) == film_cost(base)
    alone = settings(look="whole", window=0.0)
    assert film_cost(alone, "local") == wanted
    assert film_cost(base, "local") == film_cost(base)


def test_the_side_of_equal_cost_is_the_first_that_costs_as_much():
    base = settings()
    side = side_of_cost(base, film_cost(base))
    assert side % 8 == 0
    assert film_cost(sized(base, side), "global") >= 0.98 * film_cost(base) > film_cost(sized(base, side - 8), "global")
    assert sized(base, 96).resize == 108
    assert side_of_cost(base, film_cost(base) // 2) == 48


def test_arms_are_answers_of_equal_cost():
    found = {arm.name: arm for arm in arms(settings(), ["budget"])}
    cost = {name: film_cost(arm.settings, arm.branch) for name, arm in found.items()}
    alone = cost.pop("longer training"), cost.pop("global branch")
    larger = cost.pop("whole view, larger") / cost["attention"]
    assert 0.98 <= larger < (9 / 8) ** 2  # no cell of the feature grid more than it takes
    assert all(one == pytest.approx(cost["attention"], rel=0.02) for one in cost.values())
    assert alone == (film_cost(settings(), "global"),) * 2
    assert found["two networks"].folder == found["longer training"].folder
    assert found["global branch"].folder == found["attention"].folder == "attention"
    assert found["whole view, larger"].settings.image_size > 48
    assert {name for name in found if name.startswith("attention")} == {"attention", "attention, cam"}


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def placed(tmp_path_factory) -> Path:
    """Every film has a place, the first two a second one; whether it has a nodule changes nothing about it."""
    folder = write_prepared(tmp_path_factory.mktemp("films") / "prepared")
    index = pd.read_parquet(folder / "index.parquet")
    rng = np.random.default_rng(1)
    start = rng.uniform(0.2, 0.7, (len(index), 2))
    rows = [
        (name, "Nodule", x, y, x + 0.05, y + 0.05, n)
        for n, (name, (x, y)) in enumerate(zip(index["image_id"], start, strict=True))
    ]
    rows += [(index["image_id"][n], "Nodule", 0.5, 0.5, 0.6, 0.6, n) for n in range(2)]
    places = pd.DataFrame(rows, columns=["image_id", "finding", "x0", "y0", "x1", "y1", "row"])
    places.to_parquet(folder / "places.parquet")
    ill = set(np.flatnonzero(index["Nodule"] == 1))
    places[places["row"].isin(ill)].to_parquet(folder / "boxes.parquet")
    sizes = pd.DataFrame({"image": index["image_id"][sorted(ill)], "finding": "Nodule"})
    sizes["diameter_cm"] = 1 + np.arange(len(sizes)) / 20
    sizes.to_csv(folder / "lesions.csv", index=False)
    return folder


def test_places_become_crops_about_the_cell_that_holds_them():
    base = settings(window=0.25, look="oracle")
    nan = float("inf")
    place_BR4 = torch.tensor(
        [[[26.0, 1.0, 28.0, 3.0], [0, 0, 0, 0]], [[-nan, -nan, nan, nan], [47.0, 47.0, 52.0, 52.0]]]
    )
    box_BR4 = frozen.around(place_BR4, base)
    assert box_BR4[0].tolist() == [[22.0, 0.0, 34.0, 12.0], [0, 0, 0, 0]]  # cell (3, 0), its middle (28, 4)
    assert box_BR4[1].tolist() == [[0, 0, 48, 48], [36.0, 36.0, 48.0, 48.0]]
    free = frozen.around(place_BR4, settings(window=0.0, look="oracle"))
    assert free[0, 0].tolist() == [26.0, 2.0, 30.0, 6.0]  # twice the place's side


def test_a_crop_follows_the_place_and_nothing_else(placed):
    """The same boxes on a folder whose labels are turned round: they tell nothing."""
    prepared = open_prepared(placed)
    base = settings(look="oracle", crops=2)
    part = films_of(prepared, "train")
    place_NR4 = frozen.places(part, 2)
    assert place_NR4.shape == (6, 2, 4)
    assert frozen.geometry.present(place_NR4).tolist() == [[True, True]] * 2 + [[True, False]] * 4
    views = augment.centre_views(6, SIZE, image_size=48, resize=54)
    box_NR4 = frozen.box_in_view(place_NR4, views, base)
    middle = (place_NR4[:, 0, :2] + place_NR4[:, 0, 2:]) / 2
    seen = augment.map_boxes(box_NR4[:, 0], views, 48, to="prepared")
    assert ((seen[:, :2] <= middle) & (middle <= seen[:, 2:])).all()
    flipped = prepared.index.assign(Nodule=1 - prepared.index["Nodule"])
    other = films_of(
        type(prepared)(placed, prepared.images, flipped, prepared.boxes, prepared.plan, (), prepared.places), "train"
    )
    assert torch.equal(frozen.places(other, 2), place_NR4)


def test_a_film_without_a_place_is_shown_whole(placed):
    part = films_of(open_prepared(placed), "train")
    part.place_NR4[3] = 0
    assert frozen.places(part, 1)[3].tolist() == [list(ALL)]


def test_films_without_places_are_refused_before_any_epoch(placed, tmp_path):
    plain = write_prepared(tmp_path / "plain")
    with pytest.raises(ValueError, match="of these films no places are known; those of a phantom are"):
        train(plain, settings(look="oracle"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="crops are taken, which have nothing to teach it; set the strategy to G_L_F"):
        Train.model_validate(settings(look="oracle").model_dump(by_alias=True) | {"strategy": "GLF"})


# --- comparisons ------------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx((0.04, 0.09, 0.09, 0.5))
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    found = holm([0.02, float("nan"), 0.03])
    assert found[0] == pytest.approx(0.04)
    assert np.isnan(found[1])
    assert found[2] == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("value", "p", "said"),
    [
        (0.1, 0.049, "yes"),
        (-0.1, 0.01, "no, the other way round"),
        (0.1, 0.05, "not shown"),
        (0.1, float("nan"), "not shown"),
    ],
)
def test_a_verdict_is_no_stronger_than_the_corrected_p(value, p, said):
    gap = SeedDifference(value=value, low=-1, high=1, p=0.0001)
    assert verdict(Planned(asks="?", arm="attention", against="random", on="small", gap=gap, p_holm=p)) == said


# --- the whole of it --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(placed, tmp_path_factory):
    out = tmp_path_factory.mktemp("budget") / "out"
    return ablate(
        placed, settings(), out, only=["budget"], seeds=(0, 1), lesions=placed / "lesions.csv", resamples=40,
        progress=False,
    )  # fmt: skip


def test_a_whole_budget(done, placed):
    study = done.results.budget
    assert study is not None
    by_name = {arm.name: arm for arm in study.arms}
    frames = {
        name: pd.read_parquet(done.folder / "seed0" / arm.folder / "predictions-test.parquet")
        for name, arm in by_name.items()
    }
    # one global branch at the base side, of which the answers of the whole view are others
    assert by_name["global branch"].steps == 1
    assert by_name["longer training"].steps == by_name["whole view, larger"].steps == 2
    assert by_name["attention"].steps == 3
    assert len(study.planned) == 7
    gap = next(one for one in study.planned if (one.arm, one.against, one.on) == ("attention", "random", "small")).gap
    assert gap.value == pytest.approx(by_name["attention"].small.value - by_name["random"].small.value)
    assert by_name["whole view, larger"].small_gap.value == 0
    # a perfect look holds the first place of each film, in the crop that the frame states
    assert by_name["oracle"].crop_share.value > 0.95
    oracle = frames["oracle"]
    place = open_prepared(placed).places.drop_duplicates("row").set_index("row").loc[oracle["row"]].reset_index()
    for low, high, edge in (("x0", "x1", "box_x"), ("y0", "y1", "box_y")):
        assert ((place[low] + place[high]) / 2).between(oracle[f"{edge}0"], oracle[f"{edge}1"]).all()
    assert study.peak_gap.value == pytest.approx(by_name["attention"].peak_hit.value - study.floors.prior)
    assert by_name["oracle"].peak_hit is None
    assert 0 <= by_name["attention"].peak_hit.value <= 1
    assert oracle["crop_share"].notna().sum() == (oracle["label_Nodule"] == 1).sum()
    assert {one.arm for one in study.bins} == set(by_name)


def test_the_page_and_the_figure(done):
    text = (done.folder / "table.md").read_text()
    assert text.index("| more pixels where it matters, or everywhere? | attention − whole view, larger | nodules |") > 0
    assert "![Every arm's AUROC minus that of the whole view, larger](budget.png)" in text
    assert text.count("\n| attention (ref.) | 48 px |") == 1
    assert "figure.png" not in text
    assert not (done.folder / "figure.png").exists()
    assert (done.folder / "budget.png").read_bytes().startswith(b"\x89PNG")
    ElementTree.fromstring((done.folder / "budget.svg").read_bytes())


def test_a_model_of_annotated_places_answers_for_no_other_film(done):
    run = done.folder / "seed0" / "budget-oracle"
    assert json.loads((run / "model" / "config.json").read_text())["model"]["look"] == "oracle"
    predictor = Predictor.from_pretrained(run)
    with pytest.raises(ValueError, match="is shown its crops by annotations, which a film alone does not have"):
        predictor.predict_arrays(np.zeros((1, SIZE, SIZE), np.uint8))


def test_films_without_places_have_no_ceiling(placed, tmp_path):
    films = write_prepared(tmp_path / "plain")
    pd.read_parquet(placed / "boxes.parquet").to_parquet(films / "boxes.parquet")
    study = ablate(films, settings(), tmp_path / "out", only=["budget"], resamples=20, progress=False).results.budget
    assert "oracle" not in {arm.name for arm in study.arms}
    assert study.share_of_oracle is None
    assert len(study.planned) == 6
    assert np.isnan(study.floors.prior) != (pd.read_parquet(films / "boxes.parquet")["row"] < 6).any()
    index = pd.read_parquet(films / "index.parquet")
    index.assign(Nodule=0).to_parquet(films / "index.parquet")
    with pytest.raises(
        ValueError, match="the budget is compared on Nodule, and the part 'test' of .*plain has no films"
    ):
        ablate(films, settings(), tmp_path / "other", only=["budget"], progress=False)
    assert not (tmp_path / "other").exists()


def test_a_place_that_gives_the_label_away_is_found_out(placed):
    """Films with a nodule have theirs on the left: the place alone tells them, and here it does not."""
    films = open_prepared(placed)
    draws = Draws(resamples=40, level=0.95, seed=0)
    rows = np.arange(6, 78)
    index = films.index.assign(split="train")
    frame = pd.DataFrame({"row": rows, "patient": index["patient"][rows], "label_Nodule": index["Nodule"][rows]})
    fair = place_alone(replace(films, index=index), frame, draws).value  # fitted on the films themselves
    left = films.places.assign(x0=np.where(index["Nodule"][films.places["row"]] == 1, 0.1, 0.7))
    assert place_alone(replace(films, index=index, places=left), frame, draws).value > 0.99 > fair
