from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import unicodedata
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_films import collection, encode, pack, picture

from agcxr.data import workers as pool
from agcxr.data.partial import Partial
from agcxr.data.prepare import prepare_nih
from agcxr.data.prepared import PartCount, Prepared, open_prepared
from agcxr.data.radiograph import RESIZE_RULE, read_radiograph, resize
from agcxr.data.splits import PatientLeakWarning
from agcxr.data.storing import Storing
from agcxr.labels import LABELS

NIH = Path(__file__).parents[3] / "shared" / "nih"


@pytest.fixture
def films(tmp_path):
    return collection(tmp_path / "nih")


def prepared(films: Path, **options) -> Prepared:
    options = {"size": 16, "boxes": films / "BBox.csv"} | options
    storing = Storing(**{one.name: options.pop(one.name) for one in fields(Storing) if one.name in options})
    images, out = options.pop("images", films / "images"), options.pop("out", films / "prepared")
    return prepare_nih(images, films / "Data_Entry.csv", out, storing=storing, **options)


def check_pixels(made: Prepared, films: Path) -> None:
    for row, name in enumerate(made.index["image_id"]):
        film = read_radiograph(films / "images" / name)
        assert np.array_equal(made.images[row], resize(film.pixels_HW, made.plan.size)), name


def test_prepared_folder(films, capsys):
    made = prepared(films)
    assert sorted(p.name for p in made.folder.iterdir()) == sorted(
        ["images.npy", "index.parquet", "boxes.parquet", "croissant.json", "rejected.csv", "plan.json"]
    )
    assert not made.folder.with_name("prepared.partial").exists()
    assert made.images.shape == (40, 16, 16)
    assert isinstance(made.images, np.memmap)
    check_pixels(made, films)
    first = made.index.iloc[0]
    assert (first.image_id, first.patient, first.width, first.age, first["view"]) == (
        "00000001_000.png",
        "1",
        32,
        31,
        "PA",
    )
    assert made.index["Cardiomegaly"].sum() == 4  # patients 1 and 15
    assert set(made.index.loc[made.index["split"] == "test", "patient"]) == {"5", "10", "15", "20"}
    plan = made.plan
    assert (plan.source.name, plan.source.collection) == ("nih", "nih")
    assert (plan.labels, plan.size, plan.resize_rule, plan.split.rule) == (LABELS, 16, RESIZE_RULE, "official")
    assert plan.leak_check.clean
    assert (plan.counts.prepared, plan.counts.rejected, plan.counts.boxed_images) == (40, 0, 4)
    assert [table.path.rsplit("/", 1)[-1] for table in plan.source.tables] == [
        *("Data_Entry.csv", "BBox.csv", "train_val_list.txt", "test_list.txt"),
    ]
    assert "40 films of 16 x 16" in capsys.readouterr().err


def test_one_film_is_told_in_the_singular(films):
    plan = prepared(films, limit=12).plan
    one = plan.model_copy(
        update={
            "counts": plan.counts.model_copy(
                update={"prepared": 1, "boxed_images": 1, "parts": (PartCount(part="val", images=1, patients=1),)}
            )
        }
    )
    said = one.summary().splitlines()
    assert said[0].startswith("1 film of 16 x 16 (")
    assert said[1] == "  val         1 film of      1 patient"
    assert re.fullmatch(r"  boxes: \d+ on 1 film; leak check: .*", said[2])
    assert plan.summary().startswith("12 films of 16 x 16 (")


def test_boxes_name_their_rows(films):
    made = prepared(films)
    for box in made.boxes.itertuples():
        assert made.index["image_id"].iloc[box.row] == box.image_id
        assert made.index[box.finding].iloc[box.row] == 1
        assert (box.x0, box.y0, box.x1, box.y1) == (0.25, 0.125, 0.75, 0.375)


def test_places_beside_the_labels_are_kept(films):
    plain = prepared(films)
    assert plain.places is None
    names = plain.index["image_id"].tolist()
    rows = [f"{name},Nodule,256,512,{16 + i},32" for i, name in enumerate(names[::-1])]
    (films / "places.csv").write_text("\n".join(["Image Index,Finding Label,Bbox [x,y,w,h],,,", *rows, ""]))
    made = prepared(films, out=films / "placed")
    assert made.places is not None
    assert made.places["row"].tolist() == list(range(len(names)))[::-1]
    assert made.places["x1"].tolist() == [(272 + i) / 1024 for i in range(len(names))]
    assert made.plan.fingerprint != plain.plan.fingerprint


def test_bad_films_are_rejected_and_nothing_else_is_lost(films, capsys):
    images = films / "images"
    (images / "00000002_000.png").write_bytes((images / "00000002_000.png").read_bytes()[:-60])
    (images / "00000007_001.png").write_text("not a film")
    (images / "00000015_000.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 40 films \(2.5%\) cannot be used \(1 missing\).*--subset"):
        prepared(films, max_rejected=0.0)
    with pytest.raises(ValueError, match=r"3 of 40 films \(7.5%\).*more than the 5.0% allowed.*--max-rejected 0.075"):
        prepared(films, max_rejected=0.05)
    made = prepared(films, max_rejected=0.1)
    assert "continuing: 37 of 40 films are done" in capsys.readouterr().err
    prepared(films, max_rejected=0.1)
    assert "prepared already; to try its 3 rejected films again, delete it first" in capsys.readouterr().err
    rejected = pd.read_csv(made.folder / "rejected.csv").set_index("image_id")["reason"]
    assert rejected["00000002_000.png"].startswith("truncated PNG")
    assert rejected["00000007_001.png"].endswith("it looks like text")
    assert rejected["00000015_000.png"].startswith("missing")
    assert (len(made.index), made.plan.counts.rejected, made.plan.counts.boxes_left_out) == (37, 3, 1)
    check_pixels(made, films)
    assert set(made.index["image_id"]) | set(rejected.index) == set(
        pd.read_csv(films / "Data_Entry.csv")["Image Index"]
    )


def test_no_film_can_be_used(films):
    for path in (films / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 40 films could be used"):
        prepared(films, max_rejected=1.0)


def test_subset_leaves_out_rows_without_a_file(films):
    for path in sorted((films / "images").iterdir())[20:]:
        path.unlink()
    with pytest.raises(ValueError, match="20 of 40 films .* cannot be used .*--subset"):
        prepared(films)
    made = prepared(films, subset=True, split="patient")
    assert (len(made.index), made.plan.counts.left_out, made.plan.counts.rejected) == (20, 20, 0)
    assert made.plan.counts.boxes_left_out == 2


def scattered(films: Path) -> Path:
    """Half of the films in two folders (one as JPEG), half in two archives, one of them twice."""
    files = sorted((films / "images").iterdir())
    place = films / "scattered"
    for folder, part in (("images_001/images", files[:10]), ("images_002/images", files[10:20])):
        (place / folder).mkdir(parents=True)
        for path in part:
            (place / folder / path.name).write_bytes(path.read_bytes())
    pack(place / "images_003.tar.gz", files[20:30])
    pack(place / "images_004.tar.gz", files[30:])
    (place / "images_001" / "._00000001_000.png").write_bytes(b"macOS")
    (place / "copy.png").write_bytes(b"")
    (place / "images_002" / files[0].name).write_bytes(files[0].read_bytes())
    return place


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("subset", [False, True])
def test_folders_and_archives_together(films, count, subset):
    made = prepared(films, images=scattered(films), workers=count, subset=subset)
    assert made.plan.counts.duplicate_stems == 1
    assert list(made.index["image_id"]) == sorted(made.index["image_id"])
    assert len(made.index) == 40
    check_pixels(made, films)


def zipped(films: Path, names: str = "images_00{}/images/{}") -> Path:
    """All films in one .zip as Kaggle packs them, with tables and macOS's remains beside them."""
    path = films / "archive.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/images_001/images/._00000001_000.png", b"mac")
        archive.writestr("Data_Entry_2017.csv", b"a,b")
        for place, film in enumerate(sorted((films / "images").iterdir())):
            archive.writestr(names.format(1 + place // 20, film.name), film.read_bytes())
    return path


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("subset", [False, True])
def test_a_zip_is_as_its_folder(films, count, subset, monkeypatch):
    whole = prepared(films, out=films / "whole")
    monkeypatch.setattr("agcxr.data.prepare.ZIP_JOBS", 2)
    made = prepared(films, images=zipped(films), workers=count, subset=subset)
    assert np.array_equal(made.images, whole.images)
    assert made.index.equals(whole.index)
    assert (made.plan.counts.rejected, made.plan.counts.duplicate_stems, made.plan.counts.left_out) == (0, 0, 0)
    assert made.plan.source.notes == ()


def test_a_zip_is_continued(films, monkeypatch, capsys):
    path = zipped(films)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 17)
        with pytest.raises(KeyboardInterrupt):
            prepared(films, images=path)
    made = prepared(films, images=path)
    assert "continuing: 17 of 40 films are done" in capsys.readouterr().err
    check_pixels(made, films)


def test_bad_members_of_a_zip_are_rejected(films):
    path = zipped(films)
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x01\x02", 0, data.rfind(b"00000002_000.png"))
    data[at + 8] |= 1  # encrypted, says the list of members
    at = data.find(b"00000003_001.png")
    data[at + 40 : at + 60] = bytes(20)
    path.write_bytes(data)
    made = prepared(films, images=path, max_rejected=0.1)
    rejected = pd.read_csv(made.folder / "rejected.csv").set_index("image_id")["reason"]
    assert rejected["00000002_000.png"].startswith("encrypted in its archive; unpack the archive with its password")
    assert rejected["00000003_001.png"].startswith("damaged in its archive")
    check_pixels(made, films)


def test_a_zip_that_breaks_off_is_said(films):
    path = zipped(films)
    (films / "some").mkdir()
    for film in sorted((films / "images").iterdir())[:5]:
        (films / "some" / film.name).write_bytes(film.read_bytes())
    (films / "some" / "rest.zip").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"\(35 missing\).*rest.zip breaks off: File is not a zip file.*; fetch the arch"
    ):
        prepared(films, images=films / "some")
    made = prepared(films, images=films / "some", max_rejected=0.9, split="patient")
    assert len(made.index) == 5
    assert made.plan.source.notes == (f"{films / 'some' / 'rest.zip'} breaks off: File is not a zip file",)


def test_dicom_files_without_a_suffix(films):
    """As PACS write them. (These hold no pixels, which the rejected rows say: they were found.)"""
    for path in list((films / "images").iterdir()):
        path.rename(path.with_suffix(""))
        path.with_suffix("").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(ValueError, match="none of the 40 films could be used"):
        prepared(films, max_rejected=1.0)
    reasons = pd.read_csv(films / "prepared.partial" / "rejected.csv")["reason"]
    assert not reasons.str.startswith("missing").any()


def test_names_found_twice_are_told_where_paths_do_not_tell_them_apart(tmp_path, capsys):
    """CheXpert calls every film view1_frontal.jpg."""
    table = ["Image Index,Finding Labels,Patient ID"]
    for n in range(3):
        folder = tmp_path / "train" / f"patient{n}"
        folder.mkdir(parents=True)
        (folder / "view1.png").write_bytes(encode(picture(32, 32, n)))
        table.append(f"small/train/patient{n}/view1.png,Mass,{n}")
    (tmp_path / "t.csv").write_text("\n".join(table))
    made = prepare_nih(tmp_path, tmp_path / "t.csv", tmp_path / "out", storing=Storing(size=16))
    assert made.plan.counts.duplicate_stems == 0
    assert "found more than once" not in capsys.readouterr().err


def test_resized_jpegs_are_found_by_stem(films):
    (films / "small").mkdir()
    for path in (films / "images").iterdir():
        (films / "small" / f"{path.stem}.jpg").write_bytes(encode(picture(20, 20), ".jpg"))
    made = prepared(films, images=films / "small")
    assert (len(made.index), made.index["width"].iloc[0]) == (40, 20)


def test_a_broken_archive_costs_only_what_stands_behind_the_break(films, capsys):
    place = scattered(films)
    data = (place / "images_004.tar.gz").read_bytes()
    (place / "images_004.tar.gz").write_bytes(data[: len(data) // 2])
    made = prepared(films, images=place, max_rejected=0.5)
    assert 30 < len(made.index) < 40
    reasons = pd.read_csv(made.folder / "rejected.csv")["reason"]
    assert reasons.str.contains("missing: no file of this name; .*images_004.tar.gz breaks off").all()
    assert "images_004.tar.gz breaks off" in capsys.readouterr().err
    check_pixels(made, films)


def test_archives_that_are_none(films, capsys):
    place = films / "archives"
    place.mkdir()
    (place / "images_001.tar.gz").write_bytes(b"<html>Sign in</html>")
    with pytest.raises(
        ValueError, match=r"\(40 missing\).*; fetch the archive that breaks off again; or allow it with"
    ):
        prepared(films, images=place)
    with pytest.raises(ValueError, match="none of the 40 rows of the table has a film under"):
        prepared(films, images=place, subset=True)
    assert capsys.readouterr().err.count("images_001.tar.gz breaks off: ") == 2


def test_without_the_official_lists_the_split_is_named(films, capsys):
    (films / "test_list.txt").unlink()
    assert prepared(films, limit=9).plan.split.rule == "patient"
    assert "note: no train_val_list.txt and test_list.txt in" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no train_val_list.txt and test_list.txt in"):
        prepared(films, split="official", out=films / "x")


def test_two_rows_are_never_one_file(films):
    table = films / "Data_Entry.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[1].replace(".png", ".jpg")]))
    with pytest.raises(
        ValueError, match=r"rows 00000001_000.png and 00000001_000.jpg both name the file .*; keep the one"
    ):
        prepared(films, split="patient")


def test_names_with_accents_are_found_however_they_are_stored(films):
    """A table from one system (composed letters), files from another (apart, as macOS stores them)."""
    (films / "images" / "00000001_000.png").rename(films / "images" / unicodedata.normalize("NFD", "Müller 胸.png"))
    for name in ("Data_Entry.csv", "train_val_list.txt", "test_list.txt", "BBox.csv"):
        path = films / name
        path.write_text(path.read_text().replace("00000001_000", unicodedata.normalize("NFC", "Müller 胸")))
    made = prepared(films)
    assert made.index["image_id"].iloc[0] == "Müller 胸.png"
    assert len(made.index) == 40


def test_limit_and_seed_and_split(films):
    made = prepared(films, limit=13, split="patient", seed=4)
    assert len(made.index) == 12
    assert made.plan.split.model_dump() == {"rule": "patient", "seed": 4, "limit": 13, "fraction": None}
    again = prepared(films, limit=13, split="patient", seed=4, out=films / "again")
    assert again.index.equals(made.index)
    with pytest.warns(PatientLeakWarning):
        leaky = prepared(films, split="image", out=films / "leaky")
    assert not leaky.plan.leak_check.clean


def test_a_finished_folder_is_kept(films, capsys):
    first = prepared(films)
    stamp = (first.folder / "images.npy").stat().st_mtime_ns
    again = prepared(films)
    assert "is prepared already" in capsys.readouterr().err
    assert (again.folder / "images.npy").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="holds films prepared with other settings"):
        prepared(films, size=24)
    (films / "mine").mkdir()
    (films / "mine" / "thesis.txt").write_text("keep me")
    with pytest.raises(ValueError, match="exists and is not a prepared folder"):
        prepared(films, out=films / "mine")
    (films / "mine.partial").mkdir()
    (films / "mine.partial" / "thesis.txt").write_text("keep me")
    (films / "mine" / "thesis.txt").unlink()
    with pytest.raises(ValueError, match="mine.partial exists and is not an unfinished prepared folder"):
        prepared(films, out=films / "mine")


def interrupt_after(monkeypatch, count: int) -> None:
    """KeyboardInterrupt once `count` films are done."""
    real = Partial.add

    def add(self, done):
        if self.count == count:
            raise KeyboardInterrupt
        real(self, done)

    monkeypatch.setattr(Partial, "add", add)


def test_interrupted_and_continued_equals_uninterrupted(films, monkeypatch, capsys):
    whole = prepared(films, out=films / "whole")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 17)
        with pytest.raises(KeyboardInterrupt):
            prepared(films)
    journal = films / "prepared.partial" / "journal.csv"
    journal.write_text(journal.read_text() + "3")  # a kill in the middle of a line
    with pytest.raises(ValueError, match="prepared.partial is unfinished: run the same command again"):
        open_prepared(films / "prepared")
    made = prepared(films)
    assert "continuing: 17 of 40 films are done" in capsys.readouterr().err
    assert np.array_equal(made.images, whole.images)
    assert made.index.equals(whole.index)
    assert made.boxes.equals(whole.boxes)


def test_other_settings_start_over(films, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 17)
        with pytest.raises(KeyboardInterrupt):
            prepared(films, size=24)
    made = prepared(films)
    assert "begun with other settings (size): starting over" in capsys.readouterr().err
    check_pixels(made, films)


@pytest.mark.parametrize("step", ["truncate", "rename"])
def test_killed_in_the_last_step(films, monkeypatch, step):
    (films / "images" / "00000002_000.png").unlink()  # so that rows move and the file is cut
    with monkeypatch.context() as patch:

        def fail(*args):
            raise KeyboardInterrupt

        patch.setattr("agcxr.data.partial.os.fsync" if step == "truncate" else "pathlib.Path.rename", fail)
        if step == "truncate":
            patch.undo()
            real = Path.unlink
            patch.setattr(Path, "unlink", lambda self, **kw: fail() if self.name == "journal.csv" else real(self, **kw))
        with pytest.raises(KeyboardInterrupt):
            prepared(films, max_rejected=0.1)
    assert not (films / "prepared").exists()
    made = prepared(films, max_rejected=0.1)
    assert len(made.index) == 39
    check_pixels(made, films)


def test_two_at_once_are_refused(films, monkeypatch):
    def nested(*args):
        monkeypatch.undo()
        with pytest.raises(ValueError, match="another process is preparing"):
            prepared(films)
        return iter(())

    monkeypatch.setattr("agcxr.data.prepare.run_jobs", nested)
    with pytest.raises(ValueError, match="cannot be used"):
        prepared(films)


def test_killed_and_continued(tmp_path, capsys):
    films = collection(tmp_path / "nih", patients=200, films=2, side=256)
    out = films / "prepared"
    places = f"{str(films / 'images')!r}, {str(films / 'Data_Entry.csv')!r}, {str(out)!r}"
    code = (
        "from agcxr.data import partial\nfrom agcxr.data.prepare import prepare_nih\n"
        "from agcxr.data.storing import Storing\npartial.FLUSH_SECONDS = 0\n"
        f"if __name__ == '__main__':\n    prepare_nih({places}, storing=Storing(size=64, workers=2))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    journal = films / "prepared.partial" / "journal.csv"
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    made = prepare_nih(films / "images", films / "Data_Entry.csv", out, storing=Storing(size=64, workers=2))
    assert re.search(r"continuing: [1-9]\d* of 400 films are done", capsys.readouterr().err)
    assert len(made.index) == 400
    check_pixels(made, films)


def test_a_film_that_kills_its_worker_is_rejected(films, monkeypatch):
    """The worker is really killed, by a signal as a crashing decoder would be."""
    target_folder = films / "raw"
    target_folder.mkdir()
    path = target_folder / "images.bin"
    path.write_bytes(bytes(40 * 16 * 16))
    names = sorted((films / "images").iterdir())
    jobs: list[pool.Job] = [
        pool.Files(tuple((row, str(names[row])) for row in range(at, at + 8))) for at in range(0, 40, 8)
    ]
    started = pool._Pool.__init__

    def init(self, *args):
        started(self, *args)
        # Too large to be read quickly: the film at which the worker is killed.
        names[3].write_bytes(encode(np.zeros((9000, 9000), np.uint8)))

    monkeypatch.setattr(pool._Pool, "__init__", init)
    real_wait = pool.wait

    def wait(pipes):
        for seat in seats:
            if seat.current.value == 3 and not killed:
                os.kill(seat.process.pid, signal.SIGKILL)
                killed.append(seat)
        return real_wait(pipes, timeout=0.005)

    seats: list = []
    killed: list = []
    real_seat = pool._Pool._seat

    def seat(self):
        seats.append(real_seat(self))
        return seats[-1]

    monkeypatch.setattr(pool._Pool, "_seat", seat)
    monkeypatch.setattr(pool, "wait", wait)
    results = [done for batch in pool.run_jobs(jobs, pool.Target(str(path), 0, 16), 2) for done in batch]
    assert len(killed) == 1
    assert sorted({done.row for done in results}) == list(range(40))
    assert [done.reason for done in results if done.reason] == ["the decoder crashed on it (Killed)"]


def test_bad_arguments(films):
    for options, reason in [
        ({"size": 8}, "size 8; expected 16 to 4096"),
        ({"max_rejected": 5}, "max_rejected 5; expected a share from 0 to 1"),
        ({"workers": 0}, "workers 0"),
        ({"out": Path(".")}, r"the folder to make is \.; give it a name of its own, such as prepared"),
        ({"out": Path("..")}, r"the folder to make is \.\.; give it a name of its own"),
        ({"images": films / "absent"}, "absent does not exist; expected a folder of images"),
        ({"lists": films / "images"}, "no train_val_list.txt and test_list.txt in"),
        ({"boxes": films / "Data_Entry.csv"}, "it looks like the label table"),
    ]:
        with pytest.raises(ValueError, match=reason):
            prepared(films, **options)
    (films / "none").mkdir()
    with pytest.raises(ValueError, match="no images under .*none; expected files .png, .jpg"):
        prepared(films, images=films / "none")


def test_open_prepared_says_what_is_wrong(films):
    with pytest.raises(ValueError, match="not a prepared folder .no plan.json.; make one with `agcxr prepare nih"):
        open_prepared(films)
    folder = prepared(films).folder
    plan = (folder / "plan.json").read_text()
    (folder / "plan.json").write_text(json.dumps(json.loads(plan) | {"format": 99}))
    with pytest.raises(ValueError, match="format 99 with 15 labels is not this version's"):
        open_prepared(folder)
    (folder / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="is damaged or of another version"):
        open_prepared(folder)
    (folder / "plan.json").write_text(plan)
    pd.read_parquet(folder / "index.parquet").iloc[:-1].to_parquet(folder / "index.parquet")
    with pytest.raises(ValueError, match="is inconsistent: images .40, 16, 16. of uint8 and 39 index rows"):
        open_prepared(folder)
    with (folder / "images.npy").open("r+b") as file:
        file.truncate(500)
    with pytest.raises(ValueError, match="is damaged"):
        open_prepared(folder)


@pytest.mark.slow
@pytest.mark.skipif(not NIH.is_dir(), reason="the real films (../shared/nih) are not here")
def test_the_real_films(tmp_path):
    made = prepare_nih(
        NIH / "images",
        NIH / "Data_Entry_2017_v2020.csv.gz",
        tmp_path / "real",
        boxes=NIH / "BBox_List_2017.csv",
        storing=Storing(subset=True, size=64),
    )
    parts = {part.part: part.images for part in made.plan.counts.parts}
    assert parts["test"] == 652
    assert parts["train"] + parts["val"] == 1335
    assert (made.plan.counts.boxes, made.plan.counts.boxed_images) == (455, 401)
    assert made.plan.counts.positives["Hernia"] == 42
    assert made.plan.counts.rejected == 0
