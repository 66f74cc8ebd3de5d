"""The phantom: right signs in the right places, the NIH's files, and the same bytes from the same seed."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from agcxr.data import phantom
from agcxr.data.anatomy import Thorax
from agcxr.data.canvas import Canvas, ellipse, spline
from agcxr.data.phantom import Phantom, draw_patient, film, plan_films, write_phantom
from agcxr.labels import FINDINGS, canonical

SIZE = 192


def make(*findings: str, seed: int = 0, size: int = SIZE, difficulty: float = 0.5) -> Phantom:
    return film(np.random.default_rng(seed), findings, size=size, difficulty=difficulty)


def width_height_cm(made: Phantom, box: tuple[float, float, float, float]) -> tuple[float, float]:
    return (box[2] - box[0]) * made.field_cm, (box[3] - box[1]) * made.field_cm


# Canvas


def test_canvas_puts_a_square_where_it_says() -> None:
    canvas = Canvas(100, field_cm=10.0, centre_cm=(1.0, 0.0))
    mask = canvas.fill(np.array([(1.0, -1.0), (3.0, -1.0), (3.0, 2.0), (1.0, 2.0)]))
    x0, y0, x1, y1 = canvas.bounds(mask > 127) or (0, 0, 0, 0)
    # x: 1 cm is the middle of the film, 3 cm lies 2 of 10 cm to its right. Edges within a pixel.
    np.testing.assert_allclose((x0, y0, x1, y1), (0.5, 0.4, 0.7, 0.7), atol=0.0101)
    assert canvas.bounds(np.zeros((4, 4), bool)) is None


def test_canvas_grid_and_points_agree_when_the_patient_is_tilted() -> None:
    canvas = Canvas(64, field_cm=32.0, centre_cm=(0.7, -1.2), tilt=0.3)
    x_HW, y_HW = canvas.grid
    points = np.stack([x_HW[10, 20], y_HW[10, 20]]).astype(float)
    np.testing.assert_allclose(canvas.to_px(points), (20.5, 10.5), atol=1e-4)


@pytest.mark.parametrize("size", [128, 512])
def test_soften_keeps_the_amount_at_every_width(size: int) -> None:
    canvas = Canvas(size, field_cm=32.0)
    disk = canvas.fill(ellipse((0.0, 0.0), (4.0, 4.0)))
    for sigma in (0.0, 0.2, 3.0):
        assert canvas.soften(disk, sigma).sum() == pytest.approx(disk.sum() / 255, rel=0.02)


def test_spline_goes_through_its_points() -> None:
    points = [(0.0, 0.0), (1.0, 2.0), (3.0, 1.0)]
    curve = spline(points, 4)
    assert len(curve) == 9
    np.testing.assert_allclose(curve[[0, 4, 8]], points)


def test_heart_is_as_wide_as_its_ratio_says() -> None:
    for ratio in (0.4, 0.5, 0.66):
        outline = Thorax(half_width=13.0, heart_ratio=ratio, turn=0.4).heart()
        assert np.ptp(outline[:, 0]) == pytest.approx(26.0 * ratio)


# Films


def test_a_film_is_gray_and_looks_exposed() -> None:
    made = make(size=256)
    assert made.pixels_HW.shape == (256, 256)
    assert made.pixels_HW.dtype == np.uint8
    assert made.findings == ()
    assert made.boxes == ()
    assert np.percentile(made.pixels_HW, 1) < 70 < 150 < np.percentile(made.pixels_HW, 90)


@pytest.mark.parametrize("finding", FINDINGS)
def test_every_finding_changes_the_film_where_its_box_is(finding: str) -> None:
    normal, ill = make(seed=3), make(finding, seed=3)
    assert {lesion.finding for lesion in ill.lesions} == {finding}
    difference = np.abs(ill.pixels_HW.astype(int) - normal.pixels_HW)
    for lesion in ill.lesions:
        x0, y0, x1, y1 = (edge * SIZE for edge in lesion.box)
        assert 0 <= x0 < x1 <= SIZE
        assert 0 <= y0 < y1 <= SIZE
        inside = difference[int(y0) : int(y1), int(x0) : int(x1)]
        assert inside.mean() > 1.5
        assert lesion.diameter_cm > 0.5


@pytest.mark.parametrize("seed", range(6))
def test_sizes_are_those_of_real_lesions(seed: int) -> None:
    nodule, mass = make("Nodule", seed=seed), make("Mass", seed=seed)
    for lesion in nodule.lesions:
        assert 1 <= lesion.diameter_cm <= 3
        assert 0.7 < max(width_height_cm(nodule, lesion.box)) < 3.6
    (lesion,) = mass.lesions
    assert lesion.diameter_cm > 3
    assert max(width_height_cm(mass, lesion.box)) > 2.7
    (heart,) = make("Cardiomegaly", seed=seed).lesions
    assert heart.diameter_cm > 10


def test_a_nodule_is_brighter_than_what_is_around_it() -> None:
    for seed in range(6):
        normal, ill = make(seed=seed, size=256), make("Nodule", seed=seed, size=256)
        for lesion in ill.lesions:
            x0, y0, x1, y1 = (round(edge * 256) for edge in lesion.box)
            rows = slice((2 * y0 + y1) // 3, (y0 + 2 * y1) // 3 + 1)
            columns = slice((2 * x0 + x1) // 3, (x0 + 2 * x1) // 3 + 1)
            core = rows, columns
            assert ill.pixels_HW[core].mean() - normal.pixels_HW[core].mean() > 8


def test_signs_lie_where_they_belong() -> None:
    for seed in range(5):
        for lesion in make("Pneumothorax", seed=seed).lesions:
            assert lesion.box[1] < 0.35  # air rises to the apex
        for lesion in make("Effusion", seed=seed).lesions:
            assert lesion.box[3] > 0.65  # fluid sinks into the angle
        (hernia,) = make("Hernia", seed=seed).lesions
        assert 0.3 < (hernia.box[0] + hernia.box[2]) / 2 < 0.75
        assert hernia.box[1] > 0.45
        assert len(make("Edema", seed=seed).lesions) == 2


def test_findings_come_in_label_order_and_combine() -> None:
    made = make("Effusion", "Cardiomegaly", "Edema", "No Finding")
    assert made.findings == ("Cardiomegaly", "Effusion", "Edema")
    assert {lesion.finding for lesion in made.lesions} == set(made.findings)
    assert {lesion.finding for lesion in make(*FINDINGS, seed=1).lesions} == set(FINDINGS)


def test_same_generator_same_film_and_every_size_the_same_anatomy() -> None:
    small, again, large = make(*FINDINGS[4:6]), make(*FINDINGS[4:6]), make(*FINDINGS[4:6], size=384)
    np.testing.assert_array_equal(small.pixels_HW, again.pixels_HW)
    assert not np.array_equal(small.pixels_HW, make(*FINDINGS[4:6], seed=1).pixels_HW)
    np.testing.assert_allclose([x.box for x in small.lesions], [x.box for x in large.lesions], atol=1.5 / SIZE)
    reduced = cv2.resize(large.pixels_HW, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - small.pixels_HW).mean() < 6


def test_lesions_of_a_patient_keep_their_place() -> None:
    patient = draw_patient(np.random.default_rng(7))
    films = [film(np.random.default_rng(seed), ["Mass"], size=SIZE, patient=patient) for seed in range(4)]
    centres = np.array([[(m.lesions[0].box[0] + m.lesions[0].box[2]) / 2, m.lesions[0].box[1]] for m in films])
    assert np.ptp(centres, axis=0).max() < 0.2
    assert len({m.pixels_HW.tobytes() for m in films}) == 4


def test_difficulty_makes_signs_fainter() -> None:
    def seen(difficulty: float) -> float:
        change = make("Mass", seed=2, difficulty=difficulty).pixels_HW.astype(int) - make(seed=2).pixels_HW
        return float(np.abs(change).mean())

    assert seen(0.0) > seen(0.5) > seen(1.0) > 0


def test_bad_arguments_are_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown finding 'Flu'; expected any of Atelectasis"):
        film(rng, ["Flu"])
    with pytest.raises(ValueError, match="size 20 is too small to show a chest; expected at least 64"):
        film(rng, [], size=20)
    with pytest.raises(ValueError, match="difficulty 3 is outside 0"):
        film(rng, [], difficulty=3)
    with pytest.raises(ValueError, match="n = 0 films were asked for"):
        plan_films(0)
    with pytest.raises(ValueError, match="prevalence of Mass is 1.5; expected a share"):
        plan_films(3, prevalence={"Mass": 1.5})
    with pytest.raises(ValueError, match="prevalence of an unknown finding 'Flu'"):
        plan_films(3, prevalence={"Flu": 0.1})


# Collections


def test_plan_keeps_prevalences_company_and_persistence() -> None:
    orders = plan_films(12_000, seed=1)
    share = {name: np.mean([name in order.findings for order in orders]) for name in FINDINGS}
    for name, expected in phantom.PREVALENCE.items():
        assert share[name] == pytest.approx(expected, abs=0.02)
    assert 0.54 < np.mean([bool(order.findings) for order in orders]) < 0.66
    both = np.mean([{"Cardiomegaly", "Edema"} <= set(order.findings) for order in orders])
    assert both > 3 * share["Cardiomegaly"] * share["Edema"]
    pairs = [(a, b) for a, b in pairwise(orders) if a.number == b.number]
    kept = sum(len(set(a.findings) & set(b.findings)) for a, b in pairs) / sum(len(a.findings) for a, _ in pairs)
    assert 0.7 < kept < 0.95
    assert all(a.patient.seed == b.patient.seed and b.follow_up == a.follow_up + 1 for a, b in pairs)


def test_prevalence_can_be_set() -> None:
    assert not any(order.findings for order in plan_films(200, prevalence=0.0))
    only = plan_films(2000, prevalence={**dict.fromkeys(FINDINGS, 0.0), "Hernia": 0.5})
    assert {name for order in only for name in order.findings} == {"Hernia"}
    assert np.mean([bool(order.findings) for order in only]) == pytest.approx(0.5, abs=0.06)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("phantom"), 40, seed=5, size=96, workers=1, progress=False)


def test_collection_is_laid_out_as_the_nih_does(collection: Path) -> None:
    entry = (collection / "Data_Entry_2017_v2020.csv").read_text()
    header, *lines = entry.splitlines()
    assert header == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    assert len(lines) == 40
    assert entry.endswith("\n")
    names = [line.split(",")[0] for line in lines]
    assert names[0] == "00000001_000.png"
    assert sorted(path.name for path in (collection / "images").iterdir()) == sorted(names)
    for line in lines:
        cells = line.split(",")
        assert len(cells) == 11
        assert cells[5] in ("M", "F")
        assert cells[6] in ("PA", "AP")
        labels = cells[1].split("|")
        assert labels == ["No Finding"] or labels == sorted(set(labels) & set(FINDINGS))
        assert 300 < float(cells[9]) * 96 < 400  # the film's side in millimetres
    image = cv2.imread(str(collection / "images" / names[0]), cv2.IMREAD_UNCHANGED)
    assert image is not None
    assert image.shape == (96, 96)
    assert image.dtype == np.uint8


def test_lists_share_no_patient(collection: Path) -> None:
    train, test = ((collection / name).read_text() for name in ("train_val_list.txt", "test_list.txt"))
    assert not train.endswith("\n")
    assert not test.endswith("\n")
    inside, outside = train.split("\n"), test.split("\n")
    assert len(inside) + len(outside) == 40
    assert 8 <= len(outside) <= 15
    assert not {name[:8] for name in inside} & {name[:8] for name in outside}


def test_boxes_cover_every_label_and_no_other(collection: Path) -> None:
    header, *lines = (collection / "BBox_List_2017.csv").read_text().splitlines()
    assert header == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    boxed: dict[str, set[str]] = {}
    for line in lines:
        name, label, *xywh = line.split(",")
        assert label != "Infiltration"
        x, y, w, h = map(float, xywh)
        assert x >= 0
        assert y >= 0
        assert w > 0
        assert h > 0
        assert x + w <= 1024.001
        assert y + h <= 1024.001
        boxed.setdefault(name, set()).add(canonical(label) or "")
    entry = (collection / "Data_Entry_2017_v2020.csv").read_text().splitlines()[1:]
    labelled = {c[0]: set(c[1].split("|")) for c in (line.split(",") for line in entry) if c[1] != "No Finding"}
    assert boxed == labelled
    with open(collection / "lesions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(lines)
    assert list(rows[0]) == ["image", "finding", "x", "y", "w", "h", "diameter_cm"]


def test_number_of_workers_changes_nothing(collection: Path, tmp_path: Path) -> None:
    parallel = write_phantom(tmp_path / "two", 40, seed=5, size=96, workers=2, progress=False)
    files = sorted(path.relative_to(collection) for path in collection.rglob("*") if path.is_file())
    assert len(files) == 45
    for path in files:
        assert (collection / path).read_bytes() == (parallel / path).read_bytes(), path


def test_a_longer_collection_begins_with_the_shorter_one(collection: Path, tmp_path: Path) -> None:
    short = write_phantom(tmp_path / "short", 3, seed=5, size=96, workers=1, progress=False)
    for path in (short / "images").iterdir():
        assert path.read_bytes() == (collection / "images" / path.name).read_bytes()


def test_an_interrupted_call_leaves_no_folder_that_looks_finished(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("agcxr.data.phantom._write_tables", stop)
        with pytest.raises(KeyboardInterrupt):
            write_phantom(tmp_path / "made", 4, seed=6, size=96, workers=1, progress=False)
    assert not (tmp_path / "made").exists()
    made = write_phantom(tmp_path / "made", 3, seed=5, size=96, workers=1, progress=False)
    assert not (tmp_path / "made.partial").exists()
    assert len(list((made / "images").iterdir())) == 3
    for path in (made / "images").iterdir():
        assert path.read_bytes() == (collection / "images" / path.name).read_bytes()


def test_writing_refuses_a_full_folder_and_odd_shares(collection: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="holds films already; give another folder or remove it"):
        write_phantom(collection, 2, size=96, progress=False)
    with pytest.raises(ValueError, match="test_share 1.2 is not a share"):
        write_phantom(tmp_path / "x", 2, test_share=1.2, progress=False)
    assert not (tmp_path / "x").exists()
