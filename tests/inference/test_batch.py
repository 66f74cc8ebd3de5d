import csv
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from agcxr.calibration import OperatingPoints
from agcxr.inference.batch import Summary, predict_files, write_predictions
from agcxr.inference.films import FilmFile
from agcxr.inference.prediction import Failure
from agcxr.inference.predictor import Predictor
from agcxr.intake import Intake
from agcxr.labels import LABELS
from agcxr.models.agcnn import AGCNN
from inference.make import chest, film, prediction


class Engine:
    """Answers from the name of the file alone; takes `ahead` films before it answers, as real engines do."""

    labels = LABELS
    calibrated = False
    crops = 1
    words = ""

    def __init__(self, ahead=3):
        self.ahead = ahead
        self.kept = None

    def stream(self, films, *, batch_size=16, workers=None, keep_film=0):
        self.kept = keep_film
        waiting = []
        for path in films:
            waiting.append(path)
            if len(waiting) >= self.ahead:
                yield self.answer(waiting.pop(0))
        yield from map(self.answer, waiting)

    def answer(self, path):
        if "bad" in path.name:
            return Failure(str(path), "it looks like text")
        return prediction(name=str(path), film_HW=film() if self.kept else None)


def files(*names):
    return [FilmFile(Path("in") / name, Path(name)) for name in names]


def counts(tally):
    return tally.rows, tally.failed, tally.refused


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_one_row_a_film_in_order(tmp_path):
    out = tmp_path / "deep" / "predictions.csv"
    assert counts(write_predictions(Engine(), files("a.png", "bad.txt", "sub/c.dcm", "d", "e"), out)) == (5, 1, 0)
    table = rows(out)
    assert [row["image"] for row in table] == ["in/a.png", "in/bad.txt", "in/sub/c.dcm", "in/d", "in/e"]
    assert table[0]["prob_No Finding"] == "1.000000"
    assert table[0]["global_Atelectasis"] == "0.250000"
    assert table[0]["local_Hernia"] == "0.500000"
    assert [table[0][f"box_{edge}"] for edge in ("x0", "y0", "x1", "y1")] == ["10.00", "12.00", "30.00", "40.00"]
    assert (table[0]["width"], table[0]["height"], table[0]["fallback"], table[0]["error"]) == ("50", "60", "0", "")
    # 20 x 28 of the 44 x 52 pixels of the window, and one of the heatmap's 64 is the highest.
    assert (table[0]["view_share"], table[0]["plateau"]) == ("0.244755", "0.015625")
    assert table[1]["error"] == "it looks like text"
    assert {value for key, value in table[1].items() if key not in ("image", "error")} == {""}
    assert "picture" not in table[0]
    assert [path.name for path in out.parent.iterdir()] == ["predictions.csv"]


def test_columns_are_in_label_order(tmp_path):
    write_predictions(Engine(), files("a.png"), tmp_path / "p.csv")
    header = list(rows(tmp_path / "p.csv")[0])
    assert header[:3] == ["image", "prob_Atelectasis", "prob_Cardiomegaly"]
    assert header[1 : 1 + 45] == [f"{branch}_{label}" for branch in ("prob", "global", "local") for label in LABELS]


def test_pictures_keep_the_folders_and_never_overwrite_each_other(tmp_path):
    films = files("a.png", "a.jpg", "sub/a.png", "1.2.840.7", "bad.png")
    tally = write_predictions(Engine(), films, tmp_path / "p.csv", explain_dir=tmp_path / "pictures")
    assert counts(tally) == (5, 1, 0)
    made = [row["picture"] for row in rows(tmp_path / "p.csv")]
    expected = ["a.png", "a-2.png", "sub/a.png", "1.2.840.7.png"]
    assert made == [*(str(tmp_path / "pictures" / name) for name in expected), ""]
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in made[:-1])


def test_an_interruption_leaves_the_finished_rows_under_another_name(tmp_path):
    class Stopped(Engine):
        def answer(self, path):
            if path.name == "c":
                raise KeyboardInterrupt
            return super().answer(path)

    with pytest.raises(KeyboardInterrupt):
        write_predictions(Stopped(), files("a", "b", "c", "d", "e"), tmp_path / "p.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv.partial"]
    assert [row["image"] for row in rows(tmp_path / "p.csv.partial")] == ["in/a", "in/b"]


def test_a_name_that_is_not_utf8_is_written_readably(tmp_path):
    write_predictions(Engine(), files("film\udcff.png"), tmp_path / "p.csv")
    assert rows(tmp_path / "p.csv")[0]["image"] == "in/film\\udcff.png"


def test_memory_holds_only_films_under_way(tmp_path):
    taken = 0

    def many():
        nonlocal taken
        for i in range(2000):
            taken += 1
            yield FilmFile(Path(f"in/{i}"), Path(str(i)))

    class Counting(Engine):
        answered = 0

        def answer(self, path):
            self.answered += 1
            assert taken - self.answered <= 3
            return Failure(str(path), "no")

    assert counts(write_predictions(Counting(), many(), tmp_path / "p.csv")) == (2000, 2000, 0)


def test_no_film_is_an_error_before_anything_is_loaded_or_written(tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "notes.txt").write_text("x")
    out = tmp_path / "p.csv"
    with pytest.raises(ValueError, match=r"no film found in .*films; in folders .*\.dcm, .*1 other files ignored"):
        predict_files("no-such-model", [str(tmp_path / "films")], out)
    with pytest.raises(ValueError, match="no such file or folder: nowhere"):
        predict_files("no-such-model", ["nowhere"], out)
    with pytest.raises(ValueError, match="no films were given; expected files, folders or glob patterns"):
        predict_files("no-such-model", [], out)
    with pytest.raises(ValueError, match=r"films is a folder; expected the name of a CSV file to write, such as .*csv"):
        predict_files("no-such-model", [str(tmp_path / "films" / "notes.txt")], tmp_path / "films")
    with pytest.raises(ValueError, match=r"p.parquet is the name of a Parquet file, which --engine ray writes"):
        predict_files("no-such-model", [str(tmp_path / "films" / "notes.txt")], tmp_path / "p.parquet")
    assert not out.exists()


def test_films_that_the_model_may_not_speak_about_are_counted(tmp_path):
    class Strict(Engine):
        def answer(self, path):
            decision = "refuse" if "hand" in path.name else "warn"
            return prediction(name=str(path), intake=Intake(decision, ("not a chest", "small")))

    tally = write_predictions(Strict(), files("a", "hand", "hand2"), tmp_path / "p.csv")
    assert counts(tally) == (3, 0, 2)
    warned, refused, _ = rows(tmp_path / "p.csv")
    assert warned["prob_No Finding"] == "1.000000"
    assert {name: value for name, value in refused.items() if value} == {
        "image": "in/hand",
        "width": "50",
        "height": "60",
        "intake": "refuse",
        "intake_reason": "not a chest; small",
    }


def test_what_is_written_beside_the_rows_has_columns_and_is_counted(tmp_path):
    class Results:
        columns = ("dicom", "dicom_reason")

        def save(self, film, prediction):
            assert prediction.film_HW is not None
            return (f"out/{film.place}", None) if film.place else (None, "no study")

    films = [FilmFile(Path(name), Path(name), place) for place, name in enumerate(["a", "b", "bad", "c"])]
    tally = write_predictions(Engine(), films, tmp_path / "p.csv", sinks=[Results()])
    assert (tally.written, tally.without) == (2, {"no study": 1})
    assert [(row["dicom"], row["dicom_reason"]) for row in rows(tmp_path / "p.csv")] == [
        ("", "no study"),
        ("out/1", ""),
        ("", ""),
        ("out/3", ""),
    ]


def test_summary_in_words():
    summary = Summary(Path("p.csv"), 1200, 3, 2, ("empty/",), ("closed/",), 60.0)
    assert str(summary) == (
        "1,200 films in 60.0 s (20.0/s); 3 could not be read (see the column `error`); 2 other files ignored; "
        "no film in empty/; no permission to read the folder closed/; written to p.csv"
    )
    assert summary.status == 1
    summary = Summary(Path("p.csv"), 12, 0, 0, (), (), 6.0, refused=4, written=7, without=(("no study", 5),))
    assert str(summary) == (
        "12 films in 6.0 s (2.0/s); 4 refused at intake (see `intake_reason`); DICOM results of 7 films; "
        "5 without: no study; written to p.csv"
    )
    assert summary.status == 1
    assert Summary(Path("p.csv"), 12, 0, 0, (), (), 6.0, refused=12).status == 0


def test_calibrated_probabilities_have_columns_of_their_own(tmp_path):
    class Calibrated(Engine):
        calibrated = True

        def answer(self, path):
            intake = Intake("refuse", ("no chest",)) if "hand" in path.name else None
            threshold = np.full(15, 0.5)
            threshold[[LABELS.index("Hernia"), LABELS.index("Mass")]] = np.nan
            cut = OperatingPoints("youden", threshold, threshold / 4, np.array([label != "Mass" for label in LABELS]))
            return prediction(calibrated_K=np.full(15, 0.125, np.float32), cut=cut, intake=intake)

    write_predictions(Calibrated(), files("a.png", "hand"), tmp_path / "p.csv")
    row, refused = rows(tmp_path / "p.csv")
    assert {name for name, value in refused.items() if value} == {"image", "width", "height", "intake", "intake_reason"}
    assert row["calibrated_Mass"] == ""
    assert [value for key, value in row.items() if key.startswith("calibrated_") and value] == ["0.125000"] * 14
    # fusion scores are 0, 1/14, ..., 1: the eighth is .5 itself
    called = "".join(row[f"call_{label}"] or "-" for label in LABELS)
    assert called == "0000-00111111-1"
    assert list(row)[46:76] == [f"{kind}_{label}" for kind in ("calibrated", "call") for label in LABELS]


def test_a_saved_model_predicts_a_folder_with_pictures(tmp_path, capsys):
    torch.manual_seed(0)
    AGCNN("test_resnet", image_size=64, resize=80, weights="none").save_pretrained(tmp_path / "run" / "model")
    films = tmp_path / "films"
    films.mkdir()
    cv2.imwrite(str(films / "a.png"), chest(120, 110))
    cv2.imwrite(str(films / "b.jpg"), chest(130, 120, 1))
    (films / "c.png").write_bytes((films / "a.png").read_bytes()[:200])
    out = tmp_path / "p.csv"
    summary = predict_files(tmp_path / "run", [str(films)], out, explain_dir=films / "explained", device="cpu")
    assert (summary.films, summary.failed) == (3, 1)
    table = rows(out)
    assert [Path(row["image"]).name for row in table] == ["a.png", "b.jpg", "c.png"]
    assert table[2]["error"]
    answer = Predictor.from_pretrained(tmp_path / "run", device="cpu")(films / "a.png")
    assert float(table[0]["prob_Effusion"]) == pytest.approx(answer.probability("Effusion"), abs=1e-5)
    assert [float(table[0][f"box_{edge}"]) for edge in ("x0", "y0", "x1", "y1")] == pytest.approx(answer.box, abs=0.01)
    assert sorted(path.name for path in (films / "explained").iterdir()) == ["a.png", "b.png"]
    assert "3 films in" in capsys.readouterr().err


def test_films_in_archives_are_answered_as_those_in_folders(tmp_path):
    torch.manual_seed(0)
    AGCNN("test_resnet", image_size=64, resize=80, weights="none").save_pretrained(tmp_path / "run" / "model")
    films = tmp_path / "films"
    films.mkdir()
    for seed in range(5):
        cv2.imwrite(str(films / f"{seed}.png"), chest(120, 110, seed))
    (films / "cut.png").write_bytes((films / "0.png").read_bytes()[:200])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped, tarfile.open(tmp_path / "a.tgz", "w:gz") as packed:
        for path in sorted(films.iterdir()):
            zipped.write(path, path.name)
            packed.add(path, path.name)
    out, table = tmp_path / "p.csv", {}
    for name in ("films", "a.zip", "a.tgz"):
        summary = predict_files(tmp_path / "run", [str(tmp_path / name)], out, batch_size=2, workers=2, progress=False)
        assert (summary.films, summary.failed) == (6, 1)
        table[name] = [list(row.values()) for row in rows(out)]
        assert [row[0] for row in table[name]] == [str(tmp_path / name / path.name) for path in sorted(films.iterdir())]
    for name in ("a.zip", "a.tgz"):
        assert [row[1:] for row in table[name]] == [row[1:] for row in table["films"]]
