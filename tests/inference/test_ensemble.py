"""Several looks as one engine: of one it is that one; views are where they should be; averages are averages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agcxr.calibration import Calibration
from agcxr.cli import main
from agcxr.inference.ensemble import Average, Ensemble, average_file, lines_of, seen, weights_digest
from agcxr.inference.load import load_engine
from agcxr.labels import LABELS
from agcxr.training.seeds import Seeds, write_seeds
from inference.exported import S, calibration, network, phantoms, predictor

WINDOW = (0.1, 0.1, 0.9, 0.9)  # 64 of 80
FIELDS = ("global_NK", "local_NK", "fusion_NK", "calibrated_NK", "box_N4", "fallback_N", "distance_N", "feature_ND")


def other(folder, *, seed=1, labels=LABELS, calibrated=True, **changes):
    """A model folder of other weights than the session's, and one that knows `labels`."""
    model = network(labels=labels, **changes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
    kept = {name: one for name, one in calibration().findings.items() if name in labels}
    found = Calibration(method="platt", log_loss={}, findings=kept) if calibrated else None
    model.save_pretrained(folder, model.new_card(prepared_size=S, calibration=found))
    return folder


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return other(tmp_path_factory.mktemp("second") / "model")


@pytest.fixture
def runs(tmp_path, model_folder, second):
    """A folder of two seeds, as `train_seeds` leaves it."""
    for seed, source in enumerate((second, model_folder)):
        (tmp_path / "runs").mkdir(exist_ok=True)
        (tmp_path / "runs" / f"seed{seed}").symlink_to(source)
    write_seeds(tmp_path / "runs" / "seeds.json", Seeds(measure="m", seeds=(0, 1), runs=("seed0", "seed1"), spreads=()))
    return tmp_path / "runs"


# --- views ------------------------------------------------------------------------------------------------------------


def test_a_view_moves_its_part_of_the_film_to_where_the_model_looks():
    image = np.arange(100, dtype=np.uint8).reshape(1, 10, 10)
    centre = slice(2, 8)
    window = (0.2, 0.2, 0.8, 0.8)
    plain, flip = lines_of("flip", 10, window)
    np.testing.assert_array_equal(seen(image, plain), image)
    np.testing.assert_array_equal(seen(image, flip), image[:, :, ::-1])
    corners = [seen(image, one)[0, centre, centre] for one in lines_of("five", 10, window)]
    expected = [image[0, centre, centre]]
    expected += [image[0, y : y + 6, x : x + 6] for y in (0, 4) for x in (0, 4)]
    for found, wanted in zip(corners, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_mirror_is_about_the_middle_of_what_the_model_sees_and_undoes_itself():
    image = np.arange(100, dtype=np.uint8).reshape(1, 10, 10)
    _, flip = lines_of("flip", 10, (0.1, 0.1, 0.8, 0.8))  # 7 of 10 pixels, one to the left and two to the right
    once = seen(image, flip)
    np.testing.assert_array_equal(once[:, :, 1:8], image[:, :, 1:8][:, :, ::-1])
    np.testing.assert_array_equal(seen(once, flip)[:, :, 1:8], image[:, :, 1:8])


def test_views_are_those_that_the_renderer_would_draw(eager):
    """A corner of the moved film is the window of that corner, and the flip the flipped window."""
    from agcxr.data.augment import Views, centre_views, render

    image = torch.from_numpy(phantoms(1))[:, None]
    centre = centre_views(1, S, image_size=64, resize=80)
    starts = [(16.0, 16.0), (0.0, 0.0), (32.0, 0.0), (0.0, 32.0), (32.0, 32.0)]
    for lines, (x, y) in zip(lines_of("five", S, eager.window), starts, strict=True):
        window = torch.tensor([[x, y, x + 128, y + 128]])
        direct = render(image, Views(window, centre.flip_B, 64, centre.side, True))
        moved = render(torch.from_numpy(seen(image[:, 0].numpy(), lines))[:, None], centre)
        torch.testing.assert_close(moved, direct, rtol=0, atol=0)
    flipped = Views(centre.window_B4, ~centre.flip_B, 64, centre.side, True)
    lines = lines_of("flip", S, eager.window)[1]
    moved = render(torch.from_numpy(seen(image[:, 0].numpy(), lines))[:, None], centre)
    torch.testing.assert_close(moved, render(image, flipped), rtol=0, atol=0)


def test_a_model_that_sees_the_whole_film_has_no_corners(tmp_path):
    with pytest.raises(ValueError, match="five views need a model that sees a part of the film.*leave --views out"):
        lines_of("five", 64, (0.0, 0.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="views are 'ten'; expected plain, flip or five"):
        lines_of("ten", 64, WINDOW)  # type: ignore[arg-type]


# --- averages ---------------------------------------------------------------------------------------------------------


def test_an_ensemble_of_one_is_that_one_to_the_last_digit(eager):
    films = phantoms()
    alone, one = (engine.predict_arrays(films, details=True) for engine in (eager, Ensemble([eager])))
    for name in (*FIELDS, "heat_NHW", "crop_NHW"):
        np.testing.assert_array_equal(getattr(one, name), getattr(alone, name), err_msg=name)
    a, b = eager(films[0]), Ensemble([eager])(films[0])
    assert (a.calls(), a.labels, a.box) == (b.calls(), b.labels, b.box)
    assert Ensemble([eager]).words == ""


def test_probabilities_are_the_mean_and_the_rest_is_the_first(eager, second):
    films, another = phantoms(), predictor(second)
    both = Ensemble([eager, another]).predict_arrays(films, details=True)
    each = [engine.predict_arrays(films, details=True) for engine in (eager, another)]
    assert np.abs(each[0].fusion_NK - each[1].fusion_NK).max() > 1e-3  # or the mean says nothing
    for name in ("global_NK", "local_NK", "fusion_NK", "calibrated_NK"):
        np.testing.assert_allclose(
            getattr(both, name), (getattr(each[0], name) + getattr(each[1], name)) / 2, atol=1e-7
        )
    for name in ("box_N4", "fallback_N", "distance_N", "feature_ND", "plateau_N", "heat_NHW", "crop_NHW"):
        np.testing.assert_array_equal(getattr(both, name), getattr(each[0], name), err_msg=name)


def test_the_order_of_models_moves_no_probability(eager, second):
    films, another = phantoms(), predictor(second)
    a, b = (Ensemble(each, views="five").predict_arrays(films) for each in ([eager, another], [another, eager]))
    for name in ("global_NK", "local_NK", "fusion_NK", "calibrated_NK"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-7)


def test_a_mirrored_film_gets_the_same_average(eager):
    """The plain view of one is the mirrored view of the other, whatever the network."""
    films, ensemble = phantoms(), Ensemble([eager], views="flip")
    there, back = (ensemble.predict_arrays(some) for some in (films, films[:, :, ::-1]))
    np.testing.assert_allclose(there.fusion_NK, back.fusion_NK, atol=1e-6)
    assert np.abs(eager.predict_arrays(films).fusion_NK - there.fusion_NK).max() > 1e-6  # the network has sides


def test_a_symmetric_film_looks_the_same_flipped(eager):
    film = phantoms()
    film = np.concatenate([film[:, :, : S // 2], film[:, :, : S // 2][:, :, ::-1]], axis=2)
    plain, flip = (engine.predict_arrays(film) for engine in (eager, Ensemble([eager], views="flip")))
    np.testing.assert_allclose(flip.calibrated_NK, plain.calibrated_NK, atol=1e-6)


def test_a_batch_answers_as_its_films_alone(eager, second):
    films, ensemble = phantoms(), Ensemble([eager, predictor(second)], views="flip")
    together = ensemble.predict_arrays(films, batch_size=5)
    alone = ensemble.predict_arrays(films, batch_size=1)
    for name in ("fusion_NK", "calibrated_NK"):
        np.testing.assert_allclose(getattr(together, name), getattr(alone, name), atol=1e-6)
    assert len(ensemble.predict_arrays(films, [])) == 0


def test_labels_are_those_that_every_model_answers_for(eager, tmp_path):
    some = ("Mass", "Effusion", "Own label")
    ensemble = Ensemble([eager, predictor(other(tmp_path / "m", labels=some))])
    assert ensemble.labels == ("Effusion", "Mass")
    answers = ensemble.predict_arrays(phantoms())
    each = [member.predict_arrays(phantoms()) for member in ensemble.members]
    columns = [[member.labels.index(name) for name in ensemble.labels] for member in ensemble.members]
    mean = sum(one.calibrated_NK[:, rows] for one, rows in zip(each, columns, strict=True)) / 2
    np.testing.assert_allclose(answers.calibrated_NK, mean, atol=1e-7)
    with pytest.raises(ValueError, match="no label in common: Atelectasis, .* against Own label"):
        Ensemble([eager, predictor(other(tmp_path / "n", labels=("Own label",)))])


def test_models_of_other_films_are_refused(eager, tmp_path):
    model = network(resize=96)
    model.save_pretrained(tmp_path, model.new_card(prepared_size=96))
    with pytest.raises(ValueError, match="prepared at 96 and 160, so they cannot look at the same prepared film"):
        Ensemble([eager, predictor(tmp_path)])


# --- what a score means -----------------------------------------------------------------------------------------------


def test_without_a_calibration_of_its_own_there_are_no_calls(eager, second):
    ensemble = Ensemble([eager, predictor(second)])
    film = ensemble(phantoms()[0])
    assert film.calls() == (None,) * len(LABELS)
    assert film.cut.fitted_K.tolist() == [True] * (len(LABELS) - 1) + [False]  # the last label has no calibration
    assert ensemble.own is None
    assert ensemble.words == (
        "average over 2 models, calibrated one by one, so there are no thresholds for the average, and no calls"
    )


def test_where_one_model_is_not_calibrated_only_scores_are_averaged(eager, tmp_path):
    ensemble = Ensemble([eager, predictor(other(tmp_path / "m", calibrated=False))], views="flip")
    film = ensemble(phantoms()[0])
    assert (film.calibrated_K, film.cut, ensemble.calibrated) == (None, None, False)
    assert ensemble.words == (
        "average over 2 models and 2 views of each film (flip), of raw scores, as not all of them are calibrated"
    )


def test_a_calibration_of_the_average_makes_probabilities_and_calls(eager, second):
    own = calibration()
    ensemble = Ensemble([eager, predictor(second)], own=own, point="youden")
    answers = ensemble.predict_arrays(phantoms())
    expected = own.probabilities(answers.fusion_NK, LABELS)
    np.testing.assert_allclose(answers.calibrated_NK, expected, atol=1e-6)
    film = ensemble(phantoms()[0])
    assert film.calls()[1] == bool(film.fusion_K[1] >= 0.5)
    assert film.calls()[0] is None


def test_a_prevalence_corrects_every_model(eager, model_folder, second):
    there = [predictor(folder, prevalence={"Mass": 0.3}) for folder in (model_folder, second)]
    k = LABELS.index("Mass")
    mean = sum(one.predict_arrays(phantoms()).calibrated_NK[:, k] for one in there) / 2
    engine = load_engine(model_folder, "cpu", prevalence={"Mass": 0.3}, others=[str(second)])
    np.testing.assert_allclose(engine.predict_arrays(phantoms()).calibrated_NK[:, k], mean, atol=1e-7)
    assert engine.scale.prevalence_K[k] == 0.3


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_folder_of_seeds_is_the_average_of_its_runs(runs, model_folder, second):
    a, b = load_engine(runs, "cpu"), load_engine(model_folder, "cpu", others=[str(second)])
    np.testing.assert_array_equal(*(one.predict_arrays(phantoms()).calibrated_NK for one in (a, b)))
    with pytest.raises(ValueError, match="seed0 is given twice; an average counts every model once"):
        load_engine(runs, "cpu", others=[str(runs / "seed0")])


def test_the_calibration_of_an_average_is_used_for_its_runs_only(runs, model_folder, second, tmp_path):
    found = calibration()
    made = Average(views="flip", digest=weights_digest([str(second), str(model_folder)]), calibration=found)
    average_file(runs, "flip").write_text(made.model_dump_json())
    assert load_engine(runs, "cpu").own is None
    assert load_engine(runs, "cpu", views="flip").own == found
    assert (
        load_engine(runs, "cpu", views="flip", prevalence={"Mass": 0.3}).scale.prevalence_K[LABELS.index("Mass")] == 0.3
    )
    (runs / "seed1").unlink()
    (runs / "seed1").symlink_to(other(tmp_path / "third", seed=5))
    with pytest.warns(UserWarning, match="average-flip.json was fitted for other runs and is left out"):
        assert load_engine(runs, "cpu", views="flip").own is None
    average_file(runs, "flip").write_text("{}")
    with pytest.raises(ValueError, match="is not the calibration of an average of this version"):
        load_engine(runs, "cpu", views="flip")


def test_the_command_says_what_it_averaged(runs, tmp_path, capsys):
    import cv2

    cv2.imwrite(str(tmp_path / "film.png"), phantoms(1)[0])
    out = tmp_path / "p.csv"
    assert main(["predict", str(runs), str(tmp_path / "film.png"), "--views", "flip", "--out", str(out)]) == 0
    assert "; average over 2 models and 2 views of each film (flip), calibrated one by one" in capsys.readouterr().err
    header, row = (line.split(",") for line in out.read_text().splitlines())
    cells = dict(zip(header, row, strict=True))
    assert cells["calibrated_Mass"]
    assert not cells["call_Mass"]
    first, *rest = (str(runs / f"seed{seed}") for seed in (0, 1))
    also = [word for run in rest for word in ("--also", run)]
    assert (
        main(["predict", first, str(tmp_path / "film.png"), *also, "--views", "flip", "--out", str(tmp_path / "q.csv")])
        == 0
    )
    assert (tmp_path / "q.csv").read_text() == out.read_text()


def test_an_average_is_another_algorithm_in_dicom(eager, second):

    another = predictor(second)
    each = [one.algorithm for one in (eager, Ensemble([eager]), Ensemble([eager], views="flip"))]
    each.append(Ensemble([eager, another]).algorithm)
    assert each[0] == each[1]
    assert len({one.fingerprint for one in each}) == 3
    assert each[3].parameters[-1].startswith("average over 2 models")


def test_the_page_says_what_it_averages(eager, second):
    from agcxr.serve.answers import model_answer
    from agcxr.serve.limits import Limits

    engine = Ensemble([eager, predictor(second)])
    told = model_answer(engine, Limits(), intake=True, dicom=True)
    assert told.average.startswith("average over 2 models")
    assert (told.maps, told.labels[0].calibrated, told.labels[0].operating_points) == (True, True, {})
    assert model_answer(eager, Limits(), intake=True, dicom=True).average is None


# --- exported ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(eager, second, tmp_path_factory):
    """Two models in two views, one of which has its labels in another order."""
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    from agcxr.inference.export import write

    turned = predictor(other(tmp_path_factory.mktemp("turned") / "model", labels=(*LABELS[:-1][::-1], "Own label")))
    ensemble = Ensemble([eager, turned], views="flip")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        path = tmp_path_factory.mktemp("file") / "model.onnx"
        write(ensemble, path)
        return ensemble, path
    finally:
        torch.set_num_threads(before)


def test_an_exported_average_answers_as_the_eager_one(exported):
    from agcxr.inference.parity import compare, made_films

    ensemble, path = exported
    parity = compare(path, ensemble, made_films(S))
    assert parity.good, parity
    file = load_engine(path)
    assert (file.labels, file.words, file.own) == (ensemble.labels, ensemble.words, None)
    assert file.run(phantoms())["looks"].shape == (5, 4, len(LABELS) - 1)
    a, b = (engine.predict_arrays(phantoms()) for engine in (ensemble, file))
    for name in ("global_NK", "local_NK", "fusion_NK", "calibrated_NK", "distance_N"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-4, err_msg=name)
    assert file(phantoms()[0]).calls() == ensemble(phantoms()[0]).calls() == (None,) * (len(LABELS) - 1)


def test_an_exported_average_is_corrected_for_a_prevalence_model_by_model(exported):
    ensemble, path = exported
    wanted = {"Mass": 0.4}
    first, turned = ensemble.members
    scales = [type(one)(one.model, device="cpu", prepared_size=S, prevalence=wanted) for one in (first, turned)]
    a = Ensemble(scales, views="flip", prevalence=wanted).predict_arrays(phantoms())
    b = load_engine(path, prevalence=wanted).predict_arrays(phantoms())
    np.testing.assert_allclose(a.calibrated_NK, b.calibrated_NK, atol=1e-4)


def test_models_that_are_too_large_together_are_refused(model_folder, second, tmp_path, monkeypatch):
    from agcxr.inference import export

    monkeypatch.setattr(export, "LARGEST", 2_000)
    with pytest.raises(ValueError, match="the weights of the 2 models have .* GB; one ONNX file holds at most"):
        export.export(model_folder, tmp_path / "m.onnx", others=[str(second)])
