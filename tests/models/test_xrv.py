"""TorchXRayVision's classifiers, written here in their formats, against their own network where it is installed."""

from __future__ import annotations

import importlib
import warnings

import pytest
import torch
import torchvision

from agcxr import AGCNN
from agcxr.cli import main
from agcxr.labels import FINDINGS
from agcxr.models.legacy import import_chexnet
from agcxr.models.xrv import CHEXPERT, FILES, TARGETS, TAUGHT, import_xrv


def xrv_state(seed: int = 1, untaught=()) -> dict[str, torch.Tensor]:
    """A DenseNet-121 of one channel as they save it, with thresholds; those of outputs never taught are NaN."""
    torch.manual_seed(seed)
    net = torchvision.models.densenet121(weights=None, num_classes=18)
    net.features.conv0 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    state = {name: value * 1.1 if "running" in name else value for name, value in net.state_dict().items()}
    thresholds = [float("nan") if name in untaught else 0.01 * k for k, name in enumerate(TARGETS, start=1)]
    return state | {"op_threshs": torch.tensor(thresholds)}


def dense_logits(state, film):
    """Their arithmetic, step by step: pixels of [0, 1] to [-1024, 1024], features, ReLU, mean, classifier."""
    net = torchvision.models.densenet121(weights=None, num_classes=18)
    net.features.conv0 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    net.load_state_dict({name: value for name, value in state.items() if name != "op_threshs"})
    with torch.no_grad():
        return net.eval()((2 * film - 1) * 1024)


@pytest.fixture(scope="module")
def film() -> torch.Tensor:
    return torch.rand(2, 1, 224, 224, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize(
    ("name", "taught"),
    [("densenet121-res224-nih", FINDINGS), ("nih", FINDINGS), ("chex", CHEXPERT), ("rsna", ("Pneumonia",))],
)
def test_outputs_are_taken_by_name_and_the_scaling_is_kept(tmp_path, film, name, taught):
    state = xrv_state()
    torch.save(state, tmp_path / "x.pt")
    model = import_xrv(name, tmp_path / "x.pt")
    assert model.labels == tuple(label for label in FINDINGS if label in taught)
    wanted = dense_logits(state, film)[:, [TARGETS.index(label) for label in model.labels]]
    model.save_pretrained(tmp_path / "model")
    again = AGCNN.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        for found in (model(film), again(film)):
            torch.testing.assert_close(found.global_BK, wanted, atol=1e-3, rtol=1e-4)
            torch.testing.assert_close(found.fusion_BK, found.global_BK)
    assert (model.mean, model.std) == ((0.5,) * 3, (1 / 2048,) * 3)
    assert (model.image_size, model.resize, model.in_channels) == (224, 224, 1)
    assert "its own thresholds: " in model.card.source
    assert "Pneumonia 0.09" in model.card.source


def test_torchxrayvision_itself_says_the_same(tmp_path, film):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            xrv = importlib.import_module("torchxrayvision")
        except ImportError:
            pytest.skip("the extra external is not installed")
        torch.manual_seed(2)
        net = xrv.models.DenseNet().eval()
        torch.save(net.state_dict(), tmp_path / "x.pt")
        with torch.no_grad():
            wanted = net(torch.as_tensor(xrv.datasets.normalize(film.numpy(), 1)))
    model = import_xrv("densenet121-res224-all", tmp_path / "x.pt")
    with torch.no_grad():
        found = model(film).global_BK
    torch.testing.assert_close(found, wanted[:, [TARGETS.index(label) for label in FINDINGS]], atol=1e-3, rtol=1e-4)
    assert tuple(xrv.models.DenseNet.targets) == TARGETS
    for name, labels in TAUGHT.items():
        entry = xrv.models.model_urls[name]
        assert set(labels) == set(entry["labels"]) & set(FINDINGS)
        assert entry["weights_url"].rpartition("/")[2] == FILES[name]


def test_the_resnet_of_512_pixels(tmp_path):
    torch.manual_seed(3)
    net = torchvision.models.resnet50(weights=None, num_classes=18)
    net.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    torch.save(
        {f"model.{name}": value for name, value in net.state_dict().items()}, tmp_path / FILES["resnet50-res512-all"]
    )
    model = import_xrv(str(tmp_path / FILES["resnet50-res512-all"]))
    film = torch.rand(1, 1, 128, 128)
    with torch.no_grad():
        wanted = net.eval()((2 * film - 1) * 1024)[:, [TARGETS.index(label) for label in FINDINGS]]
        torch.testing.assert_close(model.forward_global(film).logit_BK, wanted, atol=1e-3, rtol=1e-4)
    assert (model.backbone_name, model.image_size, model.resize) == ("resnet50", 512, 512)


def test_a_file_says_what_was_taught_by_its_thresholds(tmp_path):
    torch.save({"state_dict": xrv_state(untaught=TARGETS[2:])}, tmp_path / "mine.pt")
    assert import_xrv(str(tmp_path / "mine.pt")).labels == ("Atelectasis", "Consolidation")
    torch.save({name: value for name, value in xrv_state().items() if name != "op_threshs"}, tmp_path / "mine.pt")
    with pytest.raises(
        ValueError, match=r"mine\.pt does not say which outputs were taught .*import xrv NAME --file .*mine"
    ):
        import_xrv(str(tmp_path / "mine.pt"))


def test_a_pickled_module_is_refused_with_the_command_that_helps(tmp_path, monkeypatch):
    path = tmp_path / ".torchxrayvision" / "models_data" / FILES["densenet121-res224-nih"]
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"weights densenet121-res224-nih are not in TorchXRayVision's cache .*python -c"
    ):
        import_xrv("nih")
    path.parent.mkdir(parents=True)
    torch.save(torchvision.models.densenet121(weights=None), path)
    with pytest.raises(
        ValueError,
        match=r"is a pickled module and is not loaded, .*DenseNet\(weights='densenet121-res224-nih'\)\.state_dict\(\).*"
        r"run `agcxr import xrv densenet121-res224-nih --file densenet121-res224-nih\.pt`",
    ):
        import_xrv("nih")


def test_other_names_and_networks(tmp_path):
    with pytest.raises(
        ValueError, match=r"neither a file nor a set of weights \(did you mean 'densenet121-res224-nih'\?\)"
    ):
        import_xrv("densenet121-res224-nhi")
    torch.save({"stem.weight": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="is neither a DenseNet-121 nor a ResNet-50 of TorchXRayVision: stem"):
        import_xrv("nih", tmp_path / "x.pt")
    state = xrv_state() | {"classifier.weight": torch.zeros(14, 1024), "classifier.bias": torch.zeros(14)}
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="has 14 outputs; expected 18"):
        import_xrv("nih", tmp_path / "x.pt")
    torch.save(xrv_state(), tmp_path / "x.pt")
    with pytest.raises(
        ValueError, match=r"has 18 outputs; expected 14.*\(TorchXRayVision's have 18: `agcxr import xrv`\)"
    ):
        import_chexnet([tmp_path / "x.pt"])


def test_it_is_a_start_for_training(tmp_path, capsys):
    """Both branches take its backbone and its scaling."""
    state = xrv_state()
    torch.save(state, tmp_path / "x.pt")
    assert main(["import", "xrv", "nih", "--file", str(tmp_path / "x.pt"), "--out", str(tmp_path / "model")]) == 0
    assert "14 findings; written to" in capsys.readouterr().out
    model = AGCNN("densenet121", weights=tmp_path / "model")
    assert (model.mean, model.std) == ((0.5,) * 3, (1 / 2048,) * 3)
    for branch in (model.global_branch, model.local_branch):
        assert torch.equal(branch.backbone.net.features.conv0.weight, state["features.conv0.weight"])
