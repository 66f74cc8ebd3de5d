import json
import shutil
import subprocess
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from agcxr import config
from agcxr.data.augment import centre_views, render
from agcxr.data.radiograph import RESIZE_RULE, read_radiograph
from agcxr.data.radiograph import resize as opencv_resize
from agcxr.inference import export
from agcxr.inference.export_network import Curves, View
from agcxr.inference.onnx_engine import Facts, OnnxPredictor
from agcxr.inference.onnx_file import OLDEST_RUNTIME, Asks, check_plain
from agcxr.inference.parity import Parity, compare, made_films
from agcxr.inference.predictor import Predictor
from agcxr.inference.resizing import resize
from agcxr.inference.table import Table
from agcxr.labels import LABELS
from agcxr.models.agcnn import AGCNN
from inference.exported import NIH, S, calibration, network, phantoms

SHAPES_WHOLE = [(80, 80), (160, 160), (320, 320), (240, 240), (160, 80), (480, 400), (80, 560)]
SHAPES_SHRINK = [(100, 120), (81, 513), (333, 200), (1000, 700), (203, 161), (200, 160), (82, 320)]
SHAPES_GROW = [(40, 40), (60, 50), (1, 1), (2, 3), (70, 500), (500, 79), (79, 80), (26, 36)]
SHAPES_FILE = [
    # Both ratios whole.
    *[(160, 160), (320, 320), (480, 480), (640, 320), (160, 1120), (7840, 160)],
    # Shrinking. (400, 320), (164, 640), (200, 240): so simple ratios that many means lie midway between two levels.
    *[(400, 320), (164, 640), (200, 240), (240, 500), (161, 1026), (666, 401), (2071, 161), (1500, 1237), (2223, 170)],
    # Growing, on one side or both. (26, 36), (144, 1000): OpenCV's last bit decides which pixels are mixed.
    *[(80, 80), (120, 100), (1, 1), (2, 3), (140, 1000), (1000, 159), (159, 160), (26, 36), (144, 1000), (320, 98)],
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise(shape):
    """Two films that are the hardest to round alike."""
    return np.random.default_rng(sum(shape)).integers(0, 256, (2, *shape), dtype=np.uint8)


def gray_levels_apart(shape, size):
    """By torch itself, not by a file."""
    films = noise(shape)
    ours = resize(torch.from_numpy(films), size).numpy()
    assert (ours == ours.round()).all()
    return np.abs(ours - np.stack([opencv_resize(one, size) for one in films]))


@pytest.mark.parametrize("shape", SHAPES_FILE)
def test_the_file_resizes_as_opencv_does_to_the_bit(onnx_file, shape):
    films = noise(shape)
    found = OnnxPredictor(onnx_file, threads=1).run(films)["prepared"]
    np.testing.assert_array_equal(found, np.stack([opencv_resize(one, S) for one in films]))


@pytest.mark.parametrize("shape", SHAPES_WHOLE + SHAPES_GROW)
def test_torch_resizes_as_opencv_does_where_sums_are_whole_numbers(shape):
    assert gray_levels_apart(shape, 80).max() == 0


@pytest.mark.parametrize("shape", SHAPES_SHRINK)
def test_torch_is_within_a_gray_level_of_opencv_where_it_shrinks(shape):
    apart = gray_levels_apart(shape, 80)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 2e-2


@pytest.mark.parametrize(
    ("size", "resize_to", "image_size", "side"),
    [
        (80, 80, 64, None),
        (160, 80, 64, None),
        (160, 80, 64, 128),
        (96, 80, 64, None),
        (100, 80, 64, 80),
        (48, 80, 64, None),
    ],
)
def test_the_view_is_the_one_that_render_draws(size, resize_to, image_size, side):
    views = centre_views(1, size, image_size=image_size, resize=resize_to)
    film = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, size, size), dtype=np.uint8))
    expected = render(film[:, None], centre_views(3, size, image_size=image_size, resize=resize_to), side)
    view = View(views, size, side)
    np.testing.assert_allclose(view(film.float()), expected, atol=2e-6)
    assert view.cuts == (size == resize_to or side == size * image_size // resize_to)


def test_curves_are_those_of_the_calibration():
    scores = np.random.default_rng(0).random((200, 15)).astype(np.float32)
    scores[:7] = np.array([0, 1, 0.2, 0.45, 0.5, 0.8, 1e-9], np.float32)[:, None]
    known = calibration()
    found = Curves(known, LABELS)(torch.from_numpy(scores)).numpy()
    np.testing.assert_allclose(found, known.probabilities(scores, LABELS), atol=1e-7)
    np.testing.assert_array_equal(found[:, -1], scores[:, -1])  # the label without a curve
    assert found.dtype == np.float32


def test_curves_of_one_kind_only():
    scores = torch.rand(5, 15, generator=torch.Generator().manual_seed(0))
    known = calibration()
    for kept in ("none", "isotonic", "platt"):
        some = known.model_copy(update={"findings": {n: f for n, f in known.findings.items() if f.curve.kind == kept}})
        np.testing.assert_allclose(Curves(some, LABELS)(scores), some.probabilities(scores.numpy(), LABELS), atol=1e-7)


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("side", [S, 2 * S])
def test_phantoms_get_the_answers_of_the_eager_model(onnx_file, eager, n, side):
    parity = compare(onnx_file, eager, [phantoms(n, side)])
    assert parity.good, parity
    assert parity.films == (1 if n == 1 else 6)
    assert (parity.edge, parity.gray, parity.pixels) == (0, 0, 0)


def test_films_of_any_size_get_boxes_in_their_own_pixels(onnx_file, eager):
    exported = OnnxPredictor(onnx_file, threads=1)
    for height, width in ((S, S), (240, 500), (100, 90), (321, 640)):
        films = np.stack([cv2.resize(one, (width, height)) for one in phantoms(2)])
        found = exported.run(films)
        for row, one in enumerate(films):
            np.testing.assert_array_equal(found["prepared"][row], opencv_resize(one, S))
            single = eager(one)
            np.testing.assert_allclose(found["fusion"][row], single.fusion_K, atol=1e-5)
            np.testing.assert_allclose(found["box"][row], single.box, atol=0.01)
            assert found["fallback"][row] == single.fallback


def test_made_films_hold_up(onnx_file, eager):
    parity = compare(onnx_file, eager, made_films(S))
    assert parity.good, parity
    assert parity.pixels == 0


def test_the_prepared_film_alone_moves_nothing(onnx_file, eager):
    """At every size the network's part is the eager model's on the film as the file resized it."""
    films = np.stack([cv2.resize(one, (4 * S, S + 7)) for one in phantoms(3)])
    found = OnnxPredictor(onnx_file, threads=1).run(films)
    expected = eager.predict_arrays(found["prepared"])
    np.testing.assert_allclose(found["fusion"], expected.fusion_NK, atol=1e-6)
    np.testing.assert_allclose(found["box"], expected.box_N4 * [4 * S, S + 7, 4 * S, S + 7], atol=1e-3)


def test_real_films_get_the_answers_of_the_eager_model(onnx_file, eager):
    if not NIH.is_dir():
        pytest.skip("the films of ../shared/nih are absent")
    sources = ((NIH / "full", "*.png", 6), (NIH / "images", "*.jpg", 10))
    for folder, pattern, n in sources:
        films = [read_radiograph(path).to_uint8() for path in sorted(folder.glob(pattern))[:n]]
        batches = [np.stack(films[at : at + 5]) for at in range(0, n, 5)]
        parity = compare(onnx_file, eager, batches)
        assert parity.good, parity


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {
            "attention": config.Attention(
                statistic="l2", normalise="percentile", at="grid", connectivity=4, min_side=20
            ),
            "look": "random",
            "pooling": "max",
            "in_channels": 3,
            "normalisation": "mean",
        },
        {"attention": config.Attention(statistic="learned", threshold=0.5, crops=3, min_side=4), "pool": "max"},
    ],
    ids=["one box", "several regions"],
)
def test_every_option_is_expressed(tmp_path, changes):
    eager = Predictor(network(**changes), device="cpu", prepared_size=100)
    path = tmp_path / "model.onnx"
    export.write(eager, path)
    parity = compare(path, eager, made_films(100))
    assert parity.good, parity
    exported = OnnxPredictor(path, threads=1)
    assert not exported.calibrated
    assert "calibrated" not in exported.run(phantoms(1, 100))


def test_several_boxes_and_their_weights_are_those_of_the_eager_model(tmp_path):
    """Windows cut from the film at full depth, weighed by a gate."""
    look = config.Attention(statistic="cam", crops=4, window=0.3, min_side=4)
    model = network(attention=look, pool="gated", crop_source="prepared")
    torch.manual_seed(3)
    torch.nn.init.normal_(model.local_branch.gate.score.weight)
    eager, path = Predictor(model, device="cpu", prepared_size=160), tmp_path / "model.onnx"
    export.write(eager, path)
    films, exported = made_films(160)[:2], OnnxPredictor(path, threads=1)
    parity = compare(exported, eager, films)
    assert parity.good, parity
    found, wanted = exported.run(films[1]), eager.predict_arrays(films[0])
    assert found["boxes"].shape == (5, 4, 4)
    np.testing.assert_array_equal(found["boxes"][:, 0], found["box"])
    np.testing.assert_allclose(found["weights"].sum(1), 1, atol=1e-6)
    assert found["weights"].std() > 1e-3
    assert exported.crops == eager.crops == 4
    ours, theirs = exported(films[0][0]), eager(films[0][0])
    assert len(ours.boxes) == len(theirs.boxes) == 4
    assert ours.boxes[0] == ours.box
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-3)
    np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-5)
    np.testing.assert_allclose(theirs.boxes, wanted.box_NR4[0] * 160, atol=1e-9)
    assert exported.algorithm.parameters[2] == "attention cam, windows of 0.3, 4 crops"
    table = Table(eager.labels, calibrated=False, several=True)
    row = dict(zip(table.columns, table.values("a.png", theirs), strict=True))
    assert [box[:4] for box in json.loads(row["boxes"])] == [[round(edge, 2) for edge in box] for box in theirs.boxes]
    assert "boxes" not in Table(eager.labels, calibrated=False).columns


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet50", "densenet121"])
def test_the_published_backbones(tmp_path, backbone):
    """At half their size in each direction, for time."""
    eager = Predictor(network(backbone=backbone, image_size=112, resize=128), device="cpu", prepared_size=256)
    path = tmp_path / "model.onnx"
    export.write(eager, path)
    parity = compare(path, eager, made_films(256))
    assert parity.good, parity
    real = [read_radiograph(one).to_uint8() for one in sorted((NIH / "full").glob("*.png"))[:5]]
    if real:
        parity = compare(path, eager, [np.stack(real)])
        assert parity.good, parity
        assert (parity.films, parity.edge, parity.gray) == (6, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_transformers_are_exported_with_their_own_statistics(tmp_path, backbone):
    """Built for the size of the views, and for pixels of other statistics than ImageNet's."""
    model = network(backbone=backbone, mean=(0.5,) * 3, std=(0.5,) * 3)
    path = tmp_path / "model.onnx"
    export.write(Predictor(model, device="cpu", prepared_size=100), path)
    parity = compare(path, Predictor(model, device="cpu", prepared_size=100), made_films(100))
    assert parity.good, parity
    wrong = Predictor(network(backbone=backbone), device="cpu", prepared_size=100)
    assert not compare(path, wrong, made_films(100)).good


def test_the_file_says_what_it_is(onnx_file, eager):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(onnx_file)
    dimensions = {
        value.name: tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in [*model.graph.input, *model.graph.output]
    }
    assert dimensions["films"] == ("batch", "height", "width")
    assert dimensions["fusion"] == dimensions["calibrated"] == ("batch", 15)
    assert dimensions["heat"] == dimensions["crop"] == ("batch", 64, 64)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", export.OPSET)]
    onnx.checker.check_model(model, full_check=True)
    assert not [node.name for node in model.graph.node if node.op_type == "CastLike"]  # runtimes warn of each
    assert [value.name for value in model.graph.output] == list(export.MEANINGS)
    assert {value.name: value.doc_string for value in model.graph.output} == export.MEANINGS
    (entry,) = (one for one in model.metadata_props if one.key == "agcxr")
    facts = Facts.model_validate_json(entry.value)
    assert facts.labels == LABELS
    assert (facts.prepared_size, facts.image_size, facts.resize_rule) == (S, 64, RESIZE_RULE)
    assert facts.window == (0.1, 0.1, 0.9, 0.9)
    assert facts.calibration == calibration()
    assert facts.calibration.findings["Cardiomegaly"].points["youden"].threshold == 0.5
    assert facts.feature_statistics == eager.statistics
    assert facts.card["seed"] == 7
    assert facts.card["model"]["backbone"] == "test_resnet"
    assert {"agcxr", "torch", "onnx"} <= set(facts.versions)


def test_the_file_tells_nothing_of_patients_or_of_the_machine(onnx_file):
    data = onnx_file.read_bytes()
    for word in (b"train_patients", b"site-packages", b".py", b"stack_trace"):
        assert word not in data


@pytest.fixture
def written_already(onnx_file, monkeypatch):
    monkeypatch.setattr(export, "write", lambda engine, path, half: shutil.copy(onnx_file, path))


def test_export_compares_and_says_so(model_folder, written_already, tmp_path):
    done = export.export(model_folder, tmp_path / "new" / "m.onnx")
    assert done.path == tmp_path / "new" / "m.onnx"
    assert done.size == done.path.stat().st_size
    assert done.parity.good
    assert "0 boxes differ" in str(done)
    assert list(done.path.parent.iterdir()) == [done.path]


def test_weights_in_half_precision_take_half_the_bytes_and_answer_as_the_rounded_model(
    model_folder, onnx_file, tmp_path
):
    path = tmp_path / "half.onnx"
    exported = export.export(model_folder, path, half=True)
    assert exported.parity.good
    assert 0 < exported.rounding < 1e-3
    assert f"moves the model's own probabilities by {exported.rounding:.1e} at most" in str(exported)
    predictor = Predictor.from_pretrained(model_folder, device="cpu")
    with torch.no_grad():
        for weight in predictor.model.parameters():
            if weight.dim() > 1:
                weight.copy_(weight.half())
    assert compare(path, predictor, made_films(S)).good
    weights = sum(4 * p.numel() for p in predictor.model.parameters() if p.dim() > 1 and p.numel() >= export.SMALL)
    assert onnx_file.stat().st_size - path.stat().st_size == pytest.approx(weights / 2, rel=0.02)


def test_an_exported_file_gives_first_weights_to_another_model(model_folder, onnx_file, tmp_path):
    """The global branch's backbone and the scale of its pixels."""
    trained = AGCNN.from_pretrained(model_folder)
    model, expected = (
        AGCNN(trained.backbone_name, weights=str(path), image_size=64) for path in (onnx_file, model_folder)
    )
    assert (model.mean, model.std) == (expected.mean, expected.std) == (trained.mean, trained.std)
    own, other = (each.local_branch.backbone.state_dict() for each in (model, expected))
    assert own.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in own.items() if "num_batches" not in key)
    (tmp_path / "odd.onnx").write_bytes(onnx_file.read_bytes()[:5000])
    (tmp_path / "none.onnx").write_bytes(b"")
    for name in ("odd.onnx", "none.onnx"):
        with pytest.raises(ValueError, match=rf"{name} is damaged, or was not written by `agcxr export`"):
            AGCNN(trained.backbone_name, weights=str(tmp_path / name), image_size=64)


def test_weights_too_large_for_half_precision_are_refused(model_folder, tmp_path):
    model = Predictor.from_pretrained(model_folder, device="cpu").model
    with torch.no_grad():
        model.fusion_head.weight[0, 0] = 7e4
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"half precision ends at 65,504, and fusion_head.weight has weights over it"):
        export.export(tmp_path / "model", tmp_path / "half.onnx", half=True)
    assert not list(tmp_path.glob("*.onnx"))


def test_a_file_that_answers_otherwise_is_not_kept(model_folder, written_already, tmp_path, monkeypatch):
    other = network()
    with torch.no_grad():
        other.fusion_head.bias += 0.01
    other.save_pretrained(tmp_path / "other", other.new_card(prepared_size=S, calibration=calibration()))
    target = tmp_path / "m.onnx"
    target.write_bytes(b"the one before")
    with pytest.raises(ValueError, match="does not answer as the eager model does, so it is not kept: .*24 films"):
        export.export(tmp_path / "other", target)
    assert target.read_bytes() == b"the one before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "other"]


def test_export_names_what_it_cannot_do(tmp_path, model_folder, monkeypatch):
    with pytest.raises(ValueError, match="expected a name that ends in .onnx"):
        export.export(model_folder, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="no folder .*absent"):
        export.export(str(tmp_path / "absent"), tmp_path / "m.onnx")
    monkeypatch.setattr(export, "LARGEST", 1000)
    with pytest.raises(ValueError, match="one ONNX file holds at most"):
        export.export(model_folder, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_limits_of_parity():
    good = Parity(films=1, probability=1e-6, calibrated=0, edge=0, boxes=0, heat=1e-5, crop=1, gray=1, pixels=9)
    assert good.good
    for change in (
        {"probability": 2e-5},
        {"probability": float("nan")},
        {"calibrated": 2e-5},
        {"boxes": 1},
        {"heat": float("nan")},
        {"crop": 2},
        {"gray": 2},
    ):
        assert not replace(good, **change).good


@pytest.fixture(scope="module")
def old_python(tmp_path_factory):
    """An environment of its own with the oldest ONNX Runtime that is promised; it needs NumPy 1."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv, which makes the environment of the old ONNX Runtime, is not installed")
    folder = tmp_path_factory.mktemp("old") / "venv"
    packages = (f"onnxruntime=={OLDEST_RUNTIME}.*", "numpy<2")
    python = folder / "bin" / "python"
    for command in (
        [uv, "venv", "--quiet", "--no-config", "--python", "3.11", str(folder)],
        [uv, "pip", "install", "--quiet", "--no-config", "--python", str(python), *packages],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"the environment of the old ONNX Runtime cannot be made: {done.stderr.strip()[-300:]}")
    return python


@pytest.mark.slow
def test_the_oldest_runtime_gives_the_same_boxes_and_probabilities(old_python, onnx_file, tmp_path):
    films = {"same": phantoms(3), "larger": phantoms(2, 200), "noise": noise((161, 513))}
    np.savez(tmp_path / "films.npz", **films)
    code = """
import sys, numpy, onnxruntime
print(onnxruntime.__version__)
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
answers = {}
for key, films in numpy.load(sys.argv[2]).items():
    answers |= {f"{key} {n}": a for n, a in zip(names, session.run(names, {"films": films}))}
numpy.savez(sys.argv[3], **answers)
"""
    words = [str(onnx_file), str(tmp_path / "films.npz"), str(tmp_path / "answers.npz")]
    done = subprocess.run([str(old_python), "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{OLDEST_RUNTIME}.")
    old, today = np.load(tmp_path / "answers.npz"), OnnxPredictor(onnx_file, threads=1)
    for key, some in films.items():
        answers = today.run(some)
        assert {f"{key} {name}" for name in answers} <= set(old)
        for name, answer in answers.items():
            exact = name in ("box", "fallback", "prepared")
            np.testing.assert_allclose(old[f"{key} {name}"], answer, rtol=0, atol=0 if exact else 1e-6, err_msg=name)


def test_the_file_states_the_versions_it_keeps_to(onnx_file):
    """A runtime compares both with its own before it looks at an operator."""
    import onnx

    model = onnx.load(onnx_file, load_external_data=False)
    assert check_plain(onnx_file) == Asks(opset=20, ir_version=9)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 20)]
    assert model.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import)
    parts = (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.initializer)
    assert not any(part.metadata_props for part in parts)  # IR version 10's
    assert "Opset 20, IR version 9: ONNX Runtime 1.17 or newer." in model.doc_string
    # The kernels that ONNX Runtime 1.17 lacks for whole numbers of 64 bits.
    typed = onnx.shape_inference.infer_shapes(model)
    wide = {v.name for v in typed.graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.INT64}
    assert not [
        node.name for node in model.graph.node if node.op_type in ("ArgMin", "ArgMax") and node.input[0] in wide
    ]
