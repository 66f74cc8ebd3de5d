"""What a weight file says of itself: its network, told from twins with the same tensors, and its pixels' statistics."""

from __future__ import annotations

import argparse
import json

import pytest
import safetensors.torch
import timm
import torch
import yaml

from agcxr import AGCNN
from agcxr.models import backbones, origin
from agcxr.models.backbones import Backbone
from agcxr.models.checkpoint import ModelArguments
from agcxr.models.origin import RGB_MEAN, RGB_STD, colours, origin_of

HALF = (0.5, 0.5, 0.5)
ONES = (1.0, 1.0, 1.0)


def write(path, name="test_resnet", **beside):
    """A file of a network's tensors, with what lies beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = timm.create_model(name, num_classes=5).state_dict()
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({**beside, "state_dict": state} if beside else state, path)
    return path


# --- statistics -------------------------------------------------------------------------------------------------------


def test_weights_bring_their_statistics(tmp_path, monkeypatch):
    """timm's augreg ViT and test_resnet were trained on pixels of mean and deviation one half."""
    assert timm.get_pretrained_cfg("test_resnet").mean == HALF
    file = write(tmp_path / "model.safetensors")
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda *_: str(file))
    for weights in ("imagenet", file):
        backbone = Backbone("test_resnet", 1, weights)
        assert (backbone.mean, backbone.std) == (HALF, HALF)
    assert Backbone("test_resnet", 1, "none").mean == RGB_MEAN
    resnet = write(tmp_path / "other" / "weights.pth", "resnet10t")
    backbone = Backbone("resnet10t", 1, resnet)
    assert (backbone.mean, backbone.std) == (RGB_MEAN, RGB_STD)


@pytest.mark.parametrize(
    ("normalisation", "mean", "std"),
    [("weights", HALF, HALF), ("imagenet", RGB_MEAN, RGB_STD), ("mean", HALF, ONES)],
)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_the_network_computes_with_them_and_the_card_keeps_them(tmp_path, normalisation, mean, std, in_channels):
    file = write(tmp_path / "weights.pth")
    options = {"in_channels": in_channels, "normalisation": normalisation, "image_size": 64}
    model = AGCNN("test_resnet", weights=file, **options).eval()
    for branch in (model.global_branch, model.local_branch):
        for buffer, wanted in ((branch.mean, mean), (branch.std, std)):
            gray = [sum(wanted) / 3] if in_channels == 1 else wanted
            assert buffer.flatten().tolist() == pytest.approx(gray, abs=1e-7)
    model.save_pretrained(tmp_path / "model")
    card = json.loads((tmp_path / "model" / "config.json").read_text())["model"]
    assert (card["normalisation"], tuple(card["mean"]), tuple(card["std"])) == (normalisation, mean, std)
    again, view = AGCNN.from_pretrained(tmp_path / "model"), torch.rand(2, 1, 64, 64)
    assert again.arguments() == model.arguments()
    with torch.no_grad():
        assert torch.equal(again(view).fusion_BK, model(view).fusion_BK)
    again.save_pretrained(tmp_path / "again")


@pytest.mark.parametrize(
    ("in_channels", "mean", "std"), [(1, [0.449], [0.226]), (3, list(RGB_MEAN), list(RGB_STD))], ids=["gray", "rgb"]
)
def test_resnets_numbers_are_those_of_before_to_the_last_digit(tmp_path, in_channels, mean, std):
    file = write(tmp_path / "weights.pth", "resnet10t")
    branch = AGCNN("resnet10t", weights=file, in_channels=in_channels).global_branch
    assert torch.equal(branch.mean.flatten(), torch.tensor(mean))
    assert torch.equal(branch.std.flatten(), torch.tensor(std))


@pytest.mark.parametrize(
    ("normalisation", "std"), [("imagenet", RGB_STD), ("mean", ONES), (None, RGB_STD)], ids=["imagenet", "mean", "none"]
)
def test_cards_of_before_have_imagenets_numbers(tmp_path, normalisation, std):
    model = AGCNN("test_resnet", weights="none", image_size=64, normalisation=normalisation or "imagenet")
    model.save_pretrained(tmp_path)
    card = json.loads((tmp_path / "config.json").read_text())
    for name in ("mean", "std", *([] if normalisation else ["normalisation"])):
        del card["model"][name]
    (tmp_path / "config.json").write_text(json.dumps(card))
    again, view = AGCNN.from_pretrained(tmp_path), torch.rand(1, 1, 64, 64)
    assert (again.mean, again.std) == (RGB_MEAN, std)
    with torch.no_grad():
        assert torch.equal(again(view).fusion_BK, model.eval()(view).fusion_BK)
    again.save_pretrained(tmp_path)


@pytest.mark.parametrize("std", [[0.5, 0.5], [0.5, 0.5, 0.0], [-1, 1, 1], [float("nan")] * 3])
def test_a_card_with_impossible_numbers_is_refused(std):
    with pytest.raises(ValueError, match="std"):
        ModelArguments(backbone="test_resnet", std=std)


def test_statistics_go_from_run_to_run(tmp_path):
    """A model trained from .5/.5 gives its own numbers to the next, whole or by a stage's file."""
    first = AGCNN("test_resnet", weights="none", image_size=64, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    first.save_pretrained(tmp_path / "run" / "model")
    (tmp_path / "run" / "global").mkdir()
    stage = tmp_path / "run" / "global" / "best.safetensors"
    stage.write_bytes((tmp_path / "run" / "model" / "model.safetensors").read_bytes())
    for weights in (tmp_path / "run", tmp_path / "run" / "model", stage):
        second = AGCNN("test_resnet", weights=weights, image_size=64)
        assert (second.mean, second.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    (tmp_path / "run" / "model" / "config.json").unlink()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"backbone": "resnet18", "normalisation": "imagenet"}))
    stated = origin_of(stage, {})
    assert (stated.architecture, stated.mean, stated.std) == ("resnet18", RGB_MEAN, RGB_STD)


@pytest.mark.parametrize(
    ("file", "content", "mean", "std"),
    [
        (
            "config.json",
            {"architecture": "test_resnet", "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}},
            0.1,
            0.2,
        ),
        ("preprocessor_config.json", {"image_mean": [0.5307] * 3, "image_std": [0.2583] * 3}, 0.5307, 0.2583),
        ("preprocessor_config.json", {"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, 0, 1),
        ("open_clip_config.json", {"model_cfg": {}, "preprocess_cfg": {"mean": [0.3] * 3, "std": [0.4] * 3}}, 0.3, 0.4),
        ("preprocessor_config.json", {"image_mean": [0.5, "x", 0.5], "image_std": [0.5] * 3}, 0.5, 0.5),
        ("preprocessor_config.json", {"image_mean": [0.1] * 3, "image_std": [0.0] * 3}, 0.5, 0.5),
        ("config.json", [1, 2], 0.5, 0.5),
    ],
)
def test_configurations_beside_the_weights(tmp_path, file, content, mean, std):
    """timm's, transformers' and open_clip's; where they say nothing usable, timm's of the architecture (.5)."""
    write(tmp_path / "model.safetensors")
    (tmp_path / file).write_text(json.dumps(content))
    backbone = Backbone("test_resnet", 1, tmp_path)
    assert (backbone.mean, backbone.std) == ((mean,) * 3, (std,) * 3)
    named = write(tmp_path / "mine.pth")  # a file with a name of its own is not what the configuration means
    assert Backbone("test_resnet", 1, named).mean == HALF


@pytest.mark.parametrize(
    ("values", "wanted"),
    [(0.5, HALF), ([0.5], HALF), ([1, 1, 1], ONES), ([0.5, 0.5], None), ("0.5", None), ([float("inf")] * 3, None)],
)
def test_colours(values, wanted):
    assert colours(values) == wanted


# --- twins ------------------------------------------------------------------------------------------------------------


def test_padding_tells_twins_apart_by_name_only(tmp_path):
    """The tensors of tf_efficientnet_lite0 fit efficientnet_lite0, whose features of them are other ones."""
    file = write(tmp_path / "tf_efficientnet_lite0-0aa007d2.pth", "tf_efficientnet_lite0")
    Backbone("tf_efficientnet_lite0", 1, file)
    with pytest.raises(
        ValueError,
        match=r"are those of 'tf_efficientnet_lite0', as its name says, which computes otherwise than "
        r"'efficientnet_lite0' with the same tensors; give --backbone tf_efficientnet_lite0, or --weights of effi",
    ):
        Backbone("efficientnet_lite0", 1, file)


@pytest.mark.parametrize(
    ("file", "beside", "source"),
    [
        ("mobilenetv3_small_050.lamb_in1k.safetensors", {}, "its name"),
        ("w.pth", {"arch": "mobilenetv3_small_050"}, "what the file holds beside them"),
        ("w.pth", {"args": argparse.Namespace(model="mobilenetv3_small_050")}, "what the file holds beside them"),
        ("w.pth", {"pretrained_cfg": {"architecture": "mobilenetv3_small_050"}}, "what the file holds beside them"),
        ("w.pth", {"hyper_parameters": {"backbone": "mobilenetv3_small_050.x"}}, "what the file holds beside them"),
        ("mobilenetv3_small_050/model.safetensors", {}, "its name"),
        ("models--timm--mobilenetv3_small_050.lamb_in1k/snapshots/1a/model.safetensors", {}, "its name"),
        ("x/model.safetensors", {"config.json": {"architecture": "mobilenetv3_small_050"}}, r"x/config\.json"),
        ("x/model.safetensors", {"config.json": {"model": {"backbone": "mobilenetv3_small_050"}}}, r"x/config\.json"),
    ],
)
def test_a_file_names_its_network_in_many_places(tmp_path, monkeypatch, file, beside, source):
    configuration = beside.pop("config.json", None)
    path = write(tmp_path / file, "mobilenetv3_small_050", **beside)
    if configuration:
        (path.parent / "config.json").write_text(json.dumps(configuration))
    Backbone("mobilenetv3_small_050", 1, path)
    monkeypatch.setattr(backbones, "_built", other_padding)
    with pytest.raises(ValueError, match=rf"are those of 'mobilenetv3_small_050', as .*{source} says, which computes"):
        Backbone("mobilenetv3_small_075", 1, path)


def other_padding(name, options):
    """A twin as timm has many: the same tensors, other padding."""
    padding = {"pad_type": "same"} if name == "mobilenetv3_small_050" else {}
    return timm.create_model("mobilenetv3_small_050", global_pool="", **padding, **options)


@pytest.mark.parametrize(
    "metadata",
    [{"architecture": "tf_efficientnet_lite0"}, {"config": '{"model_name": "tf_efficientnet_lite0.in1k", "x": [1]}'}],
)
def test_safetensors_metadata_names_the_network(tmp_path, metadata):
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors", metadata=metadata)
    Backbone("tf_efficientnet_lite0", 1, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="those of 'tf_efficientnet_lite0', as what the file holds beside them says"):
        Backbone("efficientnet_lite0", 1, tmp_path / "w.safetensors")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors", metadata={"config": "{broken", "format": "pt"})
    assert Backbone("efficientnet_lite0", 1, tmp_path / "w.safetensors").mean == RGB_MEAN


def test_another_name_of_the_same_network_is_taken(tmp_path):
    file = write(tmp_path / "deit_tiny_patch16_224.pth", "deit_tiny_patch16_224")
    backbone = Backbone("vit_tiny_patch16_224", 1, file, image_size=96)
    assert backbone.net.training
    unknown = write(tmp_path / "best_of_all.pth")
    assert origin_of(unknown, {"arch": "none of timm's", "args": {"lr": 0.1}}) == origin.Origin()
    Backbone("test_resnet", 1, unknown)


def test_a_statement_that_the_tensors_contradict_is_none(tmp_path):
    file = write(tmp_path / "w.pth", "test_resnet", arch="resnet50")
    assert Backbone("test_resnet", 1, file).mean == HALF


def test_another_activation_is_another_network(tmp_path):
    file = write(tmp_path / "w.pth", "vit_tiny_patch16_224", arch="vit_tiny_patch16_224")
    net = Backbone("vit_tiny_patch16_224", 1, file)
    for block in net.net.blocks:
        block.mlp.act = torch.nn.Sigmoid()
    net.name = "vit_tiny_quick"
    with pytest.raises(ValueError, match="are those of 'vit_tiny_patch16_224'"):
        net._check_twin(origin.Origin("vit_tiny_patch16_224", "its name"), "w.pth", {"in_chans": 1, "num_classes": 0})
