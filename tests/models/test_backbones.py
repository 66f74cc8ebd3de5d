"""Feature maps of several families, and first weights from disk, from the cache, or not at all."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants

from agcxr import AGCNN
from agcxr.models import backbones
from agcxr.models.backbones import Backbone, unreachable
from agcxr.models.weights import load_strictly, read_checkpoint
from agcxr.training.run_folder import write_weights
from agcxr.training.tasks import stage_state


@pytest.fixture
def empty_caches(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda *_: None)


@pytest.mark.parametrize(
    ("name", "channels", "grid"),
    [("resnet10t", 512, 4), ("test_convnext", 64, 4), ("test_vit", 64, 8), ("densenet121", 1024, 4)],
)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_features_are_channels_first_maps(name, channels, grid, in_channels):
    side = 160 if name == "test_vit" else 128
    backbone = Backbone(name, in_channels, "none").eval()
    with torch.no_grad():
        feature = backbone(torch.rand(2, in_channels, side, side))
    assert feature.shape[:2] == (2, backbone.channels) == (2, channels)
    assert feature.shape[2] == feature.shape[3] >= grid


@pytest.mark.parametrize(("stride", "side"), [(32, 4), (16, 7), (8, 14)])
def test_the_output_stride_sets_the_grid_and_keeps_the_weights(stride, side):
    backbone = Backbone("resnet10t", 1, "none", stride).eval()
    assert backbone(torch.rand(1, 1, 112, 112)).shape == (1, 512, side, side)
    usual = Backbone("resnet10t", 1, "none")
    assert {k: v.shape for k, v in backbone.state_dict().items()} == {k: v.shape for k, v in usual.state_dict().items()}


def test_a_network_that_cannot_be_dilated_says_so():
    with pytest.raises(ValueError, match=r"timm's 'densenet121' has no output_stride, here 16; use 32, its own"):
        Backbone("densenet121", 1, "none", 16)


def test_channels_last_features_are_turned():
    backbone = Backbone("test_resnet", 1, "none")
    map_BhwD = torch.rand(2, 5, 4, backbone.channels)
    assert torch.equal(backbone._as_map(map_BhwD), map_BhwD.permute(0, 3, 1, 2))
    with pytest.raises(ValueError, match=r"gives features \(2, 6, 96\), not a square map of 96 channels"):
        backbone._as_map(torch.rand(2, 6, 96))
    with pytest.raises(ValueError, match=r"gives features list, not a square map"):
        backbone._as_map([map_BhwD])


@pytest.mark.parametrize("side", [224, 160])
@pytest.mark.parametrize(
    ("name", "reduction"),
    [
        ("vit_tiny_patch16_224", 16),
        ("deit_tiny_distilled_patch16_224", 16),
        ("swin_tiny_patch4_window7_224", 32),
        ("maxvit_pico_rw_256", 32),
        ("eva02_tiny_patch14_224", 14),
        ("vit_small_patch14_reg4_dinov2", 14),
        ("mambaout_femto", 32),
        ("coat_tiny", 32),
        ("inception_next_atto", 32),
        ("efficientvit_b0", 32),
    ],
)
def test_every_family_is_built_for_the_size_of_the_views(name, reduction, side):
    """Positions for one size, class and register tokens, channels last, lists of scales, pooling that cannot be off."""
    backbone = Backbone(name, 1, "none", image_size=side).eval()
    backbone.check(side)
    with torch.no_grad():
        feature = backbone(torch.rand(1, 1, side, side))
    assert feature.shape == (1, backbone.channels, side // reduction, side // reduction)


def test_tokens_of_a_view_that_is_not_square():
    backbone = Backbone("test_vit", 1, "none")
    prefix, channels = backbone.net.num_prefix_tokens, backbone.channels
    tokens = torch.rand(2, prefix + 6 * 8, channels)
    for view, grid in (((96, 128), (6, 8)), ((100, 130), (6, 8)), ((128, 96), (8, 6)), ((32, 384), (2, 24))):
        map_BDhw = backbone._as_map(tokens, view)
        assert map_BDhw.shape[2:] == grid
        assert torch.equal(map_BDhw[:, :, 1, 2], tokens[:, prefix + grid[1] + 2])
    for count, view in ((48, (96, 96)), (47, (96, 128)), (48, (96, 100))):
        with pytest.raises(ValueError, match=rf"gives features \(2, {count + prefix}, 64\), not a map of 64 channels"):
            backbone._as_map(tokens[:, : prefix + count], view)


def test_tokens_lie_where_the_view_has_them():
    """A patch that alone is bright changes the features of its own cell most, whatever stands before the patches."""
    torch.manual_seed(0)
    backbone = Backbone("vit_tiny_patch16_224", 1, "none", image_size=64).eval()
    view = torch.zeros(1, 1, 64, 64)
    with torch.no_grad():
        dark = backbone(view)
        view[:, :, 16:32, 48:] = 1
        change = (backbone(view) - dark).square().sum(1)[0]
    assert divmod(int(change.argmax()), 4) == (1, 3)


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("halonet26t", 224, r"'halonet26t' cannot take views of 224 x 224 pixels; give --image-size 256, its own size"),
        (
            "crossvit_tiny_240",
            224,
            r"cannot take views of 224 x 224 pixels \(The size .*give --image-size 240, its",
        ),
        ("pit_ti_224", 224, r"makes 1 x 1 cells of a view of 224 x 224 pixels, so attention could only ever take the"),
        (
            "test_resnet",
            16,
            r"makes 1 x 1 cells of a view of 16 .* larger --image-size, such as 32, a lower --out",
        ),
        ("efficientvim_m1", 224, "gives features list, not a map of 960 channels; choose a network with feature maps"),
    ],
)
def test_a_network_that_cannot_attend_to_such_views_says_so(name, side, message):
    with pytest.raises(ValueError, match=message):
        AGCNN(name, weights="none", image_size=side)


def test_checking_changes_nothing():
    torch.manual_seed(0)
    backbone = Backbone("test_convnext", 1, "none").train()
    before, state = {name: value.clone() for name, value in backbone.state_dict().items()}, torch.get_rng_state()
    backbone.check(64)
    assert backbone.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_the_grid_of_a_resnet_is_known_without_a_pass():
    for stride in (32, 16, 8):
        for side in (32, 40, 63, 64, 65):
            backbone = Backbone("resnet10t", 1, "none", stride).eval()
            grid = tuple(backbone(torch.rand(1, 1, side, side)).shape[2:])
            assert grid == (-(-side // stride),) * 2
            if min(grid) < 2:
                with pytest.raises(ValueError, match=f"makes {grid[0]} x {grid[0]} cells"):
                    backbone.check(side)
            else:
                backbone.check(side)


def test_random_weights_follow_the_generator():
    def stem(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return next(Backbone("test_resnet", 1, "none").parameters())

    assert torch.equal(stem(1), stem(1))
    assert not torch.equal(stem(1), stem(2))


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_weights_from_a_file_without_its_head(tmp_path, suffix, in_channels):
    torch.manual_seed(0)
    whole = timm.create_model("resnet10t", num_classes=7).eval()
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        safetensors.torch.save_file(whole.state_dict(), path)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in whole.state_dict().items()}}, path)
    backbone = Backbone("resnet10t", in_channels, path).eval()
    gray = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        wanted = whole.forward_features(gray.expand(-1, 3, -1, -1))
        found = backbone(gray.expand(-1, in_channels, -1, -1))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)  # one channel: the stem's weights are summed


def test_a_file_of_another_network_is_refused_with_the_differences(tmp_path):
    path = tmp_path / "other.safetensors"
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    name = next(iter(state))
    state["extra.weight"] = torch.zeros(2)
    state[name] = torch.zeros(3)
    del state["conv1.2.weight" if "conv1.2.weight" in state else list(state)[5]]
    safetensors.torch.save_file(state, path)
    with pytest.raises(
        ValueError, match=rf"1 missing: .*; 1 unexpected: extra\.weight; 1 of another shape: {name} \(3,\)"
    ):
        Backbone("test_resnet", 3, path)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run folder, but for its texts: every tensor of a part is that part's number."""
    run, model = tmp_path_factory.mktemp("own") / "run", AGCNN("test_resnet", weights="none")
    for number, part in enumerate(("global", "local", "fusion"), start=1):
        for value in model.part(part).state_dict().values():
            value.fill_(number)
        write_weights(run / part / "best.safetensors", stage_state(model, part))
    for stage in ("global+local", "local+fusion"):
        write_weights(run / stage / "best.safetensors", stage_state(model, stage))
    write_weights(run / "model" / "model.safetensors", model.state_dict())
    return run


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("", 1),
        ("model", 1),
        ("model/model.safetensors", 1),
        ("global/best.safetensors", 1),
        ("local/best.safetensors", 2),
        ("global+local/best.safetensors", 1),
        ("local+fusion/best.safetensors", 2),
    ],
)
def test_a_model_of_ones_own_gives_its_backbone(own, file, part):
    found = Backbone("test_resnet", 1, own / file).net.state_dict()
    assert found.keys() == Backbone("test_resnet", 1, "none").net.state_dict().keys()
    assert all((value == part).all() for value in found.values())


def test_a_run_as_weights_must_have_the_backbone_and_be_finished(own, tmp_path):
    write_weights(tmp_path / "local" / "best.safetensors", {"backbone.net.more": torch.zeros(1)})
    with pytest.raises(
        ValueError, match=r"model\.safetensors do not fit .* the network that they are of \(here: resnet10t"
    ):
        Backbone("resnet10t", 1, own)
    with pytest.raises(
        ValueError, match=r"local/best\.safetensors do not fit this network; .*1 unexpected: more\. Give"
    ):
        Backbone("test_resnet", 1, tmp_path / "local" / "best.safetensors")
    with pytest.raises(
        ValueError, match=r"so it is no finished run or model; it holds the stages .*local/best\.safe.*: give"
    ):
        Backbone("test_resnet", 1, tmp_path)
    with pytest.raises(ValueError, match="no finished run or model; give a file of weights"):
        Backbone("test_resnet", 1, tmp_path / "local")


def test_loading_strictly_changes_nothing_when_it_refuses():
    layer = torch.nn.Linear(2, 2)
    before = layer.weight.clone()
    with pytest.raises(ValueError, match="1 missing: bias"):
        load_strictly(layer, {"weight": torch.zeros(2, 2)}, "nowhere")
    assert torch.equal(layer.weight, before)


def test_unreadable_and_unsafe_files(tmp_path):
    with pytest.raises(ValueError, match="no weight file at"):
        read_checkpoint(tmp_path / "absent.pth")
    broken = {
        "broken.pth": b"not weights at all",
        "broken.safetensors": b"not weights at all",
        "other.pth": b"as it was",  # torch's unpickler ends in an IndexError
        "zip.pth": b"PK\x03\x04" + bytes(40),
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name}.*(is no readable weight file|holds more than tensors)"):
            read_checkpoint(tmp_path / name)
    (tmp_path / "empty.pth").touch()
    with pytest.raises(
        ValueError, match=r"empty\.pth is no readable weight file: it is empty; copy or download it again"
    ):
        read_checkpoint(tmp_path / "empty.pth")
    torch.save({"f": print}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="holds more than tensors and is not loaded, because such a file can run code"):
        read_checkpoint(tmp_path / "code.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"is no state dict \(names to tensors\); found list"):
        read_checkpoint(tmp_path / "list.pth")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt50", r"unknown backbone 'resnt50' \(did you mean 'resnet50'\?\)"),
        ("hf-hub:someone/model", "unknown backbone 'hf-hub:someone/model'"),
        (
            "resnet50.tv_in2k",
            r"cannot build the backbone 'resnet50.tv_in2k' \(did you mean 'resnet50.tv_in1k'\?\): Inv",
        ),
    ],
)
@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_unknown_names(name, weights, message):
    with pytest.raises(ValueError, match=message):
        Backbone(name, 1, weights)
    with pytest.raises(ValueError, match="in_channels is 2; expected 1"):
        Backbone("resnet50", 2, "none")


@pytest.mark.parametrize(
    ("name", "hub"),
    [
        ("resnet10t", "resnet10t.c3_in1k"),
        ("resnet50", "resnet50.a1_in1k"),
        ("resnet50.tv_in1k", "resnet50.tv_in1k"),
        ("densenet121", "densenet121.ra_in1k"),
        ("densenet121.tv_in1k", "densenet121.tv_in1k"),
    ],
)
def test_imagenet_weights_come_from_the_cache_without_a_network(monkeypatch, tmp_path, name, hub):
    """As docs/recipes.md says: timm's default ones, or those of the tag."""
    path = tmp_path / "model.safetensors"
    state = timm.create_model(name).state_dict()
    safetensors.torch.save_file(state, path)
    asked = []
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda repo, file: asked.append((repo, file)) or str(path))
    monkeypatch.setattr(backbones, "unreachable", lambda *_: pytest.fail("asked the network"))
    found = Backbone(name, 1, "imagenet").net.state_dict()
    assert asked == [(f"timm/{hub}", "model.safetensors")]
    first = next(iter(found))
    torch.testing.assert_close(found.pop(first), state[first].sum(1, keepdim=True))
    assert all(torch.equal(value, state[key]) for key, value in found.items())


def test_offline_it_fails_at_once_with_a_cure(monkeypatch, empty_caches):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "*")
        started = time.monotonic()
        with pytest.raises(
            ValueError, match=r"cannot be reached .*--weights FILE.*--weights none.*hf download timm/res"
        ):
            Backbone("resnet10t", 1, "imagenet")
    assert time.monotonic() - started < 5
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    with pytest.raises(ValueError, match="cannot be downloaded: HF_HUB_OFFLINE is set"):
        Backbone("resnet10t", 1, "imagenet")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: None)
    with pytest.raises(ValueError, match="timm has no ImageNet weights for 'resnet14t'; use --weights none"):
        Backbone("resnet14t", 1, "imagenet")


def test_a_host_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        said = unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.3)
    assert said is not None
    assert "did not answer in 0.3 s" in said
    assert time.monotonic() - started < 2


def test_any_status_is_an_answer(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 503 Busy\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert unreachable(f"http://127.0.0.1:{server.getsockname()[1]}") is None
        thread.join()
