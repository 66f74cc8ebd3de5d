import io
import threading
from itertools import count

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from agcxr import config
from agcxr.calibration import Calibration, Curve, FindingCalibration
from agcxr.data.radiograph import RadiographError, from_array, read_radiograph, resize
from agcxr.inference.prediction import Failure, Prediction
from agcxr.inference.predictor import Predictor
from agcxr.labels import LABELS
from agcxr.models.agcnn import AGCNN
from inference.make import film

S, RESIZE, VIEW = 80, 80, 64


def model(**changes):
    torch.manual_seed(0)
    attention = config.Attention(min_side=4, threshold=0.5)
    arguments = {"image_size": VIEW, "resize": RESIZE, "weights": "none", "attention": attention}
    return AGCNN("test_resnet", **(arguments | changes))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def predictor():
    return Predictor(model(), device="cpu")


def test_a_control_looks_where_it_looked_in_training_alone_and_in_batches():
    images = np.stack([resize(film(90, 90, seed), S) for seed in range(5)])
    control = Predictor(model(look="random"), device="cpu")
    together, again = control.predict_arrays(images, batch_size=5), control.predict_arrays(images, batch_size=2)
    np.testing.assert_array_equal(together.box_N4, again.box_N4)
    single = np.concatenate([control.predict_arrays(images[i : i + 1]).box_N4 for i in range(5)])
    np.testing.assert_array_equal(together.box_N4, single)
    attended = Predictor(model(), device="cpu").predict_arrays(images)
    size = attended.box_N4[:, 2:] - attended.box_N4[:, :2]
    np.testing.assert_allclose(together.box_N4[:, 2:] - together.box_N4[:, :2], size, atol=1e-6)


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def same(a, b, atol=1e-5):
    """Equal answers, whatever the batches they were computed in."""
    for branch in ("global", "local", "fusion"):
        np.testing.assert_allclose(a.branch(branch), b.branch(branch), atol=atol)
    np.testing.assert_allclose(a.box, b.box, atol=1e-3)
    np.testing.assert_allclose(a.heat_HW, b.heat_HW, atol=atol)
    assert np.abs(a.crop_HW.astype(int) - b.crop_HW).max() <= 1
    assert (a.fallback, a.window, a.height, a.width) == (b.fallback, b.window, b.height, b.width)


def test_path_bytes_array_and_radiograph_give_one_answer(predictor, tmp_path):
    pixels = film(120, 90)
    path = tmp_path / "a.png"
    path.write_bytes(png(pixels))
    answers = [predictor(given) for given in (path, str(path), path.read_bytes(), pixels, read_radiograph(path))]
    for answer in answers:
        same(answer, answers[0], atol=0)
    assert [answer.name for answer in answers] == [str(path), str(path), "bytes", "array", "a.png"]


def test_what_a_prediction_holds(predictor):
    answer = predictor(film(120, 90))
    assert answer.labels == LABELS
    for probability in (answer.global_K, answer.local_K, answer.fusion_K):
        assert probability.dtype == np.float32
        assert probability.shape == (15,)
        assert ((probability > 0) & (probability < 1)).all()
    assert (answer.height, answer.width) == (120, 90)
    assert answer.window == (9.0, 12.0, 81.0, 108.0)  # the central 64 of 80
    x0, y0, x1, y1 = answer.box
    assert 9 <= x0 < x1 <= 81
    assert 12 <= y0 < y1 <= 108
    assert answer.heat_HW.shape == answer.crop_HW.shape == (VIEW, VIEW)
    assert answer.crop_HW.dtype == np.uint8
    assert answer.film_HW is not None
    np.testing.assert_array_equal(answer.film_HW, film(120, 90))


def test_the_prepared_film_gives_the_answer_of_its_file(predictor):
    pixels = film(200, 150)
    from_file = predictor(png(pixels))
    prepared = resize(pixels, S)
    same_pixels = predictor(prepared)
    np.testing.assert_array_equal(from_file.fusion_K, same_pixels.fusion_K)
    batch = predictor.predict_arrays(prepared[None], details=True)
    np.testing.assert_array_equal(batch.fusion_NK[0], from_file.fusion_K)
    np.testing.assert_array_equal(batch.global_NK[0], from_file.global_K)
    np.testing.assert_array_equal(batch.local_NK[0], from_file.local_K)
    np.testing.assert_allclose(batch.box_N4[0] * [150, 200, 150, 200], from_file.box, atol=1e-9)
    np.testing.assert_array_equal(batch.heat_NHW[0], from_file.heat_HW)
    np.testing.assert_array_equal(batch.crop_NHW[0], from_file.crop_HW)


def test_probabilities_are_the_model_s_on_the_central_view():
    network = model()
    pixels = film(S, S)
    answer = Predictor(network, device="cpu")(pixels)
    view = torch.from_numpy(pixels[8:72, 8:72].copy())[None, None].float() / 255
    with torch.inference_mode():
        out = network(view)
    np.testing.assert_allclose(answer.fusion_K, out.fusion_BK[0].sigmoid(), atol=1e-6)
    np.testing.assert_allclose(answer.box, out.box_B4[0] + 8, atol=1e-4)
    np.testing.assert_array_equal(answer.heat_in_original()[8:72, 8:72], answer.heat_HW)


@pytest.mark.parametrize("factor", [1, 4])
def test_box_holds_the_pixels_of_the_crop(factor):
    """The crop is cut where the box says, from the film as sharp as it was prepared."""
    network = model(crop_source="prepared", attention=config.Attention(threshold=0.95, min_side=4))
    pixels = film(factor * S, factor * S, seed=3)
    pixels[::2] //= 2  # detail that is lost at the view's own size
    answer = Predictor(network, device="cpu", prepared_size=factor * S)(pixels)
    assert not answer.fallback
    x0, y0, x1, y1 = (round(edge) for edge in answer.box)
    assert (x1 - x0) * (y1 - y0) < len(pixels) ** 2 / 2
    cut = torch.from_numpy(pixels[y0:y1, x0:x1].copy())[None, None].float()
    expected = torch.nn.functional.interpolate(cut, (VIEW, VIEW), mode="bilinear", align_corners=False)[0, 0]
    assert np.abs(expected.numpy() - answer.crop_HW).max() <= 1


def test_a_film_prepared_larger_is_the_same_view_to_the_global_branch():
    network = model(crop_source="view")
    pixels = film(4 * S, 4 * S)
    plain, large = (Predictor(network, device="cpu", prepared_size=size)(pixels) for size in (S, 4 * S))
    np.testing.assert_allclose(plain.global_K, large.global_K, atol=2e-3)
    np.testing.assert_allclose(plain.box, large.box, atol=8)  # two pixels of the view
    assert plain.window == large.window


def test_batched_equals_single(predictor):
    films = [film(60 + i, 90 - i, seed=i) for i in range(7)]
    for batch_size in (1, 3, 16):
        for single, streamed in zip(map(predictor, films), predictor.stream(films, batch_size=batch_size), strict=True):
            same(single, streamed)
    prepared = np.stack([resize(pixels, S) for pixels in films])
    whole, parts = predictor.predict_arrays(prepared), predictor.predict_arrays(prepared, batch_size=2)
    np.testing.assert_allclose(whole.fusion_NK, parts.fusion_NK, atol=1e-5)
    np.testing.assert_allclose(whole.box_N4, parts.box_N4, atol=1e-5)
    assert whole.heat_NHW is None


def test_rows_choose_and_order(predictor):
    prepared = np.stack([film(S, S, seed=i) for i in range(5)])
    every, some = predictor.predict_arrays(prepared), predictor.predict_arrays(prepared, [3, 0], batch_size=1)
    np.testing.assert_allclose(some.fusion_NK, every.fusion_NK[[3, 0]], atol=1e-5)
    assert len(predictor.predict_arrays(prepared, [])) == 0
    assert predictor.predict_arrays(prepared, []).fusion_NK.shape == (0, 15)


def test_fallback_is_the_whole_view():
    network = model(attention=config.Attention(min_side=VIEW + 1))
    answer = Predictor(network, device="cpu")(film(160, 80))
    assert answer.fallback
    assert answer.box == answer.window == (8.0, 16.0, 72.0, 144.0)


def test_unreadable_films_are_failures_in_their_place(predictor, tmp_path):
    films = [film(), b"<html>", tmp_path / "missing.png", film(seed=1), np.full((4, 4), -1.0)]
    answers = list(predictor.stream(films, batch_size=2))
    kinds = [type(answer) for answer in answers]
    assert kinds == [Prediction, Failure, Failure, Prediction, Failure]
    assert answers[2] == Failure(str(tmp_path / "missing.png"), "no such file")
    assert answers[1].name == "bytes"
    assert list(predictor.stream([b"", b"x"])) == [
        Failure("bytes", "not a PNG, JPEG, WebP or DICOM file: the file is empty"),
        Failure("bytes", "not a PNG, JPEG, WebP or DICOM file: it looks like text"),
    ]
    with pytest.raises(RadiographError, match=rf"{tmp_path}/missing.png: no such file"):
        predictor(tmp_path / "missing.png")


def test_tensors_and_images_are_films_as_arrays_are(predictor):
    pixels = film(120, 90)
    tensor = torch.from_numpy(pixels)
    for given in (tensor, tensor[None], tensor[..., None], tensor[None].expand(3, -1, -1), Image.fromarray(pixels)):
        same(predictor(given), predictor(pixels), atol=0)
    as_floats = predictor(tensor / 255)
    np.testing.assert_allclose(as_floats.fusion_K, predictor(pixels).fusion_K, atol=1e-5)


def test_one_path_is_what_it_leads_to_and_one_film_is_one(predictor, tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(png(film(seed=n)))
    expected = [str(tmp_path / f"{n}.png") for n in range(3)]
    for given in (tmp_path, str(tmp_path), f"{tmp_path}/*.png"):
        assert [answer.name for answer in predictor.stream(given)] == expected
    assert [answer.name for answer in predictor.stream(expected[1])] == expected[1:2]
    for given in (film(), torch.from_numpy(film()), (tmp_path / "0.png").read_bytes(), from_array(film())):
        (answer,) = predictor.stream(given)
        same(answer, predictor(film()))
    assert len(list(predictor.stream(np.stack([film(), film()])))) == 2
    with pytest.raises(ValueError, match=r"no such file or folder: nowhere; expected films, folders"):
        list(predictor.stream("nowhere"))


def test_a_predictor_says_itself_on_one_line(predictor):
    assert repr(predictor) == "Predictor(test_resnet, cpu, fp32, 15 labels, films resized to 80 px, uncalibrated)"


def test_what_is_no_film_at_all_is_a_mistake_of_the_caller(predictor):
    with pytest.raises(
        TypeError, match=r"a film is a path, bytes, pixels \(a numpy array, .*\) or a Radiograph, not int"
    ):
        predictor(7)
    with pytest.raises(TypeError, match="not NoneType"):
        list(predictor.stream([None]))
    assert not agcxr_threads()


def agcxr_threads():
    """But the one that watches all decoding processes, as long as this process lives."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("agcxr") and name != "agcxr-deadlines"]


def test_stream_reads_only_a_few_batches_ahead_and_stops_when_closed(predictor):
    taken = 0

    def endless():
        nonlocal taken
        for seed in count():
            taken += 1
            yield film(seed=seed)

    stream = predictor.stream(endless(), batch_size=2, workers=2)
    for answered in range(1, 30):
        next(stream)
        assert taken <= answered + 10
    assert agcxr_threads()
    stream.close()
    assert not agcxr_threads()


def test_an_error_of_the_source_reaches_the_caller(predictor):
    def broken():
        yield film()
        raise RuntimeError("disk gone")

    with pytest.raises(RuntimeError, match="disk gone"):
        list(predictor.stream(broken()))
    assert not agcxr_threads()


def test_nothing_in_nothing_out(predictor):
    assert list(predictor.stream([])) == []


def test_threads_share_a_predictor(predictor):
    films = [film(seed=i) for i in range(4)]
    expected = [predictor(pixels) for pixels in films]
    answers = {}
    threads = [threading.Thread(target=lambda i=i: answers.update({i: predictor(films[i])})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        same(answers[i], expected[i])


def test_kept_film_is_bounded_and_keeps_its_aspect(predictor):
    assert predictor(film(200, 100), keep_film=50).film_HW.shape == (50, 25)
    assert predictor(film(200, 100), keep_film=0).film_HW is None
    assert next(predictor.stream([film()])).film_HW is None


def test_sixteen_bits_and_colour(predictor):
    pixels = film(100, 100)
    wide = predictor(from_array(pixels.astype(np.uint16) * 257))
    np.testing.assert_allclose(wide.fusion_K, predictor(pixels).fusion_K, atol=1e-2)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("RGBA").save(buffer, "PNG")
    colour = predictor(buffer.getvalue())
    np.testing.assert_array_equal(colour.fusion_K, predictor(pixels).fusion_K)
    assert colour.notes


def test_bfloat16_stays_near():
    exact, near = Predictor(model(), device="cpu"), Predictor(model(), device="cpu", precision="bf16")
    np.testing.assert_allclose(near(film()).global_K, exact(film()).global_K, atol=0.03)


def test_wrong_arguments_are_explained(predictor):
    with pytest.raises(ValueError, match="precision is 'fp16'; expected 'fp32' or 'bf16'"):
        Predictor(model(), precision="fp16")
    with pytest.raises(ValueError, match=r"films are uint8 \(1, 32, 32\); this model expects uint8 \(N, 80, 80\)"):
        predictor.predict_arrays(np.zeros((1, 32, 32), np.uint8))
    with pytest.raises(ValueError, match="films are float32"):
        predictor.predict_arrays(np.zeros((1, S, S), np.float32))
    with pytest.raises(ValueError, match="batch_size is 0; expected at least 1"):
        next(predictor.stream([film()], batch_size=0))


def test_model_is_not_left_in_training_mode():
    network = model().train()
    Predictor(network, device="cpu")
    assert not network.training


def test_checkpoint_brings_its_preprocessing_and_calibration(tmp_path):
    network = model()
    curve = Curve(kind="platt", slope=0.5, intercept=-1.0)
    finding = FindingCalibration(curve=curve, prevalence=0.1, positives=10, films=100)
    calibration = Calibration(method="platt", log_loss={}, findings={"Mass": finding})
    card = network.new_card(prepared_size=2 * S, calibration=calibration)
    network.save_pretrained(tmp_path / "model", card=card)
    loaded = Predictor.from_pretrained(tmp_path, device="cpu")
    assert loaded.prepared_size == 2 * S
    answer, plain = loaded(film()), Predictor(model(), device="cpu", prepared_size=2 * S)(film())
    same(answer, plain)
    assert plain.calibrated_K is None
    logit = np.log(answer.probability("Mass") / (1 - answer.probability("Mass")))
    expected = answer.fusion_K.copy()
    expected[LABELS.index("Mass")] = 1 / (1 + np.exp(1 - 0.5 * logit))
    np.testing.assert_allclose(answer.calibrated_K, expected, atol=1e-6)
    assert loaded.predict_arrays(np.zeros((2, 2 * S, 2 * S), np.uint8), batch_size=1).calibrated_NK.shape == (2, 15)


def test_another_resize_rule_is_refused(tmp_path):
    network = model()
    card = network.new_card()
    rule = card.preprocessing.model_copy(update={"resize_rule": "nearest"})
    network.save_pretrained(tmp_path, card=card.model_copy(update={"preprocessing": rule}))
    with pytest.raises(ValueError, match=r"films resized by the rule 'nearest', and this version of agcxr resizes by"):
        Predictor.from_pretrained(tmp_path)


def test_a_run_that_is_not_finished_is_explained(tmp_path):
    (tmp_path / "config.yaml").write_text("backbone: resnet50")
    with pytest.raises(ValueError, match="without a finished model"):
        Predictor.from_pretrained(tmp_path)
