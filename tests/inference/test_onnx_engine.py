import csv
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest

from agcxr.cli import main
from agcxr.data.radiograph import RadiographError
from agcxr.inference import stream
from agcxr.inference.batch import predict_files
from agcxr.inference.onnx_engine import KEY, Facts, OnnxPredictor, is_exported
from agcxr.inference.prediction import Failure
from agcxr.intake import Intake
from inference.exported import S, phantoms, predictor, same
from inference.make import film


@pytest.fixture(scope="module")
def exported(onnx_file):
    return OnnxPredictor(onnx_file, threads=1)


@pytest.fixture
def films(tmp_path):
    """A folder with PNGs of several sizes and depths, and one that is no film."""
    folder = tmp_path / "films"
    folder.mkdir()
    for i, pixels in enumerate(phantoms(3)):
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(pixels, (200 + 60 * i, 300)))
    cv2.imwrite(str(folder / "deep.png"), phantoms(4)[3].astype(np.uint16) * 257)
    (folder / "page.png").write_bytes(b"<html>")
    return folder


@pytest.fixture
def accepted(monkeypatch):
    """Every film is: rows of refused ones hold no numbers to compare, and the model's made-up statistics refuse all."""
    for name in ("judge", "judge_distance"):
        monkeypatch.setattr(stream, name, lambda given: Intake("accept"))


def test_every_field_is_the_eager_one_s(exported, eager, films):
    inputs = [*sorted(films.glob("[0-2d]*.png")), (films / "0.png").read_bytes(), film(120, 90)]
    for given in inputs:
        same(exported(given), eager(given))
    assert exported(inputs[0], keep_film=0).film_HW is None
    assert exported.labels == eager.labels
    assert (exported.prepared_size, exported.calibrated) == (eager.prepared_size, True)
    assert exported.calibration == eager.calibration


def test_streams_in_order_with_failures_in_their_places(exported, eager, films):
    paths = sorted(films.glob("*.png"))
    before = set(threading.enumerate())  # a page that other tests keep open has some
    for batch_size in (1, 2, 16):
        for a, b in zip(exported.stream(paths, batch_size=batch_size), eager.stream(paths), strict=True):
            if isinstance(b, Failure):
                assert a == b
            else:
                same(a, b)
    with pytest.raises(RadiographError, match="no such file"):
        exported(films / "absent.png")
    assert not [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("agcxr")]


def test_prepared_films_batched_and_one_by_one(exported, eager):
    prepared = phantoms(5)
    whole, eagerly = (one.predict_arrays(prepared, details=True) for one in (exported, eager))
    parts = exported.predict_arrays(prepared, [4, 1], batch_size=1)
    for name in ("global_NK", "local_NK", "fusion_NK"):
        np.testing.assert_allclose(getattr(whole, name), getattr(eagerly, name), atol=1e-5)
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name)[[4, 1]], atol=1e-5)
    np.testing.assert_allclose(whole.distance_N, eagerly.distance_N, rtol=1e-4)
    np.testing.assert_allclose(whole.window_4, eagerly.window_4, atol=1e-9)
    assert parts.heat_NHW is None
    assert exported.predict_arrays(prepared, []).fusion_NK.shape == (0, 15)
    with pytest.raises(ValueError, match=f"expects uint8 .N, {S}, {S}."):
        exported.predict_arrays(prepared[:, :-1])


def test_prevalence_and_operating_point_are_chosen_when_it_runs(onnx_file, model_folder):
    options = {"point": "youden", "prevalence": {"Mass": 0.02}}
    a, b = OnnxPredictor(onnx_file, **options), predictor(model_folder, **options)
    same(a(film(seed=4)), b(film(seed=4)))
    assert a(film()).calibrated_K[4] != OnnxPredictor(onnx_file)(film()).calibrated_K[4]
    with pytest.raises(ValueError, match="prevalence names 'Flu'"):
        OnnxPredictor(onnx_file, prevalence={"Flu": 0.1})


def test_refusals_are_the_eager_one_s(exported, eager):
    """In decision and in words: the check of the pixels, and the distance in feature space."""
    whole = phantoms(1, 320)[0]
    noise = np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8)
    pictures = [whole, 255 - whole, np.rot90(whole), whole[160:, :160], noise, np.zeros((300, 300), np.uint8)]
    found = [(a.intake, b.intake) for a, b in ((exported(one), eager(one)) for one in pictures)]
    assert [a for a, _ in found] == [b for _, b in found]
    assert {"refuse"} == {a.decision for a, _ in found[1:3] + found[4:]}


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_predict_writes_the_rows_of_the_eager_engine(onnx_file, model_folder, films, accepted, tmp_path, capsys):
    for model, name in ((onnx_file, "a"), (model_folder, "b")):
        out = tmp_path / f"{name}.csv"
        assert main(["predict", str(model), str(films), "--out", str(out), "--explain", str(tmp_path / name)]) == 1
    capsys.readouterr()
    a, b = rows(tmp_path / "a.csv"), rows(tmp_path / "b.csv")
    assert a[0] == b[0]
    assert len(a) == len(b) == 6
    assert [bool(row[a[0].index("prob_Mass")]) for row in a[1:]] == [True] * 4 + [False]
    for mine, theirs in zip(a[1:], b[1:], strict=True):
        for column, x, y in zip(a[0], mine, theirs, strict=True):
            if x != y and column != "picture":
                assert float(x) == pytest.approx(float(y), abs=0.011 if column.startswith("box") else 1e-4), column
    pictures = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert pictures == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert len(pictures) == 4


def test_no_torch_is_imported(onnx_file, films, tmp_path):
    code = (
        "import sys; from agcxr.cli import main; "
        f"main(['predict', {str(onnx_file)!r}, {str(films)!r}, '--out', {str(tmp_path / 'p.csv')!r}]); "
        "print(sorted({'torch', 'timm', 'lightning', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert len(rows(tmp_path / "p.csv")) == 6


def test_films_of_one_batch_share_a_size_and_a_type(exported):
    assert exported.run(np.zeros((2, 30, 50), np.uint8))["box"].shape == (2, 4)
    for wrong in (np.zeros((2, 30, 50), np.float32), np.zeros((30, 50), np.uint8), np.zeros((1, 0, 5), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8 B x H x W"):
            exported.run(wrong)


def test_what_counts_as_exported():
    assert is_exported("a/b/model.onnx")
    assert is_exported("MODEL.ONNX")
    assert not is_exported("run")


def test_what_the_engine_cannot_do(onnx_file, model_folder, films, tmp_path):
    out = tmp_path / "p.csv"
    with pytest.raises(ValueError, match="is an exported file: it answers on the CPU; for cuda give the run folder"):
        predict_files(onnx_file, [str(films)], out, device="cuda")
    with pytest.raises(ValueError, match="computes an exported file in fp32, not in bf16; OpenVINO can"):
        predict_files(onnx_file, [str(films)], out, precision="bf16")
    with pytest.raises(ValueError, match="openvino runs exported files, and .* is none: `agcxr export"):
        predict_files(model_folder, [str(films)], out, runtime="openvino")
    assert not out.exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_predict_on_openvino(onnx_file, films, accepted, tmp_path, precision):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    words = ["--runtime", "openvino", "--precision", precision]
    assert main(["predict", str(onnx_file), str(films), "--out", str(tmp_path / "o.csv"), *words]) == 1
    main(["predict", str(onnx_file), str(films), "--out", str(tmp_path / "p.csv")])
    ours, theirs = rows(tmp_path / "o.csv"), rows(tmp_path / "p.csv")
    assert ours[0] == theirs[0]
    k = ours[0].index("global_Mass")
    for mine, other in zip(ours[1:5], theirs[1:5], strict=True):
        assert float(mine[k]) == pytest.approx(float(other[k]), abs=2e-6 if precision == "fp32" else 0.05)


def edited(source, target, **changes):
    """A copy of an exported file with other metadata; None takes them away."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(source)
    facts = Facts.model_validate_json(next(one.value for one in model.metadata_props if one.key == KEY))
    text = changes.pop("text", None) or facts.model_copy(update=changes).model_dump_json()
    del model.metadata_props[:]
    if text != "absent":
        model.metadata_props.add(key=KEY, value=text)
    onnx.save(model, target)
    return target


def test_files_that_will_not_do_are_named_with_the_cure(onnx_file, tmp_path):
    with pytest.raises(ValueError, match="no file .*absent.onnx; expected one written by `agcxr export"):
        OnnxPredictor(tmp_path / "absent.onnx")
    broken = tmp_path / "broken.onnx"
    for data in (b"", b"not a model", onnx_file.read_bytes()[:5000]):
        broken.write_bytes(data)
        with pytest.raises(ValueError, match="broken.onnx"):
            OnnxPredictor(broken)
    with pytest.raises(ValueError, match="none of agcxr's; write one with `agcxr export"):
        OnnxPredictor(edited(onnx_file, broken, text="absent"))
    with pytest.raises(ValueError, match="are not understood: .*Export it again, or upgrade"):
        OnnxPredictor(edited(onnx_file, broken, text='{"format": 2}'))
    with pytest.raises(ValueError, match="resized by the rule 'nearest'"):
        OnnxPredictor(edited(onnx_file, broken, resize_rule="nearest"))
    with pytest.raises(ValueError, match="not calibrated, so its scores cannot be corrected"):
        OnnxPredictor(edited(onnx_file, broken, calibration=None), prevalence=0.1)


def test_answers_of_another_shape_than_promised_are_no_answers(onnx_file, tmp_path):
    exported = OnnxPredictor(edited(onnx_file, tmp_path / "m.onnx", image_size=32), threads=1)
    with pytest.raises(
        ValueError, match=r"answers 'heat' as float32 \(1, 64, 64\); its metadata promise float32 \(1, 32"
    ):
        exported(film())
    exported = OnnxPredictor(edited(onnx_file, tmp_path / "m.onnx", labels=("Mass",)), threads=1)
    with pytest.raises(
        ValueError, match=r"answers 'global' as float32 \(1, 15\); its metadata promise float32 \(1, 1\)"
    ):
        exported.run(phantoms(1))


def test_openvino_computes_in_bf16_where_asked(onnx_file, eager):
    """Not the same answers, but near: nothing is enforced but that it is another arithmetic and no nonsense."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    films = phantoms(3)
    coarse = OnnxPredictor(onnx_file, runtime="openvino", precision="bf16", threads=1).predict_arrays(films)
    exact = eager.predict_arrays(films)
    gap = np.abs(coarse.global_NK - exact.global_NK).max()
    assert gap < 0.05
    assert np.isfinite(coarse.fusion_NK).all()


def test_openvino_gives_the_same_answers(onnx_file, eager):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    exported = OnnxPredictor(onnx_file, runtime="openvino", threads=1)
    assert exported.facts == OnnxPredictor(onnx_file).facts
    for given in phantoms(3):
        same(exported(given), eager(given))


def test_runtimes_and_precisions_that_there_are_not(onnx_file, monkeypatch):
    with pytest.raises(ValueError, match="runtime is 'tensorrt' in 'fp32'; expected 'onnxruntime' or 'openvino'"):
        OnnxPredictor(onnx_file, runtime="tensorrt")
    with pytest.raises(ValueError, match="computes an exported file in fp32, not in bf16"):
        OnnxPredictor(onnx_file, precision="bf16")
    for name, cure in (("onnxruntime", "install `onnxruntime`"), ("openvino", r"uv pip install 'agcxr\[openvino\]'")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ValueError, match=cure):
            OnnxPredictor(onnx_file, runtime=name)
