"""The three branches: shapes, properties, freezing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from agcxr import config, geometry
from agcxr.labels import LABELS
from agcxr.models.agcnn import AGCNN, GRAY_MEAN, GRAY_STD
from agcxr.models.origin import RGB_MEAN, RGB_STD

LOOK = config.Attention(min_side=4, threshold=0.5)


def network(seed: int = 0, backbone: str = "test_resnet", **changes) -> AGCNN:
    torch.manual_seed(seed)
    return AGCNN(backbone, **({"weights": "none", "image_size": 64, "resize": 72, "attention": LOOK} | changes))


def films(n: int = 4, side: int = 64, seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (side, side), mode="bilinear")


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("normalisation", ["imagenet", "mean"])
def test_shapes_and_types(pooling, in_channels, normalisation):
    model = network(pooling=pooling, in_channels=in_channels, normalisation=normalisation).eval()
    out = model(films())
    channels = model.global_branch.backbone.channels
    assert out.global_BK.shape == out.local_BK.shape == out.fusion_BK.shape == (4, 15)
    assert out.heat_BHW.shape == (4, 64, 64)
    assert out.box_B4.shape == (4, 4)
    assert out.crop_BCHW.shape == (4, 1, 64, 64)
    assert out.fallback_B.shape == (4,)
    assert out.feature_BDhw.shape[:2] == out.pooled_global_BD.shape == out.pooled_local_BD.shape == (4, channels)


def test_forward_is_its_steps():
    model, image = network().eval(), films()
    with torch.no_grad():
        out = model(image)
        whole = model.forward_global(image)
        seen = model.look(whole.feature_BDhw, image)
        crop = geometry.crop(image, seen.box_B4, 64)
        part = model.forward_local(crop)
        fused = model.fuse(whole.pooled_BD, part.pooled_BD)
    assert torch.equal(out.box_B4, seen.box_B4)
    assert torch.equal(out.crop_BCHW, crop)
    assert torch.equal(out.local_BK, part.logit_BK)
    assert torch.equal(out.fusion_BK, fused)
    head = model.fusion_head
    pooled = torch.cat([whole.pooled_BD, part.pooled_BD], 1)
    torch.testing.assert_close(fused, pooled @ head.weight.T + head.bias)


def test_pooling_and_heads():
    image = films()
    for pooling, plain in (("avg", lambda map_: map_.mean((2, 3))), ("max", lambda map_: map_.amax((2, 3)))):
        branch = network(pooling=pooling).eval().global_branch
        out = branch(image)
        torch.testing.assert_close(out.pooled_BD, plain(out.feature_BDhw))
        torch.testing.assert_close(out.logit_BK, branch.head(out.pooled_BD))


@pytest.mark.parametrize(
    ("in_channels", "normalisation", "mean", "std"),
    [
        (1, "imagenet", GRAY_MEAN, GRAY_STD),
        (1, "mean", GRAY_MEAN, (1.0,)),
        (3, "imagenet", RGB_MEAN, RGB_STD),
        (3, "mean", RGB_MEAN, (1.0, 1.0, 1.0)),
    ],
)
def test_the_network_sees_normalised_pixels(in_channels, normalisation, mean, std):
    branch = network(in_channels=in_channels, normalisation=normalisation).eval().global_branch
    seen = []
    branch.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    branch(torch.full((1, 1, 64, 64), 0.6))
    wanted = [(0.6 - m) / s for m, s in zip(mean, std, strict=True)]
    assert seen[0].shape[1] == in_channels
    assert seen[0][0, :, 10, 20].tolist() == pytest.approx(wanted, abs=1e-6)


def test_batched_equals_single():
    model, image = network().eval(), films(6)
    with torch.no_grad():
        together = model(image)
        for k in range(6):
            alone = model(image[k : k + 1])
            torch.testing.assert_close(alone.fusion_BK[0], together.fusion_BK[k], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(alone.local_BK[0], together.local_BK[k], atol=1e-5, rtol=1e-5)
            assert torch.equal(alone.box_B4[0], together.box_B4[k])


def test_channels_last_and_bf16_stay_close():
    model, image = network(backbone="resnet10t").eval(), films()
    with torch.no_grad():
        plain = model(image)
        last = model.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):
            half = model(image)
    torch.testing.assert_close(last.fusion_BK, plain.fusion_BK, atol=1e-4, rtol=1e-4)
    assert half.global_BK.dtype == half.fusion_BK.dtype == half.pooled_global_BD.dtype == torch.float32
    torch.testing.assert_close(half.global_BK, plain.global_BK, atol=0.05, rtol=0.05)


def test_crops_come_from_the_sharp_view_where_there_is_one():
    model, sharp = network(crop_source="prepared").eval(), films(side=128)
    image = F.avg_pool2d(sharp, 2)
    with torch.no_grad():
        out, plain = model(image, sharp), model(image)
    assert torch.equal(out.box_B4, plain.box_B4)
    assert torch.equal(out.crop_BCHW, geometry.crop(sharp, 2 * out.box_B4, 64))
    assert not torch.equal(out.crop_BCHW, plain.crop_BCHW)


def test_views_need_not_be_square_or_of_image_size():
    with torch.no_grad():
        out = network().eval()(films(2, 128)[:, :, :96])
    assert out.heat_BHW.shape == (2, 96, 128)
    assert out.crop_BCHW.shape == (2, 1, 64, 64)


def test_same_seed_same_network():
    a, b, c = network(1).state_dict(), network(1).state_dict(), network(2).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["fusion_head.weight"], c["fusion_head.weight"])
    assert not torch.equal(a["global_branch.head.weight"], a["local_branch.head.weight"])


def snapshot(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("frozen", [("global",), ("global", "local"), ("fusion",)])
def test_frozen_is_really_frozen(frozen):
    model = network().freeze(*frozen).train()
    before = {name: snapshot(model.part(name)) for name in ("global", "local", "fusion")}
    optimiser = torch.optim.SGD(model.trainable_parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for step in range(2):
        model.train()
        out = model(films(seed=step))
        (out.global_BK.square().sum() + out.local_BK.square().sum() + out.fusion_BK.square().sum()).backward()
        optimiser.step()
    for name, old in before.items():
        same = [torch.equal(old[key], value) for key, value in model.part(name).state_dict().items()]
        assert all(same) if name in frozen else not all(same), name
        assert model.part(name).training == (name not in frozen)
        assert all(parameter.grad is None for parameter in model.part(name).parameters()) or name not in frozen


def test_freezing_can_be_undone():
    model = network().freeze("global", "local")
    assert model.frozen == {"global", "local"}
    assert len(list(model.trainable_parameters())) == 2
    model.unfreeze("global")
    assert model.frozen == {"local"}
    assert model.train().global_branch.training
    assert not model.local_branch.training
    with pytest.raises(ValueError, match="unknown branch 'head'; expected one of global, local, fusion"):
        model.freeze("head")


def test_arguments_build_the_same_network():
    model = network(pooling="max", output_stride=16, labels=("Mass", "Nodule"), crop_source="prepared", look="random")
    again = AGCNN(**model.arguments(), weights="none")
    assert again.arguments() == model.arguments()
    again.load_state_dict(model.state_dict())
    assert network().labels == LABELS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "sum"}, "pooling is 'sum'; expected 'avg' or 'max'"),
        ({"normalisation": "none"}, "normalisation is 'none'; expected one of 'weights', 'imagenet', 'mean'"),
        ({"crop_source": "film"}, "crop_source is 'film'; expected 'view' or 'prepared'"),
        ({"look": "left"}, "look is 'left'; expected one of 'attention', 'random', 'centre', 'whole'"),
        ({"labels": ("Mass", "Mass")}, "expected at least one name, none of them twice"),
        ({"labels": ()}, "expected at least one name"),
    ],
)
def test_options_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        network(**changes)


@pytest.mark.parametrize("image", [torch.zeros(2, 3, 64, 64), torch.zeros(1, 64, 64), torch.zeros(1, 1, 8, 8).byte()])
def test_images_are_checked(image):
    with pytest.raises(ValueError, match=r"expected a float tensor B x 1 x H x W of gray values in \[0, 1\]"):
        network().forward_global(image)


@pytest.mark.parametrize("look", ["random", "centre", "whole"])
@pytest.mark.parametrize("sharp", [False, True])
def test_controls_move_the_crop_and_nothing_else(look, sharp):
    image = films()
    fine = films(side=128) if sharp else None
    with torch.no_grad():
        plain, control = network().eval()(image, fine), network(look=look).eval()(image, fine)
        alone = network(look=look).eval()(image[2:3], None if fine is None else fine[2:3])
    assert torch.equal(plain.global_BK, control.global_BK)
    assert torch.equal(plain.heat_BHW, control.heat_BHW)
    assert not torch.equal(plain.box_B4, control.box_B4)
    assert torch.equal(alone.box_B4[0], control.box_B4[2])
    assert torch.equal(alone.crop_BCHW[0], control.crop_BCHW[2])
    if look == "whole":
        assert torch.equal(control.crop_BCHW, image)


def test_a_fusion_that_starts_from_the_global_branch_says_what_it_says():
    model = AGCNN("test_resnet", image_size=64, resize=72, weights="none").eval()
    model.start_fusion()
    with torch.no_grad():
        out = model(torch.rand(3, 1, 64, 64))
    torch.testing.assert_close(out.fusion_BK, out.global_BK)


@pytest.mark.parametrize("share", [0.5, 0.25, 1.0])
def test_a_fusion_that_starts_from_both_branches_says_their_mean(share):
    model = AGCNN("test_resnet", image_size=64, resize=72, weights="none").eval()
    model.start_fusion(share)
    with torch.no_grad():
        out = model(torch.rand(3, 1, 64, 64))
    torch.testing.assert_close(out.fusion_BK, (1 - share) * out.global_BK + share * out.local_BK)
    assert not torch.allclose(out.fusion_BK, out.global_BK)
