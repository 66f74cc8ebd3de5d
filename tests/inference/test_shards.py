import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from agcxr.inference import shards
from agcxr.inference.batch import write_predictions
from agcxr.inference.films import Films
from agcxr.inference.prediction import Failure
from agcxr.inference.shards import Foreman, Job, Shard, Words, do_shard
from agcxr.labels import LABELS
from inference.make import film, prediction


class Engine:
    """Answers from the file's name; `stop_after` films it is interrupted, as by Ctrl-C or a full disk."""

    labels = LABELS
    calibrated = False
    words = ""

    def __init__(self, stop_after=None):
        self.stop_after, self.asked = stop_after, []

    def stream(self, films, *, batch_size=16, workers=None, keep_film=0):
        for path in films:
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise OSError("no space left on device")
            self.asked.append(str(path))
            if "bad" in path.name:
                yield Failure(str(path), 'it says "no",\nand more')
            else:
                yield prediction(name=str(path), film_HW=film() if keep_film else None)


@pytest.fixture
def folder(tmp_path):
    """23 films and two other files; names that a CSV must quote."""
    films = tmp_path / "films"
    (films / "sub").mkdir(parents=True)
    names = [*(f"{i:02}.png" for i in range(17)), "bad,1.png", 'bad "2".png', "line\nbreak.png", "sub/00.png", "00.jpg"]
    for name in [*names, "sub/bad.dcm", "notes.txt", "more.csv"]:
        (films / name).touch()
    return films


@pytest.fixture
def engines(monkeypatch):
    """Engines that were loaded, in order; the next ones stop after `engines.stops` films."""

    class Loaded(list):
        stops = None

    loaded = Loaded()

    def load(model, **options):
        loaded.append(Engine(loaded.stops))
        return loaded[-1]

    monkeypatch.setattr(shards, "load_engine", load)
    return loaded


def job(folder, world, target, **changes):
    words = Words(version="1", model="m", fingerprint="f", inputs=(str(folder),), options=(), processes=world)
    return replace(Job(words, target), **changes)


def run(a_job, world, launch=""):
    for rank in range(world):
        do_shard(a_job, Shard(rank, world, launch))
    foreman = Foreman(a_job, world, launch, progress=False)
    foreman.wait()
    return foreman.merge()


def alone(folder, target, pictures=None):
    write_predictions(Engine(), Films([str(folder)], leave_out=(pictures,) if pictures else ()), target, pictures)
    return target.read_bytes()


@pytest.mark.parametrize("world", [1, 2, 5, 40])
def test_shards_make_the_table_of_one_process_to_the_byte(world, folder, engines, tmp_path):
    target = tmp_path / "deep" / "p.csv"
    summary = run(job(folder, world, target), world)
    assert target.read_bytes() == alone(folder, tmp_path / "one.csv")
    assert (summary.films, summary.failed, summary.ignored, summary.csv) == (23, 3, 2, target)
    assert [path.name for path in target.parent.iterdir()] == ["p.csv"]
    assert sum(len(engine.asked) for engine in engines) == 23
    assert max(len(engine.asked) for engine in engines) == -(-23 // world)


def test_only_what_the_processes_wrote_is_removed(folder, engines, tmp_path):
    a_job = job(folder, 2, tmp_path / "p.csv")
    run(a_job, 2)
    assert not a_job.folder.exists()
    a_job.folder.mkdir()
    (a_job.folder / "mine.csv").write_text("kept")
    run(a_job, 2)
    assert [path.name for path in a_job.folder.iterdir()] == ["mine.csv"]


def test_pictures_have_the_names_that_one_process_gives(folder, engines, tmp_path):
    pictures = folder / "pictures"
    run(job(folder, 3, tmp_path / "p.csv", explain=pictures), 3)
    made = sorted(path.relative_to(pictures) for path in pictures.rglob("*.png"))
    table = (tmp_path / "p.csv").read_bytes()
    shutil.rmtree(pictures)
    assert table == alone(folder, tmp_path / "one.csv", pictures)
    assert made == sorted(path.relative_to(pictures) for path in pictures.rglob("*.png"))
    assert Path("00-2.png") in made


def test_what_is_written_beside_the_rows_is_numbered_as_by_one_process(folder, engines, tmp_path):
    class Numbers:
        columns = ("dicom", "dicom_reason")

        def save(self, film, prediction):
            return (str(film.place + 1), None) if film.place % 4 else (None, "no study")

    summary = run(job(folder, 3, tmp_path / "p.csv", also=(lambda engine: Numbers(),)), 3)
    tally = write_predictions(Engine(), Films([str(folder)]), tmp_path / "one.csv", sinks=[Numbers()])
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert (summary.written, dict(summary.without)) == (tally.written, tally.without)
    assert summary.written > 10


def test_the_table_may_lie_among_the_films(folder, engines, tmp_path):
    expected = alone(folder, tmp_path / "one.csv")
    assert run(job(folder, 2, folder / "a.csv"), 2).ignored == 2
    assert (folder / "a.csv").read_bytes() == expected


def test_what_a_dead_process_finished_is_kept(folder, engines, tmp_path):
    a_job, engines.stops = job(folder, 2, tmp_path / "p.csv"), 5
    with pytest.raises(OSError, match="no space left"):
        do_shard(a_job, Shard(1, 2))
    rows = a_job.folder / "00001.csv"
    whole = rows.read_bytes()
    rows.write_bytes(whole + b'"films/half a ro')  # as a kill within a write leaves it
    engines.stops = None
    run(a_job, 2, "again")
    assert (tmp_path / "p.csv").read_bytes() == alone(folder, tmp_path / "one.csv")
    first, again = engines[0], engines[2]
    assert len(first.asked) == 5
    assert not set(first.asked) & set(again.asked)


@pytest.mark.parametrize("cut", [0, 10, 3000, 3900])
def test_a_file_cut_anywhere_goes_on_behind_its_last_whole_row(cut, folder, engines, tmp_path):
    a_job = job(folder, 1, tmp_path / "p.csv")
    engines.stops = 20
    with pytest.raises(OSError, match="no space left"):
        do_shard(a_job, Shard(0, 1))
    os.truncate(a_job.folder / "00000.csv", cut)
    engines.stops = None
    run(a_job, 1)
    assert (tmp_path / "p.csv").read_bytes() == alone(folder, tmp_path / "one.csv")


def test_a_finished_share_is_not_done_again(folder, engines, tmp_path):
    a_job = job(folder, 2, tmp_path / "p.csv")
    do_shard(a_job, Shard(0, 2, "first"))
    run(a_job, 2, "second")
    assert len(engines) == 2
    assert (tmp_path / "p.csv").exists()


def test_the_foreman_waits_for_processes_of_its_own_start(folder, engines, tmp_path, monkeypatch):
    a_job = job(folder, 2, tmp_path / "p.csv")
    for rank in range(2):
        do_shard(a_job, Shard(rank, 2, "first"))
    do_shard(a_job, Shard(0, 2, "second"))
    monkeypatch.setattr(shards, "PATIENCE_S", 0.0)
    told = r"nothing was heard of process 1 of 2 .* 23 finished rows are kept in .*p.csv.shards; the same command"
    with pytest.raises(ChildProcessError, match=told):
        Foreman(a_job, 2, "second", progress=False).wait()


def test_other_films_than_before_are_an_error(folder, engines, tmp_path):
    a_job, engines.stops = job(folder, 1, tmp_path / "p.csv"), 5
    with pytest.raises(OSError, match="no space left"):
        do_shard(a_job, Shard(0, 1))
    (folder / "01.png").unlink()
    with pytest.raises(
        ValueError, match=r"the films have changed .* next film is .*01.png, and now it is .*02.png; delete"
    ):
        do_shard(a_job, Shard(0, 1))


def test_processes_that_saw_other_films_are_not_merged(folder, engines, tmp_path):
    a_job = job(folder, 2, tmp_path / "p.csv")
    do_shard(a_job, Shard(0, 2))
    (folder / "zz.png").touch()
    with pytest.raises(
        ValueError, match=r"did not see the same films \(23, 24\): .* Delete .*p.csv.shards to begin anew"
    ):
        run(a_job, 2)
    assert not (tmp_path / "p.csv").exists()


def test_rows_of_another_job_are_not_mixed_in(folder, engines, tmp_path):
    do_shard(job(folder, 2, tmp_path / "p.csv"), Shard(1, 2))
    other = job(folder, 4, tmp_path / "p.csv")
    with pytest.raises(
        ValueError, match=r"another job \(processes: 2 there, 4 now\); the command that began it goes on"
    ):
        do_shard(other, Shard(0, 4))
    changed = replace(other, words=job(folder, 2, tmp_path).words.model_copy(update={"fingerprint": "g"}))
    with pytest.raises(ValueError, match=r"fingerprint: 'f' there, 'g' now"):
        do_shard(changed, Shard(0, 2))


def test_a_record_of_something_else_is_an_error(folder, engines, tmp_path):
    a_job = job(folder, 1, tmp_path / "p.csv")
    a_job.folder.mkdir()
    (a_job.folder / "00000.json").write_text("{}")
    with pytest.raises(ValueError, match=r"00000.json is no record of this version of agcxr; delete the folder"):
        do_shard(a_job, Shard(0, 1))


def test_two_processes_cannot_write_one_share(folder, engines, tmp_path):
    a_job = job(folder, 1, tmp_path / "p.csv")
    a_job.folder.mkdir()
    with (
        shards._own(a_job, Shard(0, 1)),
        pytest.raises(ValueError, match=r"another process is writing .*00000.csv: the same command still runs"),
    ):
        do_shard(a_job, Shard(0, 1))


def test_lost_rows_are_an_error(folder, engines, tmp_path):
    a_job = job(folder, 2, tmp_path / "p.csv")
    for rank in range(2):
        do_shard(a_job, Shard(rank, 2))
    os.truncate(a_job.folder / "00001.csv", 3000)
    with pytest.raises(ValueError, match=r"00001.csv has lost rows: film \d+ of 23 is not there; delete"):
        Foreman(a_job, 2, "", progress=False).merge()
    assert not (tmp_path / "p.csv").exists()


def test_the_fingerprint_follows_the_model(tmp_path):
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"1")
    one = shards.fingerprint(str(tmp_path / "run"))
    assert one == shards.fingerprint(str(model))
    (model / "model.safetensors").write_bytes(b"2")
    assert one != shards.fingerprint(str(model))
    (tmp_path / "m.onnx").write_bytes(b"1")
    assert shards.fingerprint(str(tmp_path / "m.onnx")) != shards.fingerprint("owner/name") != shards.fingerprint("o/n")


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    """Neither the share nor the merge holds more than some rows."""
    import tracemalloc

    class Many(Films):
        def _of(self, name):
            return (film for _ in range(self.n) for film in super(Many, self)._of(name))

    class Failing(Engine):
        def stream(self, films, **options):
            return (Failure(str(path), "no") for path in films)

    monkeypatch.setattr(shards, "load_engine", lambda model, **options: Failing())
    (tmp_path / "a.png").touch()
    peaks = []
    for n in (500, 5000):
        monkeypatch.setattr(Many, "n", n, raising=False)
        monkeypatch.setattr("agcxr.inference.batch.Films", Many)
        tracemalloc.start()
        assert run(job(tmp_path / "a.png", 2, tmp_path / "p.csv"), 2).films == n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
