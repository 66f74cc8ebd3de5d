"""The parts of a large table, by the walk and the actors of `predict` on Ray, but without Ray."""

import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agcxr.inference import ray_engine
from agcxr.inference.batch import Request, check_alone, write_predictions
from agcxr.inference.films import Films
from agcxr.inference.parts import Job, Parts, schema_of
from agcxr.inference.prediction import Failure
from agcxr.inference.ray_engine import Answerer, Work, fingerprint
from agcxr.inference.stream import Remote
from agcxr.inference.table import Table
from agcxr.labels import LABELS
from inference.make import film, prediction


class Engine:
    """Answers from the film's name; after `stop_after` films the disk is full."""

    labels = LABELS
    calibrated = False
    crops = 1
    words = ""

    def __init__(self, stop_after=None):
        self.stop_after, self.asked = stop_after, []

    def stream(self, films, *, batch_size=16, workers=None, keep_film=0):
        for path in films:
            name = path.name if isinstance(path, Remote) else str(path)
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise OSError("no space left on device")
            self.asked.append(name)
            if isinstance(path, Remote):
                path.read()
            if "bad" in Path(name).name:
                yield Failure(name, 'it says "no",\nand more')
            else:
                yield prediction(name=name, film_HW=film() if keep_film else None)


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

    monkeypatch.setattr(ray_engine, "load_engine", load)
    return loaded


def request(folder, target, **changes):
    return replace(Request("m", (str(folder),), str(target), batch_size=1), **changes)


def run(a_request, actors=2, also=()):
    """The command without Ray: parts of four films, dealt to actors in turn. Returns the counts, or the error."""
    work = Work(a_request, tuple(also), os.getcwd(), 1, "cpu")
    parts = Parts(a_request.out)
    parts.begin(ray_engine._job(a_request))
    answerers = [Answerer(work) for _ in range(actors)]
    with parts.owned():
        for number, row in enumerate(work.walk()):
            (answer,) = answerers[number % actors](row).to_pylist()
            if answer["error"]:
                return answer["error"]
    return parts.finish()


def alone(folder, target, pictures=None, sinks=()):
    films = Films([str(folder)], leave_out=(pictures,) if pictures else ())
    tally = write_predictions(Engine(), films, target, pictures, sinks=sinks)
    return target.read_bytes(), tally


@pytest.mark.parametrize("actors", [1, 2, 5])
def test_the_table_is_that_of_one_process_to_the_byte(actors, folder, engines, tmp_path):
    target = tmp_path / "deep" / "p.csv"
    tally, walked = run(request(folder, target), actors)
    assert target.read_bytes() == alone(folder, tmp_path / "one.csv")[0]
    assert (tally.rows, tally.failed, walked.films, walked.ignored) == (23, 3, 23, 2)
    assert [path.name for path in target.parent.iterdir()] == ["p.csv"]
    assert sum(len(engine.asked) for engine in engines) == 23


def test_parquet_holds_the_rows_in_order(folder, engines, tmp_path):
    run(request(folder, tmp_path / "p.parquet"))
    table = pq.read_table(tmp_path / "p.parquet")
    assert table["place"].to_pylist() == list(range(23))
    assert table.schema == schema_of(Table(LABELS, calibrated=False))
    run(request(folder, tmp_path / "parts"))
    parts = sorted((tmp_path / "parts").iterdir())
    assert [path.name for path in parts] == [f"{place:012d}.parquet" for place in range(0, 23, 4)]
    assert pa.concat_tables(map(pq.read_table, parts)).equals(table)


def test_a_job_that_goes_on_may_write_where_it_has_written(folder, tmp_path, monkeypatch):
    class Begins(Exception):
        pass

    def begin():
        raise Begins

    monkeypatch.setattr(ray_engine, "_ray", begin)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "00.png").touch()
    asked = request(folder, tmp_path / "p.csv", explain=pictures)
    with pytest.raises(ValueError, match="pictures holds files already; give a new folder, or --overwrite"):
        ray_engine.predict_on_ray(asked)
    Parts(asked.out).begin(ray_engine._job(asked))
    with pytest.raises(Begins):
        ray_engine.predict_on_ray(asked)
    (tmp_path / "p.csv").touch()
    with pytest.raises(ValueError, match=r"p\.csv is there already; give another name, or --overwrite"):
        ray_engine.predict_on_ray(asked)
    with pytest.raises(Begins):
        ray_engine.predict_on_ray(replace(asked, overwrite=True))
    assert ray_engine._job(asked) == ray_engine._job(replace(asked, overwrite=True))


def test_pictures_have_the_names_that_one_process_gives(folder, engines, tmp_path):
    pictures = folder / "pictures"
    run(request(folder, tmp_path / "p.csv", explain=pictures))
    made = sorted(path.relative_to(pictures) for path in pictures.rglob("*.png"))
    table = (tmp_path / "p.csv").read_bytes()
    shutil.rmtree(pictures)
    assert table == alone(folder, tmp_path / "one.csv", pictures)[0]
    assert made == sorted(path.relative_to(pictures) for path in pictures.rglob("*.png"))
    assert Path("00-2.png") in made


class Numbers:
    columns = ("dicom", "dicom_reason")

    def save(self, film, prediction):
        return (str(film.place + 1), None) if film.place % 4 else (None, "no study")


def test_what_is_written_beside_the_rows_is_numbered_as_by_one_process(folder, engines, tmp_path):
    tally, _ = run(request(folder, tmp_path / "p.csv"), also=(lambda engine: Numbers(),))
    table, expected = alone(folder, tmp_path / "one.csv", sinks=[Numbers()])
    assert (tmp_path / "p.csv").read_bytes() == table
    assert (tally.written, dict(tally.without)) == (expected.written, expected.without)
    assert tally.written > 10


def test_members_of_archives_travel_with_their_bytes(engines, tmp_path):
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        for name in ("a.png", "b/c.png"):
            archive.writestr(name, b"film " + name.encode())
    run(request(tmp_path / "films.zip", tmp_path / "p.csv"))
    assert engines[0].asked == [f"{tmp_path}/films.zip/{name}" for name in ("a.png", "b/c.png")]
    row = next(Work(request(tmp_path / "films.zip", tmp_path / "q.csv"), (), ".", 1, "cpu").walk())
    assert [one["data"] for one in row.to_pylist()[0]["films"]] == [b"film a.png", b"film b/c.png"]


def test_the_table_may_lie_among_the_films(folder, engines, tmp_path):
    expected, _ = alone(folder, tmp_path / "one.csv")
    _, walked = run(request(folder, folder / "a.csv"))
    assert walked.ignored == 2
    assert (folder / "a.csv").read_bytes() == expected


def test_what_was_finished_is_kept(folder, engines, tmp_path):
    a_request, engines.stops = request(folder, tmp_path / "p.csv"), 9
    assert run(a_request, 1) == "no space left on device"
    assert Parts(a_request.out).places() == [0, 4]
    assert Parts(a_request.out).rows() == 8
    (tmp_path / "p.csv.parts" / "_000000000008.parquet.0af").write_bytes(b"half")  # as a kill within a write leaves it
    engines.stops = None
    run(a_request)
    assert (tmp_path / "p.csv").read_bytes() == alone(folder, tmp_path / "one.csv")[0]
    again = [name for engine in engines[1:] for name in engine.asked]
    assert len(again) == 23 - 8
    assert not set(engines[0].asked[:8]) & set(again)
    assert not (tmp_path / "p.csv.parts").exists()


def test_a_command_that_ended_before_its_table_has_only_that_to_make(folder, engines, tmp_path):
    a_request = request(folder, tmp_path / "p.csv")
    work, parts = Work(a_request, (), os.getcwd(), 1, "cpu"), Parts(a_request.out)
    parts.begin(ray_engine._job(a_request))
    for row in work.walk():
        Answerer(work)(row)
    loaded = len(engines)
    run(a_request)
    assert len(engines) == loaded
    assert (tmp_path / "p.csv").read_bytes() == alone(folder, tmp_path / "one.csv")[0]


def test_only_what_the_command_wrote_is_removed(folder, engines, tmp_path):
    parts = Parts(str(tmp_path / "p.csv"))
    parts.begin(ray_engine._job(request(folder, tmp_path / "p.csv")))
    (tmp_path / "p.csv.parts" / "mine.csv").write_text("kept")
    run(request(folder, tmp_path / "p.csv"))
    assert [path.name for path in (tmp_path / "p.csv.parts").iterdir()] == ["mine.csv"]


def test_other_films_than_before_are_an_error(folder, engines, tmp_path):
    a_request, engines.stops = request(folder, tmp_path / "p.csv"), 5
    run(a_request, 1)
    (folder / "01.png").unlink()
    engines.stops = None
    told = run(a_request)
    assert told.startswith(f"the films have changed since {tmp_path}/p.csv.parts was begun: its next film is ")
    assert "01.png, and now it is " in told
    assert not (tmp_path / "p.csv").exists()


def test_rows_of_another_job_are_not_mixed_in(folder, tmp_path):
    parts = Parts(str(tmp_path / "p.csv"))
    job = Job(version="1", model="m", fingerprint="f", inputs=(str(folder),), options=(), films=64)
    parts.begin(job)
    parts.begin(job)
    with pytest.raises(ValueError, match=r"another job \(fingerprint: 'f' there, 'g' now\); the command that began it"):
        parts.begin(job.model_copy(update={"fingerprint": "g"}))
    (tmp_path / "p.csv.parts" / "_job.json").write_text("{}")
    with pytest.raises(ValueError, match=r"_job.json is no record of this version of agcxr; delete the folder"):
        parts.begin(job)


def test_a_folder_with_files_in_it_is_refused(folder):
    job = Job(version="1", model="m", fingerprint="f", inputs=(str(folder),), options=(), films=64)
    with pytest.raises(ValueError, match=r"films is a folder with files in it; give the name of a new one"):
        Parts(str(folder)).begin(job)


def test_two_commands_cannot_write_one_table(folder, tmp_path):
    parts = Parts(str(tmp_path / "p.csv"))
    parts.begin(ray_engine._job(request(folder, tmp_path / "p.csv")))
    with (
        parts.owned(),
        pytest.raises(ValueError, match=r"another process is writing .*p.csv.parts: the same command still runs"),
        Parts(str(tmp_path / "p.csv")).owned(),
    ):
        pass


def test_lost_rows_are_an_error(folder, engines, tmp_path):
    a_request = request(folder, tmp_path / "p.csv")
    work, parts = Work(a_request, (), os.getcwd(), 1, "cpu"), Parts(a_request.out)
    parts.begin(ray_engine._job(a_request))
    actor = Answerer(work)
    for row in work.walk():
        actor(row)
    (tmp_path / "p.csv.parts" / f"{8:012d}.parquet").unlink()
    with pytest.raises(ValueError, match=r"p.csv.parts has lost rows: film 9 of 23 is not there; delete"):
        parts.finish()
    assert not (tmp_path / "p.csv").exists()


def test_what_ails_the_model_is_an_answer(folder, tmp_path, monkeypatch):
    def load(model, **options):
        raise ValueError("no config.json in x")

    monkeypatch.setattr(ray_engine, "load_engine", load)
    assert run(request(folder, tmp_path / "p.csv")) == "no config.json in x"


def test_films_that_kill_every_process_are_told(folder, engines, tmp_path):
    a_request = request(folder, tmp_path / "p.csv")
    work, parts = Work(a_request, (), os.getcwd(), 1, "cpu"), Parts(a_request.out)
    parts.begin(ray_engine._job(a_request))
    for _ in range(3):
        parts.begin_part(4)  # and no more is heard of it
    first, second, *_ = (Answerer(work)(row).to_pylist()[0]["error"] for row in work.walk())
    assert first == ""
    assert second.startswith("the 3 processes that read the films from number 4 on have died of it: out of memory?")
    assert second.endswith(f"4 finished rows are kept in {tmp_path}/p.csv.parts; the same command goes on behind them")
    run(a_request)  # a new start may do better
    assert (tmp_path / "p.csv").read_bytes() == alone(folder, tmp_path / "one.csv")[0]
    assert not (tmp_path / "p.csv.parts").exists()


def test_the_fingerprint_follows_the_model(tmp_path):
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"1")
    one = fingerprint(str(tmp_path / "run"))
    assert one == fingerprint(str(model))
    (model / "model.safetensors").write_bytes(b"2")
    assert one != fingerprint(str(model))
    (tmp_path / "m.onnx").write_bytes(b"1")
    assert fingerprint(str(tmp_path / "m.onnx")) != fingerprint("owner/name") != fingerprint("o/n")


@pytest.mark.parametrize(
    ("environ", "alone"),
    [
        ({}, True),
        ({"RANK": "0", "WORLD_SIZE": "1"}, True),
        # a batch script of SLURM sees these too, although it is one process
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}, True),
        ({"RANK": "2", "WORLD_SIZE": "4"}, False),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"}, False),
    ],
)
def test_one_of_several_processes_does_not_write_the_same_table(environ, alone):
    if alone:
        return check_alone(environ)
    with pytest.raises(ValueError, match=r"says that 4 processes were started, and each would write the whole table"):
        check_alone(environ)


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    """Neither the walk, nor an actor, nor the merge holds more than some rows."""
    import tracemalloc

    class Many(Films):
        def _of(self, name):
            return (film for _ in range(self.n) for film in super(Many, self)._of(name))

    class Failing(Engine):
        def stream(self, films, **options):
            return (Failure(str(path), "no") for path in films)

    monkeypatch.setattr(ray_engine, "load_engine", lambda model, **options: Failing())
    (tmp_path / "a.png").touch()
    peaks = []
    for n in (500, 5000):
        monkeypatch.setattr(Many, "n", n, raising=False)
        monkeypatch.setattr("agcxr.inference.batch.Films", Many)
        tracemalloc.start()
        assert run(request(tmp_path / "a.png", tmp_path / "p.csv", batch_size=16))[0].rows == n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
