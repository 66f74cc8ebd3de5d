"""Several boxes of a view: windows and regions one after the other, and what the local branch makes of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from agcxr import config, geometry
from agcxr.labels import FINDINGS, LABELS, NO_FINDING
from agcxr.models.agcnn import AGCNN, Branch, Gate
from agcxr.models.attention import Attention, attend, elsewhere
from agcxr.models.regions import largest_region
from agcxr.models.windows import LATTICE, centred, lattice, windows
from agcxr.training import losses
from models.test_agcnn import films, network


def peaks(*places: tuple[int, int, float], grid: int = LATTICE) -> torch.Tensor:
    """A map of zeros but for (row, column, value); as fine as the lattice, so that places are exact."""
    heat = torch.zeros(1, grid, grid)
    for row, column, value in places:
        heat[0, row, column] = value
    return heat


def plain_windows(heat: torch.Tensor, size: int, share: float, count: int) -> list[list[int]]:
    """The same sentences, written out with loops over places."""
    level = (lattice(heat[None])[0] * 4095).round()
    n, side, boxes = round(share * LATTICE), round(share * size), []
    for _ in range(count):
        best, at = 0.0, None
        for row in range(LATTICE - n + 1):
            for column in range(LATTICE - n + 1):
                total = level[row : row + n, column : column + n].sum().item()
                if total > best:
                    best, at = total, (row, column)
        if at is None:
            boxes.append([0, 0, 0, 0])
            continue
        row, column = at
        x, y = (round((first + n / 2) * size / LATTICE - side / 2) for first in (column, row))
        x, y = (min(max(start, 0), size - side) for start in (x, y))
        boxes.append([x, y, x + side, y + side])
        level[row : row + n, column : column + n] = 0
    return boxes


def test_worked_example():
    """Of equal windows the first in reading order: the peak lies in its last row and column."""
    heat = peaks((20, 40, 1.0), (50, 10, 0.5))
    assert windows(heat, (256, 256), 0.25, 3)[0].tolist() == [
        [25 * 4, 5 * 4, 41 * 4, 21 * 4],
        [0, 35 * 4, 16 * 4, 51 * 4],
        [0, 0, 0, 0],  # no heat is left
    ]


def test_windows_equal_a_plain_version():
    heat = torch.rand(4, 7, 7, generator=torch.Generator().manual_seed(0))
    heat[2:] = (heat[2:] > 0.6).float()  # plateaus: many equal windows
    found = windows(heat, (96, 96), 0.3, 4)
    for k in range(4):
        assert found[k].tolist() == plain_windows(heat[k], 96, 0.3, 4)


def test_batched_equals_single_to_the_bit():
    heat = (torch.rand(16, 7, 7, generator=torch.Generator().manual_seed(1)) * 3).floor() / 3
    together = windows(heat, (224, 200), 0.25, 6)
    assert all(torch.equal(windows(heat[k : k + 1], (224, 200), 0.25, 6)[0], together[k]) for k in range(16))
    side = together[..., 2:] - together[..., :2]
    assert (side == torch.tensor([50.0, 56.0])).all()
    assert (together >= 0).all()
    assert (together[..., 2:] <= torch.tensor([200.0, 224.0])).all()


def test_windows_cover_other_heat_each():
    """What a window took is no heat for the next: over a quarter of the view, four take it all and a fifth has none."""
    heat = torch.ones(1, 4, 4)
    assert windows(heat, (64, 64), 0.5, 5)[0].tolist() == [
        [0, 0, 32, 32],
        [32, 0, 64, 32],
        [0, 32, 32, 64],
        [32, 32, 64, 64],
        [0, 0, 0, 0],
    ]


@pytest.mark.parametrize("window", [0.0, 0.25])
def test_one_box_of_attend_is_the_first_of_several(window):
    feature = torch.randn(8, 5, 7, 7, generator=torch.Generator().manual_seed(0))
    options = {"threshold": 0.6, "min_side": 1, "window": window}
    several, one = attend(feature, 56, crops=4, **options), attend(feature, 56, **options)
    assert torch.equal(several.box_B4, one.box_B4)
    assert several.box_BR4.shape == (8, 4, 4)
    assert one.box_BR4.shape == (8, 1, 4)
    assert geometry.present(several.box_BR4).sum(1).min() >= 1
    for k in range(8):
        alone = attend(feature[k : k + 1], 56, crops=4, **options)
        assert torch.equal(alone.box_BR4[0], several.box_BR4[k])


@pytest.mark.parametrize("route", ["runs", "tensor"])
def test_further_regions_are_those_that_are_left(route):
    feature = torch.zeros(1, 1, 8, 8)
    feature[0, 0, 1:4, 1:4] = 1.0
    feature[0, 0, 6, 5:7] = 0.9
    feature[0, 0, 1, 6] = 0.95
    options = {"threshold": 0.7, "crops": 4, "route": route}
    grid = attend(feature, 64, at="grid", min_side=8, **options)
    assert grid.box_BR4[0].tolist() == [[8, 8, 32, 32], [40, 48, 56, 56], [48, 8, 56, 16], [0, 0, 0, 0]]
    assert grid.fallback_B.tolist() == [False]
    assert attend(feature, 64, at="grid", min_side=9, **options).box_BR4[0, 1:].abs().max() == 0
    fine = attend(feature, 64, min_side=1, **options)
    left = fine.mask_BHW
    for box in fine.box_BR4[0, :3]:
        assert largest_region(left, fine.heat_BHW).box_B4.tolist() == [box.tolist()]
        left = left & ~geometry.covered(box[None], (64, 64))
    assert not left.any()
    assert fine.box_BR4[0, 3].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("window", [0.0, 0.25])
def test_a_map_without_a_place_gives_the_whole_view_once(window):
    found = attend(torch.ones(2, 3, 7, 7), (40, 50), crops=3, window=window)
    assert found.fallback_B.all()
    assert found.box_BR4.tolist() == [[[0, 0, 50, 40], [0, 0, 0, 0], [0, 0, 0, 0]]] * 2


def test_evidence_below_zero_everywhere_still_has_a_place():
    feature = -torch.ones(1, 2, 4, 4)
    feature[0, 1, 2, 1] = -0.5
    found = attend(feature, 32, statistic="cam", at="grid", min_side=8)
    assert found.box_B4.tolist() == [[8, 16, 16, 24]]
    assert attend(-torch.ones(1, 2, 4, 4), 32, statistic="cam").fallback_B.all()


# --- the gradient through the place -----------------------------------------------------------------------------------


def test_a_window_is_centred_on_its_heat():
    heat = peaks((20, 40, 1.0))
    box = torch.tensor([[[36.0, 16.0, 52.0, 32.0], [0, 0, 0, 0]]])
    moved = centred(box, heat, (64, 64))
    # Nearly all weight is on the peak's place, whose centre is (40.5, 20.5); the other 255 places weigh e^-10 each.
    weight = 1 / (1 + 255 * torch.tensor(-10.0).exp())
    middle = torch.tensor([44.0, 24.0])  # of the places of the window
    others = (256 * middle - torch.tensor([40.5, 20.5])) / 255
    centre = weight * torch.tensor([40.5, 20.5]) + (1 - weight) * others
    torch.testing.assert_close((moved[0, 0, :2] + moved[0, 0, 2:]) / 2, centre, atol=1e-4, rtol=0)
    assert moved[0, 1].tolist() == [0, 0, 0, 0]
    assert centred(torch.tensor([[[0.0, 0.0, 64.0, 64.0]]]), heat, (64, 64)).tolist() == [[[0, 0, 64, 64]]]


def test_gradients_move_the_window_towards_what_is_rewarded():
    """The reward is to have the window further right: the heat right of its centre must rise, left of it fall."""
    feature = torch.rand(1, 1, 7, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = attend(feature, 56, window=0.4, gradient="place", crops=2)
    found.box_BR4[0, 0, 0].backward()
    assert feature.grad is not None
    x0, y0, x1, y1 = found.box_BR4[0, 0].detach().tolist()
    middle = (x0 + x1) / 2
    inside = feature.grad[0, 0, round(y0 / 8) + 1 : round(y1 / 8) - 1]
    columns = torch.arange(7) * 8 + 4.0
    right = inside[:, (columns > middle) & (columns < x1)]
    assert (right > 0).all()
    plainly = attend(feature, 56, window=0.4, crops=2)
    assert not plainly.box_BR4.requires_grad


def test_a_sampled_crop_is_the_crop_inside_a_window():
    image, box = films(2, 64), torch.tensor([[[8.0, 8, 24, 24], [30, 2, 46, 18]], [[1, 40, 17, 56], [20, 20, 36, 36]]])
    hard = geometry.crop(image, box, 16)
    torch.testing.assert_close(geometry.sample(image, box, 16), hard, atol=1e-5, rtol=0)
    fine = geometry.sample(image, box, 32)[..., 2:-2, 2:-2]
    torch.testing.assert_close(fine, geometry.crop(image, box, 32)[..., 2:-2, 2:-2], atol=1e-5, rtol=0)
    moving = box.clone().requires_grad_()
    geometry.sample(image, moving, 16).square().sum().backward()
    assert (moving.grad.abs() > 0).any()


# --- crops ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("traced", [False, True])
def test_several_boxes_of_an_image_are_cut_as_one_at_a_time(traced):
    image = torch.rand(3, 2, 40, 50, generator=torch.Generator().manual_seed(0)).requires_grad_(traced)
    box = torch.tensor([[[0.0, 0, 50, 40], [3, 4, 20.5, 31], [48, 1, 50, 40], [0, 0, 0, 0]]]).expand(3, -1, -1).clone()
    box[1, :, 1::2] += 0.25
    together = geometry.crop(image, box, (24, 16))
    assert together.shape == (3, 4, 2, 24, 16)
    for r in range(4):
        assert torch.equal(together[:, r], geometry.crop(image, box[:, r], (24, 16)))
    assert geometry.present(box).tolist() == [[True, True, True, False]] * 2 + [[True, True, True, False]]


def test_boxes_that_are_alike_are_cut_as_others_are():
    image = torch.rand(3, 2, 40, 50, generator=torch.Generator().manual_seed(0))
    corner = torch.tensor([[[0.0, 0], [38, 33], [7, 11]], [[1, 0], [2, 9], [7, 7]], [[3, 4], [3, 4], [20, 30]]])
    box = torch.cat([corner, corner + torch.tensor([12.0, 7])], 2)
    found = geometry.crop_alike(image, box, (24, 16))
    assert found is not None
    torch.testing.assert_close(geometry.crop(image, box, (24, 16)), found, atol=0, rtol=0)
    for r in range(3):
        torch.testing.assert_close(found[:, r], geometry.crop(image, box[:, r], (24, 16)), atol=1e-6, rtol=0)
    gray = (image * 255).round()
    whole_numbers = geometry.crop_alike(gray.to(torch.uint8), box, (24, 16))
    torch.testing.assert_close(whole_numbers, geometry.crop_alike(gray, box, (24, 16)), atol=0, rtol=0)


@pytest.mark.parametrize("shift", [[0.5, 0, 0.5, 0], [0, 0, 1, 0], [-8, 0, -8, 0], [50, 0, 50, 0]], ids=str)
def test_boxes_that_are_not_alike_or_not_inside_are_not(shift):
    box = torch.tensor([[[0.0, 0, 12, 7], [7, 11, 19, 18]]])
    assert geometry.crop_alike(torch.rand(1, 1, 40, 50), box, (8, 8)) is not None
    box[0, 1] += torch.tensor(shift)
    assert geometry.crop_alike(torch.rand(1, 1, 40, 50), box, (8, 8)) is None


def test_patches_are_slices():
    image = torch.arange(2 * 2 * 6 * 7).view(2, 2, 6, 7)
    corner = torch.tensor([[[0, 0], [4, 3], [1, 2]], [[2, 1], [0, 3], [4, 0]]])
    found = geometry.patches(image, corner, 3)
    assert found.shape == (2, 3, 2, 3, 3)
    for b in range(2):
        for r in range(3):
            x, y = corner[b, r].tolist()
            assert torch.equal(found[b, r], image[b, :, y : y + 3, x : x + 3])
    with pytest.raises(ValueError, match="squares of 8 pixels do not fit in images of"):
        geometry.patches(image, corner, 8)


def test_controls_of_several_windows():
    view = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[0.0, 0, 16, 16], [32, 32, 48, 48], [10, 20, 26, 36], [0, 0, 0, 0]]).expand(3, -1, -1)
    found = Attention(torch.zeros(3, 64, 64), torch.zeros(3, 64, 64, dtype=torch.bool), box, torch.zeros(3).bool())
    centre = elsewhere(found, "centre", view).box_BR4
    assert centre[0].tolist() == [[16, 16, 32, 32], [32, 16, 48, 32], [16, 32, 32, 48], [0, 0, 0, 0]]
    random = elsewhere(found, "random", view).box_BR4
    first = Attention(found.heat_BHW, found.mask_BHW, box[:, :1], found.fallback_B)
    assert torch.equal(elsewhere(first, "random", view).box_BR4, random[:, :1])
    assert (random[:, :3, 2:] - random[:, :3, :2] == 16).all()
    assert not torch.equal(random[:, 0], random[:, 1])
    assert (random[:, 3] == 0).all()


# --- evidence ---------------------------------------------------------------------------------------------------------


def test_maps_of_the_head_are_exact_after_average_pooling():
    """mean over the cells of w_k . f, plus the bias, is the logit of k."""
    model = network(attention=config.Attention(statistic="cam", min_side=4)).eval()
    out = model(films())
    evidence = model.evidence(out.feature_BDhw)
    torch.testing.assert_close(evidence.mean((2, 3)) + model.global_branch.head.bias, out.global_BK)


def test_the_heat_is_the_largest_evidence_of_any_finding():
    model, image = network(attention=config.Attention(statistic="cam", min_side=4)).eval(), films()
    with torch.no_grad():
        feature = model.forward_global(image).feature_BDhw
        evidence = model.evidence(feature)
        top = evidence[:, [LABELS.index(name) for name in FINDINGS]].amax(1)
        found = model.look(feature, image)
    want = F.interpolate(top[:, None], (64, 64), mode="bilinear")[:, 0]
    low, high = want.amin((1, 2), keepdim=True), want.amax((1, 2), keepdim=True)
    torch.testing.assert_close(found.heat_BHW, (want - low) / (high - low), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "convnext_atto"])
@pytest.mark.parametrize(("stride", "grid"), [(16, 4), (8, 8)])
def test_a_finer_grid_by_dilation_has_the_same_weights(backbone, stride, grid):
    """So that small findings have cells of their own; maps of the head stay exact."""
    look = config.Attention(statistic="cam", crops=2, window=0.25, min_side=4)
    plain = network(backbone=backbone, attention=look).eval()
    fine = network(backbone=backbone, attention=look, output_stride=stride).eval()
    fine.load_state_dict(plain.state_dict())
    with torch.no_grad():
        whole, out = plain.forward_global(films(2)), fine(films(2))
    assert (whole.feature_BDhw.shape[2:], out.feature_BDhw.shape[2:]) == ((2, 2), (grid, grid))
    mean = fine.evidence(out.feature_BDhw).mean((2, 3)) + fine.global_branch.head.bias
    torch.testing.assert_close(mean, out.global_BK, atol=1e-4, rtol=1e-4)


def test_only_what_was_taught_draws_attention():
    """No Finding never does; labels that films did not teach have random weights."""
    look = config.Attention(statistic="cam", min_side=4)
    model, image = network(attention=look, evidence_of=("Mass", "Nodule")).eval(), films()
    with torch.no_grad():
        feature = model.forward_global(image).feature_BDhw
        before = model.look(feature, image).heat_BHW
        for name in (NO_FINDING, "Hernia"):
            model.global_branch.head.weight[LABELS.index(name)] *= 1000
        assert torch.equal(model.look(feature, image).heat_BHW, before)
        model.global_branch.head.weight[LABELS.index("Mass")] *= -50
        assert not torch.equal(model.look(feature, image).heat_BHW, before)
    assert AGCNN(**model.arguments(), weights="none").evidence_of == ("Mass", "Nodule")
    with pytest.raises(ValueError, match="evidence_of names 'Fracture', which is none of the labels"):
        network(evidence_of=("Fracture",))


def test_learned_maps_are_probabilities_of_their_own():
    model, image = network(attention=config.Attention(statistic="learned", min_side=4)).eval(), films()
    out = model(image)
    evidence = model.evidence(out.feature_BDhw)
    assert evidence.shape[:2] == (4, 15)
    conv = model.global_branch.maps
    by_hand = torch.einsum("kd,bdhw->bkhw", conv.weight[:, :, 0, 0], out.feature_BDhw) + conv.bias[:, None, None]
    torch.testing.assert_close(evidence, by_hand.sigmoid())
    state = model.state_dict()
    assert {name for name in state if "maps" in name} == {"global_branch.maps.weight", "global_branch.maps.bias"}
    assert not any("maps" in name for name in network().state_dict())


def test_the_top_share_of_a_map_is_its_probability():
    maps = torch.tensor([[[[0.9, 0.5], [0.1, 0.2]], [[0.3, 0.3], [0.3, 0.3]]]])
    torch.testing.assert_close(losses.top_share(maps, 0.5).sigmoid(), torch.tensor([[0.7, 0.3]]))
    torch.testing.assert_close(losses.top_share(maps, 0.01).sigmoid(), torch.tensor([[0.9, 0.3]]))
    torch.testing.assert_close(losses.top_share(maps, 1.0).sigmoid(), torch.tensor([[0.425, 0.3]]))


# --- pooling over crops -----------------------------------------------------------------------------------------------


def branch(pool: str) -> Branch:
    torch.manual_seed(0)
    return Branch("test_resnet", "avg", 1, "imagenet", 3, "none", crop_pool=pool).eval()


POOLED = torch.tensor([[[1.0, 5.0, 0.0, 2.0], [3.0, 1.0, 0.0, 2.0], [9.0, 9.0, 9.0, 9.0]]])
"""Three crops of one view, four features; the third is not there."""
PRESENT = torch.tensor([[True, True, False]])


def test_the_maximum_and_the_mean_over_crops():
    pooled, weight = branch("max")._over_crops(POOLED, PRESENT)
    assert pooled.tolist() == [[3, 5, 0, 2]]
    assert weight.tolist() == [[0.5, 0.5, 0.0]]  # a feature each, and two that both have alike
    pooled, weight = branch("mean")._over_crops(POOLED, PRESENT)
    assert pooled.tolist() == [[2, 3, 0, 2]]
    assert weight.tolist() == [[0.5, 0.5, 0.0]]


def test_a_gate_begins_with_the_mean_and_then_weighs():
    gated = branch("gated")
    gated.gate = Gate(4, 2)
    pooled, weight = gated._over_crops(POOLED, PRESENT)
    assert pooled.tolist() == [[2, 3, 0, 2]]
    with torch.no_grad():
        gated.gate.content.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]))
        gated.gate.gate.weight.zero_()
        for part in (gated.gate.content, gated.gate.gate):
            part.bias.zero_()
        gated.gate.score.weight.copy_(torch.tensor([[2.0, 0.0]]))
    pooled, weight = gated._over_crops(POOLED, PRESENT)
    score = torch.tensor([1.0, 3.0]).tanh()  # 2 x tanh(first feature) x sigmoid(0)
    torch.testing.assert_close(weight[0], torch.cat([score.softmax(0), torch.zeros(1)]))
    torch.testing.assert_close(pooled[0], weight[0, :2] @ POOLED[0, :2])


@pytest.mark.parametrize("pool", ["max", "mean", "gated"])
@pytest.mark.parametrize("window", [0.0, 0.3])
def test_the_whole_network_with_several_crops(pool, window):
    look = config.Attention(crops=3, window=window, min_side=4, threshold=0.5)
    model, image = network(attention=look, pool=pool).eval(), films()
    with torch.no_grad():
        out = model(image)
        assert out.box_BR4.shape == (4, 3, 4)
        assert out.crop_BRCHW.shape == (4, 3, 1, 64, 64)
        assert out.local_feature_BRDhw.shape[:2] == (4, 3)
        torch.testing.assert_close(out.weight_BR.sum(1), torch.ones(4))
        assert torch.equal(out.box_B4, out.box_BR4[:, 0])
        some = geometry.present(out.box_BR4)
        assert (out.weight_BR[~some] == 0).all()
        for k in range(4):
            alone = model(image[k : k + 1])
            assert torch.equal(alone.box_BR4[0], out.box_BR4[k])
            torch.testing.assert_close(alone.local_BK[0], out.local_BK[k], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(alone.weight_BR[0], out.weight_BR[k], atol=1e-5, rtol=1e-5)
            features = model.local_branch.features(out.crop_BRCHW[k][some[k]]).mean((2, 3))
            if pool == "max":
                torch.testing.assert_close(out.pooled_local_BD[k], features.amax(0), atol=1e-5, rtol=1e-5)
            else:  # a gate begins with equal scores
                torch.testing.assert_close(out.pooled_local_BD[k], features.mean(0), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(out.fusion_BK, model.fuse(out.pooled_global_BD, out.pooled_local_BD))


def test_one_crop_of_a_region_is_the_published_method():
    """The options at their defaults, spelt out, answer to the bit as those of before them."""
    spelt = config.Attention(**(config.Attention(min_side=4, threshold=0.5).model_dump() | {"crops": 1, "window": 0}))
    with torch.no_grad():
        plain, given = network().eval()(films()), network(attention=spelt, pool="mean").eval()(films())
    for name in ("global_BK", "local_BK", "fusion_BK", "heat_BHW", "box_BR4", "crop_BRCHW", "weight_BR"):
        assert torch.equal(getattr(plain, name), getattr(given, name)), name
    assert plain.weight_BR.tolist() == [[1.0]] * 4


def test_options_of_the_defaults_are_not_written():
    """So cards of before them, and fingerprints of such models, stay what they were."""
    card = network().new_card().model_dump(mode="json")["model"]
    assert not {"pool", "evidence_of"} & set(card)
    assert not {"crops", "window", "gradient"} & set(card["attention"])
    given = network(attention=config.Attention(crops=2, window=0.3), pool="gated").new_card().model_dump(mode="json")
    assert (given["model"]["pool"], given["model"]["attention"]["crops"]) == ("gated", 2)


def test_the_local_branch_starts_from_the_global_one_but_for_its_gate():
    model = network(attention=config.Attention(statistic="learned", crops=2, min_side=4), pool="gated")
    gate = {name: value.clone() for name, value in model.local_branch.gate.state_dict().items()}
    model.start_local()
    for part in ("backbone", "head"):
        ours, theirs = (getattr(one, part).state_dict() for one in (model.local_branch, model.global_branch))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(torch.equal(value, gate[name]) for name, value in model.local_branch.gate.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": "sum"}, "pool is 'sum'; expected one of 'max', 'mean', 'gated'"),
        ({"pool": "gated"}, "pool is 'gated', but crops is 1, and one needs no weighing; set crops to 2 or more"),
        (
            {"look": "whole", "attention": config.Attention(crops=2)},
            "crops is 2, but look 'whole' shows the whole view, which is one; set crops to 1",
        ),
        (
            {"look": "centre", "attention": config.Attention(crops=2)},
            "cannot be laid side by side about the centre; set window to the share",
        ),
        (
            {"attention": config.Attention(gradient="place")},
            "gradient is 'place', but a box as large as the region found has no side of its own",
        ),
        (
            {"attention": config.Attention(gradient="place", window=0.3), "look": "random"},
            "gradient is 'place', but look 'random' takes no place from the heat; set gradient to 'none'",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        network(**changes)
