"""Models on disk: round trips, and refusals of what is missing, damaged, foreign or unsafe."""

from __future__ import annotations

import json
import os
import socket

import pytest
import safetensors.torch
import torch
from huggingface_hub import constants

from agcxr import AGCNN, config
from agcxr.calibration import Calibration, Curve, FindingCalibration, OperatingPoint
from agcxr.models import checkpoint
from agcxr.models.backbones import NoMapWarning
from agcxr.models.checkpoint import Card, Patients, hash_patients


@pytest.fixture(scope="module")
def model() -> AGCNN:
    torch.manual_seed(0)
    attention = config.Attention(statistic="l2", threshold=0.4)
    return AGCNN(
        "test_resnet",
        weights="none",
        image_size=64,
        resize=72,
        pooling="max",
        in_channels=3,
        normalisation="mean",
        attention=attention,
        crop_source="prepared",
        labels=("Mass", "Nodule"),
    ).eval()


@pytest.fixture
def folder(model, tmp_path):
    card = model.new_card(prepared_size=144, seed=5, metrics={"fusion_auc": 0.75, "local_auc": None})
    model.save_pretrained(tmp_path / "run" / "model", card)
    return tmp_path / "run" / "model"


def edited(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip_is_exact(model, folder):
    again = AGCNN.from_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert again.arguments() == model.arguments()
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert not again.training
    assert again.card.preprocessing.prepared_size == 144
    assert again.card.seed == 5
    assert again.card.metrics == {"fusion_auc": 0.75, "local_auc": None}
    assert again.card.versions["torch"] == torch.__version__.split("+")[0]
    assert "research only" in (folder / "README.md").read_text()
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(image).fusion_BK, model(image).fusion_BK)


def test_a_run_folder_leads_to_its_model(model, folder):
    assert AGCNN.from_pretrained(folder.parent).card == AGCNN.from_pretrained(str(folder)).card


def test_a_frozen_channels_last_model_saves_the_same_bytes(model, folder, tmp_path):
    again = AGCNN.from_pretrained(folder).to(memory_format=torch.channels_last).freeze("global").train()
    again.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_saving_over_a_model_replaces_it(folder):
    again = AGCNN.from_pretrained(folder)
    with torch.no_grad():
        again.fusion_head.bias.fill_(3.0)
    again.save_pretrained(folder)
    assert AGCNN.from_pretrained(folder).fusion_head.bias.tolist() == [3.0, 3.0]
    assert not list(folder.glob("*.part"))


def test_the_card_of_another_network_is_refused(model, tmp_path):
    other = AGCNN("test_resnet", weights="none").new_card()
    with pytest.raises(ValueError, match="the card describes another network"):
        model.save_pretrained(tmp_path, other)


def test_patients_are_known_by_salted_hashes_only(model, tmp_path):
    patients = Patients.of(["00000013", "00000002", "00000013"], salt="s")
    assert patients.hashes == hash_patients(["00000002", "00000013"], "s")
    assert "f1e6980bf98cb164d4e478a6a21f33d3" in patients.hashes  # printf s:00000013 | sha256sum
    assert patients.known(["00000001", "00000013", "00000002", "00000013"]) == ("00000002", "00000013")
    assert Patients.of(["1"]).salt != Patients.of(["1"]).salt
    model.save_pretrained(tmp_path, model.new_card(train_patients=patients))
    assert "00000013" not in (tmp_path / "config.json").read_text()
    assert AGCNN.from_pretrained(tmp_path).card.train_patients == patients


def test_patients_are_known_however_cards_and_folders_write_them():
    """Cards and prepared folders of earlier versions hold ids as their tables wrote them."""
    ways = ("13", "00000013", "13.0", "013", "train/00000013", "test/00000013")
    for card in ways:
        patients = Patients.of([card, "P7"], salt="s")
        assert patients.known([*ways, "14", "130", "1", "P7", "p7", "7", "x/13", "test/00000014"]) == tuple(
            sorted((*ways, "P7"))
        )


def test_patients_of_another_collection_are_others(model, tmp_path):
    phantom = Patients.of(["27", "28"], collection="phantom, seed 0")
    assert phantom.known(["27", "30"], "nih") == ()
    assert phantom.known(["27", "30"], "phantom, seed 1") == ()
    assert phantom.known(["27", "30"], "phantom, seed 0") == ("27",)
    assert phantom.known(["27", "30"]) == ("27",)  # films that do not say: better one alarm too many
    model.save_pretrained(tmp_path, model.new_card(train_patients=phantom))
    card = tmp_path / "config.json"
    assert '"collection": "phantom, seed 0"' in card.read_text()
    values = json.loads(card.read_text())
    del values["train_patients"]["collection"]
    card.write_text(json.dumps(values))  # as cards were at first
    found = AGCNN.from_pretrained(tmp_path).card.train_patients
    assert found.collection is None
    assert found.known(["27", "30"], "nih") == ("27",)


def test_later_sections_keep_what_is_put_in(model, tmp_path):
    section = {"Mass": {"kind": "platt", "slope": 1.5, "points": [0.1, 0.2], "none": None}}
    point = OperatingPoint(threshold=0.25, sensitivity=0.9, specificity=0.5)
    finding = FindingCalibration(
        curve=Curve(kind="isotonic", knots=(0.1, 0.5), values=(0.0, 0.25)),
        prevalence=0.125,
        positives=10,
        films=80,
        points={"youden": point},
    )
    calibration = Calibration(method="isotonic", log_loss={"none": 0.5, "isotonic": 0.25}, findings={"Mass": finding})
    model.save_pretrained(tmp_path, model.new_card(calibration=calibration, feature_statistics=section))
    found = AGCNN.from_pretrained(tmp_path).card
    assert found.calibration == calibration
    assert found.feature_statistics == section


def test_an_empty_section_of_the_first_cards_is_passed_over(folder):
    edited(folder, operating_points=None)
    assert AGCNN.from_pretrained(folder).card.calibration is None
    edited(folder, operating_points={})
    with pytest.raises(ValueError, match="operating_points: Extra inputs are not permitted"):
        AGCNN.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format: Input should be 1.*newer agcxr"),
        ({"more": 1}, "more: Extra inputs are not permitted"),
        ({"model": {"backbone": "resnet18", "depth": 3}}, r"model\.depth: Extra inputs"),
        ({"model": {"backbone": "resnet18", "pooling": "sum"}}, r"model\.pooling: Input should be 'avg' or 'max'"),
        ({"model": {"backbone": "resnet18", "image_size": 10**9}}, r"model\.image_size: Input should be less than"),
        ({"model": {"backbone": "hf-hub:evil/model"}, "findings": None}, "unknown backbone 'hf-hub:evil/model'"),
        ({"model": {}}, r"model\.backbone: Field required"),
    ],
)
def test_cards_are_checked(folder, changes, message):
    edited(folder, **changes)
    with pytest.raises(ValueError, match=message):
        AGCNN.from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_damaged_card(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json is not (JSON|the card of an agcxr model)"):
        AGCNN.from_pretrained(folder)


def test_a_card_of_impossible_size(folder, monkeypatch):
    monkeypatch.setattr(checkpoint, "LARGEST_CARD", 100)
    with pytest.raises(ValueError, match=r"config\.json has [\d,]+ bytes; a model's card has at most 100"):
        AGCNN.from_pretrained(folder)


def test_weights_that_do_not_fit_are_named(folder):
    path = folder / "model.safetensors"
    state = safetensors.torch.load_file(path)
    bias = state.pop("fusion_head.bias")
    safetensors.torch.save_file(state | {"extra": bias, "fusion_head.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(
        ValueError,
        match=r"1 missing: fusion_head\.bias; 1 unexpected: extra; "
        r"1 of another shape: fusion_head\.weight \(3, 3\) instead of \(2, 192\)",
    ):
        AGCNN.from_pretrained(folder)


def test_missing_damaged_and_unsafe_weights(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for cut in (0, 5, 1000, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match="model.safetensors is damaged .*copy it again"):
            AGCNN.from_pretrained(folder)
    path.unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no model\.safetensors .*pytorch_model\.bin cannot be loaded in its place"):
        AGCNN.from_pretrained(folder)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_follow_the_umask(model, tmp_path, mask):
    before = os.umask(mask)
    try:
        model.save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "model").glob("*.*")}
    assert modes == dict.fromkeys(("model.safetensors", "config.json", "README.md"), oct(0o666 & ~mask))


def test_wrong_places(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no config\.json in .*expected a folder written by `agcxr train`"):
        AGCNN.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no folder nowhere; expected a run folder, a model folder, or a hub id"):
        AGCNN.from_pretrained("nowhere")
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ValueError, match=r"model\.onnx is an exported file, .*give the CSV to `agcxr score`"):
        AGCNN.from_pretrained(tmp_path / "model.onnx")
    with pytest.raises(
        ValueError, match=rf"is a file; expected the run or model folder that it lies in, here {folder}, "
    ):
        AGCNN.from_pretrained(folder / "model.safetensors")
    run = tmp_path / "unfinished"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 1")
    with pytest.raises(ValueError, match="is a run without a finished model; finish it with `agcxr train --out"):
        AGCNN.from_pretrained(run)
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(ValueError, match="there is no folder owner/name, and no such model can be fetched"):
            AGCNN.from_pretrained("owner/name", cache_dir=tmp_path)


def test_a_hub_model_in_the_cache_needs_no_network(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "unreachable", lambda _: "no network here")
    repo = tmp_path / "cache" / "models--owner--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("a" * 40)
    (repo / "snapshots").mkdir()
    folder.rename(repo / "snapshots" / ("a" * 40))
    found = AGCNN.from_pretrained("owner/name", cache_dir=tmp_path / "cache")
    assert found.arguments() == model.arguments()


def test_cards_are_values():
    card = AGCNN("test_resnet", weights="none").new_card()
    assert Card.model_validate_json(card.model_dump_json()) == card


def test_cards_from_before_the_controls_load_as_the_method(folder, tmp_path):
    found = json.loads((folder / "config.json").read_text())
    assert found["model"].pop("look") == "attention"
    (tmp_path / "config.json").write_text(json.dumps(found))
    assert checkpoint.read_card(tmp_path / "config.json").model.look == "attention"


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_a_saved_model_whose_map_is_one_cell_loads_with_a_warning(name, tmp_path):
    """Earlier versions trained such; a new one is refused."""
    with pytest.raises(ValueError, match="makes 1 x 1 cells of a view of 32 x 32 pixels, so attention could only"):
        AGCNN(name, weights="none", image_size=32)
    with pytest.warns(NoMapWarning, match="makes 1 x 1 cells of a view of 32 x 32 pixels"):
        saved = AGCNN(name, weights="none", image_size=32, strict=False).eval()
    saved.save_pretrained(tmp_path)
    with pytest.warns(NoMapWarning, match="makes 1 x 1 cells"):
        again = AGCNN.from_pretrained(tmp_path)
    image = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(image).fusion_BK, saved(image).fusion_BK)


@pytest.mark.parametrize("name", ["test_vit", "efficientvit_m0"])
def test_networks_that_were_built_for_their_own_size_load_as_they_are(name, tmp_path):
    """Earlier versions trained them on views of other sizes too."""
    torch.manual_seed(0)
    saved = AGCNN(name, weights="none", image_size=192).eval()
    for branch in (saved.global_branch, saved.local_branch):
        branch.backbone = branch.backbone.of_own_size().eval()
    saved.save_pretrained(tmp_path)
    again = AGCNN.from_pretrained(tmp_path)
    assert not again.training
    image = torch.rand(1, 1, 192, 192)
    with torch.no_grad():
        assert torch.equal(again(image).fusion_BK, saved(image).fusion_BK)


def test_what_fits_neither_size_is_told_of_the_views(tmp_path):
    AGCNN("test_vit", weights="none", image_size=192).save_pretrained(tmp_path)
    edited(tmp_path, model=json.loads((tmp_path / "config.json").read_text())["model"] | {"image_size": 128})
    with pytest.raises(ValueError, match=r"pos_embed \(1, 145, 64\) instead of \(1, 65, 64\)"):
        AGCNN.from_pretrained(tmp_path)
