import shutil

import cv2
import numpy as np
import pytest

from agcxr.inference import export, quantise
from agcxr.inference.onnx_engine import OnnxPredictor, Quantised
from agcxr.inference.onnx_file import check_plain
from agcxr.inference.quantise import FEWEST, MOST, Int8, beyond, calibration_films, moved
from agcxr.inference.stream import BatchPrediction
from inference.exported import S, phantoms

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
FILMS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Films as people have them, of twice the prepared size."""
    path = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(3)
    for i in range(FILMS):
        film_HW = phantoms(1, 2 * S)[0]
        noisy = np.clip(film_HW + rng.normal(0, 12, film_HW.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(path / f"{i:02d}.png"), noisy)
    (path / "notes.png").write_text("no film")
    return path


@pytest.fixture
def written_already(onnx_file, monkeypatch):
    monkeypatch.setattr(export, "write", lambda engine, path, half: shutil.copy(onnx_file, path))


@pytest.fixture(scope="module")
def rounded(model_folder, onnx_file, folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "m.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "write", lambda engine, path, half: shutil.copy(onnx_file, path))
        done = export.export(model_folder, path, int8=Int8((str(folder),), tolerance=1.0))
    return path, done


def test_the_file_says_what_int8_moved_and_boxes_are_the_same(rounded, onnx_file, folder):
    path, done = rounded
    assert list(path.parent.iterdir()) == [path]
    stated = OnnxPredictor(path).facts.quantised
    assert stated == done.quantised
    assert (stated.branches, stated.films, stated.checked, stated.tolerance) == ("local", FILMS // 2, FILMS // 2, 1.0)
    films = calibration_films([str(folder)], S)[1::2]
    plain, int8 = OnnxPredictor(onnx_file), OnnxPredictor(path)
    before, after = plain.predict_arrays(films, batch_size=8), int8.predict_arrays(films, batch_size=8)
    np.testing.assert_array_equal(after.box_N4, before.box_N4)
    np.testing.assert_array_equal(after.global_NK, before.global_NK)
    gap = np.abs(after.fusion_NK.astype(np.float64) - before.fusion_NK)
    assert 0 < gap.max() < 0.05
    assert stated.probability == pytest.approx(gap.mean(), abs=1e-9)
    assert stated.same_boxes == 1
    cut = plain.scale.cut.score_K
    has = np.isfinite(cut)
    assert stated.calls == ((after.fusion_NK >= cut) != (before.fusion_NK >= cut))[:, has].mean()


def test_the_file_is_as_plain_as_any_and_named_apart(rounded, onnx_file):
    path, done = rounded
    asks = check_plain(path)
    assert asks == check_plain(onnx_file)
    int8, plain = OnnxPredictor(path), OnnxPredictor(onnx_file)
    assert int8.facts.model_copy(update={"quantised": None}) == plain.facts
    assert int8.algorithm.fingerprint != plain.algorithm.fingerprint
    assert int8.about.precision == "int8 and fp32, onnxruntime"
    assert "int8" in repr(int8)
    assert "int8" in str(done)
    assert "0 boxes differ" in str(done)
    assert "quantised" not in plain.facts.to_json()  # files in float32 stay readable by earlier versions
    for name, value in ((output.name, output.doc_string) for output in onnx.load(path).graph.output):
        assert value == (export.MEANINGS | export.OF_AVERAGE)[name]


@pytest.mark.parametrize(("branches", "early"), [("local", 0.0), ("local", 0.5), ("both", 0.0)])
def test_the_first_and_the_last_convolution_stay_in_float32(onnx_file, branches, early, tmp_path):
    quantise._fold(onnx_file, tmp_path / "folded.onnx")
    graph = onnx.load(tmp_path / "folded.onnx").graph
    chosen = quantise._chosen(graph, branches, early)
    for branch in ("global", "local"):
        convs = [n for n in graph.node if n.op_type == "Conv" and f"{branch}_branch" in n.input[1]]
        rounded = [n.name in chosen for n in convs]
        first = max(1, round(early * len(convs)))
        expected = [first <= i < len(convs) - 1 for i in range(len(convs))]
        assert rounded == (expected if branches == "both" or branch == "local" else [False] * len(convs))
    kinds = {node.op_type for node in graph.node if node.name in chosen}
    assert kinds <= {"Conv", *quantise.FOLLOW}
    assert "Relu" in kinds


def test_beyond_its_tolerance_nothing_is_kept(model_folder, written_already, folder, tmp_path):
    target = tmp_path / "m.onnx"
    target.write_bytes(b"the one before")
    with pytest.raises(ValueError, match=r"nothing is kept: probabilities move by 0\.\d+ .*allowed are 1e-09"):
        export.export(model_folder, target, int8=Int8((str(folder),), tolerance=1e-9))
    assert target.read_bytes() == b"the one before"
    assert list(tmp_path.iterdir()) == [target]


def answers(fusion_NK, box_N4):
    n = len(fusion_NK)
    fusion, box = np.asarray(fusion_NK, np.float32), np.asarray(box_N4, np.float64)
    return BatchPrediction(("A", "B"), fusion, fusion, fusion, box, np.zeros(n, bool), np.array([0.0, 0, 1, 1]))


def test_what_is_measured():
    known = Quantised(branches="both", convolutions=1, films=4, tolerance=0.01)
    plain = answers([[0.4, 0.2], [0.6, 0.2]], [[0, 0, 1, 1], [0, 0, 0.5, 0.5]])
    rounded = answers([[0.5, 0.2], [0.6, 0.3]], [[0, 0, 1, 1], [0, 0, 0.5, 0.25]])
    found = moved(plain, rounded, np.array([0.45, np.nan]), known)
    assert (found.checked, found.same_boxes, found.near_boxes) == (2, 0.5, 0.5)
    assert found.probability == pytest.approx(0.05)
    assert found.calls == 0.5  # one of the two calls that finding A has; B has no threshold
    assert moved(plain, rounded, None, known).calls is None
    assert moved(plain, plain, None, known) == known.model_copy(update={"checked": 2})


def test_what_is_refused():
    good = Quantised(branches="both", convolutions=1, films=4, tolerance=0.01, probability=0.01, calls=0.01)
    assert beyond(good) == ""
    assert beyond(good.model_copy(update={"same_boxes": 0.3, "near_boxes": 0.95})) == ""
    worse = {
        "probability": (0.02, "probabilities move by 0.0200 on average, allowed are 0.01"),
        "calls": (0.02, "2.00% of calls change, allowed are 1.00%"),
        "near_boxes": (0.94, "94.0% of boxes stay near, expected are 95%"),
    }
    for name, (value, words) in worse.items():
        assert beyond(good.model_copy(update={name: value})) == words
    local = good.model_copy(update={"branches": "local", "same_boxes": 0.99})
    assert beyond(local) == "1.0% of boxes differ, and none should"
    assert "probabilities" in beyond(good.model_copy(update={"probability": float("nan")}))


def test_films_to_calibrate_on(folder, tmp_path):
    films = calibration_films([str(folder)], S)
    assert (films.shape, films.dtype) == ((FILMS, S, S), np.uint8)  # the file that is none is left out
    few = [str(path) for path in sorted(folder.glob("*.png"))[:3]]
    with pytest.raises(ValueError, match=f"3 films to calibrate on could be read; expected at least {FEWEST}"):
        calibration_films(few, S)
    assert len(quantise._spread(np.arange(MOST))) == MOST
    assert list(quantise._spread(np.arange(2 * MOST + 1))[:2]) == [0, 3]


def test_int8_and_its_films_go_together(model_folder, tmp_path, folder):
    from agcxr.commands import export as command

    with pytest.raises(ValueError, match="--precision int8 and --calibrate-on FILMS go together"):
        command(str(model_folder), tmp_path / "m.onnx", precision="int8")
    with pytest.raises(ValueError, match="given are --precision fp32 and 1 folders or films"):
        command(str(model_folder), tmp_path / "m.onnx", calibrate_on=(str(folder),))
    for tolerance in (0.0, 2.0, float("nan")):
        with pytest.raises(
            ValueError, match=f"the tolerance of int8 is {tolerance}; expected a share over 0, at most 1"
        ):
            Int8((str(folder),), tolerance=tolerance)
    with pytest.raises(ValueError, match="in half precision or in int8, not in both"):
        export.export(model_folder, tmp_path / "m.onnx", half=True, int8=Int8((str(folder),)))
    assert not list(tmp_path.iterdir())
