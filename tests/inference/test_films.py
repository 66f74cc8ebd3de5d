import io
import os
import tarfile
import zipfile

import pytest

from agcxr.data.radiograph import RadiographError
from agcxr.inference.films import Films, with_pictures


@pytest.fixture
def tree(tmp_path):
    """A folder of films by suffix, of DICOM files without one, and of other files."""
    root = tmp_path / "films"
    (root / "sub" / "deep").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "notes.txt", "README", "sub/c.dcm", "sub/deep/d.webp", ".hidden.png"):
        (root / name).write_bytes(b"x")
    for name in ("IM0001", "DICOMDIR", "sub/1.2.840.7"):
        (root / name).write_bytes(bytes(128) + b"DICM" + bytes(10))
    return root


def names(films):
    return [str(film.relative) for film in films]


def test_folder_is_walked_in_order_and_the_rest_counted(tree):
    films = Films([str(tree)])
    assert names(films) == [".hidden.png", "IM0001", "a.JPG", "b.png", "sub/1.2.840.7", "sub/c.dcm", "sub/deep/d.webp"]
    assert films.ignored == 3  # notes.txt, README, DICOMDIR
    assert films.empty == []


def test_named_files_are_taken_whatever_they_are(tree):
    assert names(Films([str(tree / "notes.txt"), str(tree / "b.png"), str(tree / "b.png")])) == [
        "notes.txt",
        "b.png",
        "b.png",
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["b.png"]),
        ("*/*.dcm", ["c.dcm"]),
        ("**/*.[dw]*", ["c.dcm", "d.webp"]),
        ("**", ["DICOMDIR", "IM0001", "README", "a.JPG", "b.png", "notes.txt", "1.2.840.7", "c.dcm", "d.webp"]),
        ("su*", ["sub/1.2.840.7", "sub/c.dcm", "sub/deep/d.webp"]),
        ("*.tiff", []),
        ("none*/*.png", []),
    ],
)
def test_globs(tree, pattern, expected):
    films = Films([str(tree / pattern)])
    assert names(films) == expected
    assert films.empty == ([] if expected else [str(tree / pattern)])


def test_a_file_whose_name_looks_like_a_pattern(tree):
    odd = tree / "a[1].png"
    odd.write_bytes(b"x")
    assert names(Films([str(odd)])) == ["a[1].png"]


def test_missing_inputs_are_all_named(tree):
    with pytest.raises(ValueError, match=r"no such file or folder: nowhere, .*x\.png; expected films, folders"):
        Films(["nowhere", str(tree), str(tree / "x.png")])


def test_links_in_a_circle_end(tree):
    (tree / "sub" / "up").symlink_to(tree, target_is_directory=True)
    assert len(names(Films([str(tree)]))) == 7


def test_pictures_written_meanwhile_are_left_out(tree):
    out = tree / "sub" / "pictures"
    out.mkdir()
    (out / "p.png").write_bytes(b"x")
    assert "sub/pictures/p.png" in names(Films([str(tree)]))
    assert "sub/pictures/p.png" not in names(Films([str(tree)], leave_out=(out,)))
    assert names(Films([str(tree / "**/p.png")], leave_out=(out,))) == []


def test_closed_folders_are_named(tree, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    films = Films([str(tree)])
    assert len(names(films)) == 4
    assert films.closed == [str(tree / "sub")]


ARCHIVED = {"p/a.png": b"a", "IM0001": bytes(128) + b"DICM", "t.csv": b"x,y", "__MACOSX/p/._a.png": b"x"}


def zipped(path, files=ARCHIVED):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def packed(path, files=ARCHIVED):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["more.zip", "more.tar.gz"])
@pytest.mark.parametrize("how", ["", "/*.[zt]*", "/more.*"])
def test_archives_are_as_folders(tmp_path, name, how):
    path = (zipped if name.endswith("zip") else packed)(tmp_path / name)
    films = Films([str(tmp_path) + how])
    found = list(films)
    assert [str(film.path) for film in found] == [f"{path}/p/a.png", f"{path}/IM0001"]
    assert [str(film.relative) for film in found] == ["more/p/a.png", "more/IM0001"]
    assert [film.place for film in found] == [0, 1]
    assert [film.read() for film in found] == [b"a", ARCHIVED["IM0001"]], "also after the walk"
    assert (films.ignored, films.empty) == (1, [])
    assert [str(film.relative) for film in Films([str(path)])] == ["more/p/a.png", "more/IM0001"]


def test_an_archive_without_films_is_named(tmp_path):
    path = zipped(tmp_path / "a.zip", {"t.csv": b"x"})
    films = Films([str(path)])
    assert list(films) == []
    assert (films.empty, films.ignored) == ([str(path)], 1)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_an_archive_that_breaks_off_is_a_film_that_cannot_be_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"<html>")
    (film,) = Films([str(tmp_path)])
    assert film.path == tmp_path / name
    with pytest.raises(RadiographError, match=rf"{name} breaks off: "):
        film.read()


@pytest.mark.parametrize("make", [zipped, packed])
def test_names_in_archives_lead_nowhere_else(tmp_path, make):
    names = ("../../a.png", "/etc/b.png", "C:\\x\\c.png", "./d/../e.png")
    path = make(tmp_path / ("a.zip" if make is zipped else "a.tgz"), dict.fromkeys(names, b"x"))
    pictures = [film.relative.as_posix() for film in with_pictures(Films([str(path)]))]
    assert pictures == ["a/a.png", "a/etc/b.png", "a/C_/x/c.png", "a/d/e.png"]


def test_members_that_are_too_large_are_films_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr("agcxr.data.archives.MAX_MEMBER", 100)
    zipped(tmp_path / "a.zip", {"a.png": bytes(101), "b.png": b"b"})
    packed(tmp_path / "b.tar.gz", {"a.png": bytes(101), "b.png": b"b"})
    films = list(Films([str(tmp_path)]))
    for film in films[::2]:
        with pytest.raises(RadiographError, match="a file of 101 bytes; no radiograph needs more than 100"):
            film.read()
    assert [film.read() for film in films[1::2]] == [b"b", b"b"]


def test_the_walk_is_lazy(tree, monkeypatch):
    opened = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: opened.append(str(path)) or scandir(path))
    next(iter(Films([str(tree)])))
    assert opened == [str(tree)]
