"""Old public checkpoints, written here in their formats, against torchvision loaded the plain way."""

from __future__ import annotations

import argparse
import re
from collections import OrderedDict

import pytest
import torch
import torchvision

from agcxr.labels import FINDINGS, LABELS
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


BY_NAME = tuple(sorted(FINDINGS))


@pytest.mark.parametrize(
    "beside",
    [
        {"class_names": list(BY_NAME)},
        {"classes": BY_NAME},
        {"hyper_parameters": {"label_names": [name.replace("_", " ").lower() for name in BY_NAME]}},
        {"class_to_idx": {name: BY_NAME.index(name) for name in FINDINGS}},
        {"args": argparse.Namespace(labels="|".join(BY_NAME))},
        {"config": {"id2label": {str(k): name for k, name in enumerate(BY_NAME)}}},
    ],
    ids=lambda beside: next(iter(beside)),
)
def test_a_file_that_names_its_classes_is_not_taken_for_nihs_order(nets, film, tmp_path, beside):
    """Fourteen outputs in alphabetical order are fourteen outputs all the same."""
    path = tmp_path / "model.pth"
    torch.save(beside | {"state_dict": nets[0].state_dict()}, path)
    with pytest.raises(
        ValueError, match=r"model\.pth keeps other class names, .*; NIH's order is Atelectasis, .*; give --labels \w+,"
    ):
        import_chexnet([path])
    model = import_chexnet([path], labels=[",".join(BY_NAME)])
    assert model.labels == FINDINGS
    with torch.no_grad():
        found, wanted = model(film), logits(nets[0], film)
    for output in (found.global_BK, found.fusion_BK):
        torch.testing.assert_close(output, wanted[:, [BY_NAME.index(name) for name in FINDINGS]], atol=1e-5, rtol=1e-5)
    with pytest.raises(
        ValueError, match=r"keeps other class names, .*; --labels names Atelectasis, Cardio.*; give --l"
    ):
        import_chexnet([path], labels=FINDINGS)


def test_class_names_that_agree_change_nothing(nets, tmp_path):
    path = tmp_path / "model.pth"
    names = [name.replace("Infiltration", "infiltrate").replace("_", " ") for name in FINDINGS]
    torch.save({"class_names": names, "state_dict": nets[0].state_dict(), "losses": ["a", "b"]}, path)
    assert import_chexnet([path]).labels == import_chexnet([path], labels=names).labels == FINDINGS
    with pytest.raises(ValueError, match="keeps other class names, .*; leave --labels out if its own are right"):
        import_chexnet([path], labels=BY_NAME)


def test_other_outputs_are_taken_by_their_stated_names(film, tmp_path):
    """15 with No Finding first, and one that is unknown here among 18 others."""
    names = ["No Finding", "Fracture", *reversed(FINDINGS), "Lung Lesion"]
    torch.manual_seed(4)
    net = torchvision.models.densenet121(weights=None, num_classes=len(names)).eval()
    torch.save({f"model.{name}": value for name, value in net.state_dict().items()}, tmp_path / "model.pth")
    with pytest.raises(
        ValueError, match=r"has 17 outputs; expected 14, the findings .*by --labels NAME,NAME,\.\.\., in"
    ):
        import_chexnet([tmp_path / "model.pth"])
    model = import_chexnet([tmp_path / "model.pth"], labels=names)
    assert model.labels == LABELS
    with torch.no_grad():
        wanted = logits(net, film)[:, [names.index(name) for name in LABELS]]
        torch.testing.assert_close(model(film).global_BK, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ["Effusion", "pleural effusion", *FINDINGS[:12]],
            "--labels name one finding twice: Effusion, pleural effusion",
        ),
        (FINDINGS[:13], r"has 14 outputs; expected 13, the findings"),
        ([f"x{k}" for k in range(14)], r"none of --labels x0, .* is known here; expected some of Atelectasis"),
    ],
)
def test_labels_must_fit(nets, tmp_path, labels, message):
    torch.save(nets[0].state_dict(), tmp_path / "model.pth")
    with pytest.raises(ValueError, match=message):
        import_chexnet([tmp_path / "model.pth"], labels=labels)


def test_a_file_with_one_class_name_twice_is_refused(nets, tmp_path):
    names = ["Edema", "oedema", *FINDINGS[2:]]
    torch.save({"classes": names, "state_dict": nets[0].state_dict()}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"the class names in .*model\.pth name one finding twice: Edema, oedema"):
        import_chexnet([tmp_path / "model.pth"])


def test_labels_order_the_fusion_of_three_files_as_well(nets, film, tmp_path):
    torch.manual_seed(3)
    fusion = torch.nn.Linear(2048, 14)
    paths = [tmp_path / f"{name}.pkl" for name in ("global", "local", "fusion")]
    torch.save(nets[0].state_dict(), paths[0])
    torch.save(nets[1].state_dict(), paths[1])
    torch.save({f"fc.{name}": value for name, value in fusion.state_dict().items()}, paths[2])
    with torch.no_grad():
        plain, named = import_chexnet(paths)(film), import_chexnet(paths, labels=BY_NAME)(film)
    rows = [BY_NAME.index(name) for name in FINDINGS]
    for one, other in ((plain.fusion_BK, named.fusion_BK), (plain.local_BK, named.local_BK)):
        torch.testing.assert_close(other, one[:, rows])


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
