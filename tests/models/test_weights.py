"""Weight files of the same network as other programs write them: taken whole, or refused with the cure."""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch.nn import Parameter

from agcxr import AGCNN
from agcxr.models.backbones import Backbone
from agcxr.models.weights import read_checkpoint, states_in

NAME = "test_resnet"


def numbered(seed: int = 0, name: str = NAME, **options) -> dict[str, torch.Tensor]:
    """The state of a network with a head of five outputs, every float tensor drawn from `seed`."""
    draw = torch.Generator().manual_seed(seed)
    state = timm.create_model(name, num_classes=5, **options).state_dict()
    return {
        key: torch.rand(value.shape, generator=draw) if value.is_floating_point() else value
        for key, value in state.items()
    }


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def headless(state):
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def check(path, wanted, name: str = NAME):
    """The file gives exactly these tensors (three channels: nothing is summed)."""
    found = Backbone(name, 3, path).net.state_dict()
    assert found.keys() == headless(wanted).keys()
    for key, value in found.items():
        torch.testing.assert_close(value, wanted[key].to(value.dtype), atol=0, rtol=0)


@pytest.mark.parametrize(
    "prefix",
    [
        "_orig_mod.",
        "module.",
        "model.",
        "net.",
        "backbone.",
        "encoder.",
        "encoder_q.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.net.backbone._orig_mod.",
        "_fsdp_wrapped_module.model.",
        "visual.trunk.",
    ],
)
def test_a_prefix_of_any_depth_is_taken_off(tmp_path, prefix):
    state = numbered()
    torch.save(prefixed(state, prefix), tmp_path / "w.pth")
    check(tmp_path / "w.pth", state)


def test_compiled_parts_keep_their_names_within(tmp_path):
    state = numbered()
    torch.save({key.replace("layer1.", "layer1._orig_mod."): value for key, value in state.items()}, tmp_path / "w.pth")
    check(tmp_path / "w.pth", state)


@pytest.mark.parametrize(
    "wrappers",
    [
        ("state_dict",),
        ("model",),
        ("model_state_dict",),
        ("teacher",),
        ("student",),
        ("net",),
        ("ema",),
        ("model_ema",),
        ("state_dict_ema",),
        ("checkpoint", "model", "state_dict"),
        ("anything at all",),
    ],
)
def test_wrappers_of_any_name_are_opened_and_what_lies_beside_is_left(tmp_path, wrappers):
    state = numbered()
    content = prefixed(state, "module.")
    for wrapper in reversed(wrappers):
        content = {"epoch": 3, wrapper: content, "note": "text", "lr": [0.1]}
    optimiser = torch.optim.AdamW(timm.create_model(NAME).parameters())
    optimiser.step()
    torch.save({"optimizer": optimiser.state_dict(), **content}, tmp_path / "w.pth")
    check(tmp_path / "w.pth", state)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("teacher", "student"),
        ("state_dict_ema", "state_dict"),
        ("model_ema", "model"),
        ("state_dict", "momentum_encoder"),
    ],
)
def test_of_two_copies_the_averaged_one_is_taken(tmp_path, better, worse):
    torch.save({worse: numbered(1), better: numbered(2)}, tmp_path / "w.pth")
    check(tmp_path / "w.pth", numbered(2))


def test_moco_keeps_a_second_encoder_and_a_queue_beside(tmp_path):
    query, key = headless(numbered(1)), headless(numbered(2))
    head = {f"module.encoder_{kind}.fc.{k}.weight": torch.rand(4, 4) for kind in "qk" for k in (0, 2)}
    state = prefixed(key, "module.encoder_k.") | prefixed(query, "module.encoder_q.") | head
    torch.save({"arch": "resnet50", "state_dict": state | {"module.queue": torch.rand(4, 9)}}, tmp_path / "w.pth.tar")
    check(tmp_path / "w.pth.tar", query)


def test_two_networks_that_both_fit_are_refused(tmp_path):
    torch.save(prefixed(numbered(1), "left.") | prefixed(numbered(2), "right."), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth holds 2 networks that fit, under left\., right\.; save the"):
        Backbone(NAME, 3, tmp_path / "w.pth")


@pytest.mark.parametrize("head", ["fc", "classifier", "head.fc", "last_linear", "heads.0", "projection_head.2"])
def test_heads_have_many_names(tmp_path, head):
    state = headless(numbered())
    torch.save(state | {f"{head}.weight": torch.rand(3, 3), f"{head}.bias": torch.rand(3)}, tmp_path / "w.pth")
    check(tmp_path / "w.pth", state)


@pytest.mark.parametrize("head", ["my_cls", "pneumonia", "score.0.1", "dense"])
def test_a_linear_layer_of_the_features_is_a_head_whatever_its_name(tmp_path, head):
    state, features = headless(numbered()), timm.create_model(NAME).num_features
    torch.save(
        prefixed(state | {f"{head}.weight": torch.rand(3, features), f"{head}.bias": torch.rand(3)}, "module."),
        tmp_path / "w.pth",
    )
    check(tmp_path / "w.pth", state)
    torch.save(state | {f"{head}.weight": torch.rand(3, features + 1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"1 unexpected: {head}\.weight"):
        Backbone(NAME, 3, tmp_path / "other.pth")


def test_what_a_profiler_counted_is_left(tmp_path):
    state = headless(numbered())
    counts = {f"{place}{name}": torch.ones(1) for place in ("", "conv1.0.") for name in ("total_ops", "total_params")}
    torch.save(prefixed(state | counts, "module."), tmp_path / "w.pth")
    check(tmp_path / "w.pth", state)


def test_parameters_are_read_as_tensors(tmp_path):
    state = headless(numbered())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.save(
            {name: Parameter(value, value.is_floating_point()) for name, value in state.items()}, tmp_path / "w.pth"
        )
        check(tmp_path / "w.pth", state)


def test_counts_of_batches_may_be_absent(tmp_path):
    state = {key: value for key, value in numbered().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth")
    found = Backbone(NAME, 3, tmp_path / "w.pth").net.state_dict()
    assert all(torch.equal(found[key], value) for key, value in headless(state).items())
    assert {int(value) for key, value in found.items() if key.endswith("num_batches_tracked")} == {0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path, dtype):
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in numbered().items()}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    check(tmp_path / "w.safetensors", state)
    gray = Backbone(NAME, 1, tmp_path / "w.safetensors").net.state_dict()["conv1.0.weight"]
    torch.testing.assert_close(gray, state["conv1.0.weight"].float().sum(1, keepdim=True))


def test_integers_are_no_weights(tmp_path):
    state = numbered() | {"conv1.0.weight": torch.ones(16, 3, 3, 3, dtype=torch.int8)}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"1 of another type: conv1\.0\.weight torch\.int8 instead of torch\.float32"):
        Backbone(NAME, 3, tmp_path / "w.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("weights", ["file", "model"])
def test_what_is_no_number_is_refused_by_the_name_of_its_tensor(tmp_path, value, weights):
    """It would be told, after an epoch, as training that diverged by its learning rate."""
    path = tmp_path / "model.safetensors"
    state = numbered()
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = value
    state["fc.bias"][0] = value  # not taken, so it may be what it likes
    if weights == "model":
        model = AGCNN(NAME, weights="none")
        model.save_pretrained(tmp_path)
        state = model.state_dict()
        state["global_branch.backbone.net.layer1.0.conv1.weight"][0, 0, 0, 0] = value
    safetensors.torch.save_file(state, path)
    with pytest.raises(
        ValueError, match=r"1 of \d+ tensors in .*model\.safetensors hold NaN, .*layer1\.0\.conv1\.weight \(.*copy or"
    ):
        Backbone(NAME, 3 if weights == "file" else 1, path)
    if weights == "model":
        with pytest.raises(ValueError, match=r"tensors in .* hold NaN, .*layer1\.0\.conv1\.weight"):
            AGCNN.from_pretrained(tmp_path)


def test_a_variance_below_zero_is_refused(tmp_path):
    state = numbered()
    state["conv1.1.running_var"][3] = -1
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"a negative variance: conv1\.1\.running_var \(-1 to"):
        Backbone(NAME, 3, tmp_path / "w.pth")


@pytest.mark.parametrize("side", [160, 96, 224])
def test_positions_are_resampled_to_the_image_size(tmp_path, side):
    """As timm does it where it loads its own weights."""
    state = timm.create_model("test_vit", num_classes=5).state_dict()
    torch.save({"state_dict": prefixed(state, "module.backbone.")}, tmp_path / "w.pth")
    backbone = Backbone("test_vit", 3, tmp_path / "w.pth", image_size=side)
    overlay = {"state_dict": dict(state), "num_classes": 5}
    wanted = timm.create_model(
        "test_vit", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, global_pool="", img_size=side
    )
    assert backbone.net.pos_embed.shape[1] == (side // 16) ** 2 + wanted.num_prefix_tokens
    for key, value in wanted.state_dict().items():
        assert torch.equal(backbone.net.state_dict()[key], value), key


def test_names_of_before_pytorch_0_4_are_those_of_today(tmp_path):
    import re

    state = timm.create_model("densenet121", num_classes=14).state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }
    torch.save({"state_dict": prefixed(old, "module.")}, tmp_path / "w.pth.tar")
    found = Backbone("densenet121", 3, tmp_path / "w.pth.tar").net.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in found.items())


def test_arguments_and_scores_beside_are_values_not_code(tmp_path):
    state = numbered()
    beside = {"args": argparse.Namespace(arch=NAME, lr=0.1), "best": np.float64(0.7), "count": np.int64(3)}
    torch.save(beside | {"state_dict": state}, tmp_path / "w.pth")
    check(tmp_path / "w.pth", state)


@dataclass
class Settings:
    rate: float = 0.1


def test_lightnings_objects_are_refused_with_the_cure(tmp_path):
    torch.save({"state_dict": numbered(), "hyper_parameters": {"settings": Settings()}}, tmp_path / "w.ckpt")
    with pytest.raises(
        ValueError,
        match=r"because such a file can run code \(it holds \S*test_weights\.Settings\); .*"
        r'torch\.save\(checkpoint\["state_dict"\], \.\.\.\)',
    ):
        Backbone(NAME, 3, tmp_path / "w.ckpt")
    plain = {"state_dict": prefixed(numbered(), "model."), "hyper_parameters": {"lr": 0.1}, "loops": {"a": {}}}
    torch.save(plain, tmp_path / "w.ckpt")
    check(tmp_path / "w.ckpt", numbered())


def sharded(folder, state, **places):
    names = list(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        safetensors.torch.save_file({name: state[name] for name in part}, folder / file)
    where = {name: file for file, part in parts.items() for name in part} | places
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_shards_are_read_by_their_index(tmp_path):
    state = numbered()
    sharded(tmp_path, state)
    check(tmp_path, state)
    check(tmp_path / "model.safetensors.index.json", state)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ValueError, match=r"index\.json names b\.safetensors, absent beside it; copy or download all"):
        Backbone(NAME, 3, tmp_path)


@pytest.mark.parametrize("place", ["../secret.safetensors", "/etc/passwd", 3, ["x"]])
def test_an_index_reads_nothing_outside_its_folder(tmp_path, place):
    sharded(tmp_path, numbered(), **{"fc.bias": place})
    with pytest.raises(ValueError, match="names files outside its folder|is no index of weight files"):
        Backbone(NAME, 3, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"is no index of weight files \(a `weight_map` of names to files\)"):
        Backbone(NAME, 3, tmp_path)


def test_a_stem_of_one_channel(tmp_path):
    state = numbered(in_chans=1)
    torch.save(state, tmp_path / "w.pth")
    found = Backbone(NAME, 1, tmp_path / "w.pth").net.state_dict()
    assert torch.equal(found["conv1.0.weight"], state["conv1.0.weight"])
    with pytest.raises(ValueError, match="The file's first layer takes one channel: give --in-channels 1"):
        Backbone(NAME, 3, tmp_path / "w.pth")
    torch.save(numbered(in_chans=4), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="first layer takes 4 channels, and films have one"):
        Backbone(NAME, 1, tmp_path / "w.pth")


def test_a_file_without_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth is no state dict \(names to tensors\); found epoch"):
        states_in(read_checkpoint(tmp_path / "w.pth"), tmp_path / "w.pth")


def test_another_network_under_a_prefix_is_refused_by_its_own_names(tmp_path):
    torch.save({"model": prefixed(numbered(name="test_convnext"), "module.")}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"do not fit this network; \d+ missing: conv1\.0\.weight.*\(here: test_"):
        Backbone(NAME, 3, tmp_path / "w.pth")
    assert "stem" in next(iter(numbered(name="test_convnext")))
