"""Old public checkpoints, written here in their formats, against torchvision loaded the plain way."""

from __future__ import annotations

import re
from collections import OrderedDict

import pytest
import torch
import torchvision

from agcxr.labels import FINDINGS
from agcxr.models.agcnn import AGCNN
from agcxr.models.legacy import CROPPED_OTHERWISE, import_chexnet

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def densenet(seed: int) -> torch.nn.Module:
    """A torchvision DenseNet-121 with 14 outputs whose batch norms have seen something."""
    torch.manual_seed(seed)
    net = torchvision.models.densenet121(weights=None, num_classes=14)
    draw = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=draw) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=draw) + 0.5)
            module.weight.data.copy_(torch.rand(module.num_features, generator=draw) + 0.5)
    return net.eval()


@pytest.fixture(scope="module")
def nets() -> list[torch.nn.Module]:
    return [densenet(1), densenet(2)]


@pytest.fixture(scope="module")
def film() -> torch.Tensor:
    return torch.rand(2, 1, 224, 224, generator=torch.Generator().manual_seed(9))


def wrapped(net: torch.nn.Module, *, dots: bool) -> OrderedDict[str, torch.Tensor]:
    """As CheXNet saved it: DataParallel, a `densenet121` member, a Sequential head, perhaps PyTorch 0.3's names."""
    out = OrderedDict()
    for name, value in net.state_dict().items():
        if dots and name.endswith("num_batches_tracked"):
            continue
        name = name.replace("classifier.", "classifier.0.")
        if dots:
            name = re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name)
        out[f"module.densenet121.{name}"] = value
    return out


def logits(net: torch.nn.Module, gray: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net((gray.expand(-1, 3, -1, -1) - MEAN) / STD)


@pytest.mark.parametrize("dots", [True, False], ids=["arnoweng", "zoogzog"])
def test_chexnet_logits_equal_torchvision(nets, film, tmp_path, dots):
    path = tmp_path / "model.pth.tar"
    optimiser = torch.optim.Adam(nets[0].parameters())
    saved = {"epoch": 7, "state_dict": wrapped(nets[0], dots=dots), "best_loss": 0.1}
    torch.save(saved | {"optimizer": optimiser.state_dict()}, path, _use_new_zipfile_serialization=not dots)
    model = import_chexnet([path])
    with torch.no_grad():
        found = model(film)
    torch.testing.assert_close(found.global_BK, logits(nets[0], film), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.fusion_BK, found.global_BK, atol=1e-5, rtol=1e-5)
    assert model.labels == FINDINGS
    assert (model.image_size, model.resize, model.in_channels) == (224, 256, 3)
    assert "model.pth.tar" in model.card.source


def test_agcnn_files_in_any_order(nets, film, tmp_path):
    torch.manual_seed(3)
    fusion = torch.nn.Linear(2048, 14)
    torch.save(nets[0].state_dict(), tmp_path / "AG_CNN_Global_epoch_1.pkl")
    torch.save(nets[1].state_dict(), tmp_path / "AG_CNN_Local_epoch_2.pkl")
    torch.save({f"fc.{name}": value for name, value in fusion.state_dict().items()}, tmp_path / "AG_CNN_Fusion.pkl")
    model = import_chexnet([tmp_path / f"AG_CNN_{name}.pkl" for name in ("Fusion", "Local_epoch_2", "Global_epoch_1")])
    with torch.no_grad():
        found = model(film)
        torch.testing.assert_close(found.global_BK, logits(nets[0], film), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.local_BK, logits(nets[1], found.crop_BCHW), atol=1e-5, rtol=1e-5)
        pooled = torch.cat([found.pooled_global_BD, found.pooled_local_BD], 1)
        torch.testing.assert_close(found.fusion_BK, fusion(pooled), atol=1e-5, rtol=1e-5)
    assert model.attention.statistic == "l1"
    model.save_pretrained(tmp_path / "saved")
    again = AGCNN.from_pretrained(tmp_path / "saved")
    files = "AG-CNN of AG_CNN_Global_epoch_1.pkl, AG_CNN_Local_epoch_2.pkl, AG_CNN_Fusion.pkl"
    assert again.card.source == files + CROPPED_OTHERWISE
    with torch.no_grad():
        assert torch.equal(again(film).fusion_BK, found.fusion_BK)


def test_refusals_say_what_is_expected(nets, tmp_path):
    path = tmp_path / "file.pth"
    with pytest.raises(ValueError, match="2 files; expected one CheXNet file, or the global, local and fusion file"):
        import_chexnet([path, path])
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match=r"holds no DenseNet-121 classifier.*found conv1\.weight"):
        import_chexnet([path])
    state = nets[0].state_dict()
    torch.save(state | {"classifier.weight": torch.zeros(15, 1024), "classifier.bias": torch.zeros(15)}, path)
    with pytest.raises(ValueError, match="has 15 outputs; expected 14"):
        import_chexnet([path])
    torch.save({name: value for name, value in state.items() if name != "features.norm5.weight"}, path)
    with pytest.raises(ValueError, match=r"1 missing: backbone\.net\.features\.norm5\.weight"):
        import_chexnet([path])
    others = [tmp_path / f"{k}.pkl" for k in range(3)]
    for other in others:
        torch.save({"x": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match=r"0 of the three files 0\.pkl, 1\.pkl, 2\.pkl hold a fusion layer"):
        import_chexnet(others)
