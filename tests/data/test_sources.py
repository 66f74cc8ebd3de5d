from __future__ import annotations

import os
import zipfile

import pytest
from test_archives import DICOM, pack

from agcxr.data.sources import Walk, find_files


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "films"
    (root / "sub").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "t.csv", ".DS_Store", "Thumbs.db", "._b.png", "x.dcm.gz", "sub/c.dicom"):
        (root / name).write_bytes(b"x")
    for name in ("IM0001", "DICOMDIR", "sub/1.2.840.7", "scan.IMA", "scan.img"):
        (root / name).write_bytes(DICOM)
    pack(root / "sub" / "more.ZIP".lower(), {"p/d.png": b"d"})
    pack(root / "e.tar.gz", {"e.png": b"e"})
    return root


def test_a_folder(tree):
    (tree / "sub" / "up").symlink_to(tree, target_is_directory=True)
    for name in ("pipe", "pipe.png", "pipe.zip"):
        os.mkfifo(tree / name)
    walk = Walk(tree)
    assert [str(below) for _, below in walk] == [
        *("IM0001", "a.JPG", "b.png", "e.tar.gz", "scan.IMA", "scan.img"),
        *("sub/1.2.840.7", "sub/c.dicom", "sub/more.zip"),
    ]
    assert (walk.ignored, walk.odd) == (9, ".DS_Store")


def test_names_lead_to_files_of_any_kind(tree):
    files = find_files(tree)
    assert files.find("IM0001.dcm") == files.find("IM0001") == str(tree / "IM0001")
    assert files.find("scan.dcm") == str(tree / "scan.IMA")
    assert files.find("1.2.840.7") == str(tree / "sub" / "1.2.840.7")
    assert files.find("d.png") == files.find("x/p/d.jpg") == f"{tree}/sub/more.zip/p/d.png"
    assert files.zipped == {f"{tree}/sub/more.zip/p/d.png": (f"{tree}/sub/more.zip", "p/d.png")}
    assert files.archives == (tree / "e.tar.gz",)
    assert files.find("e.png") is None
    assert files.find("t.csv") is None


def test_paths_within_a_zip_tell_equal_names_apart(tmp_path):
    """As CheXpert comes from Kaggle: every film is called view1_frontal.jpg."""
    names = [f"CheXpert-v1.0-small/train/patient0000{n}/study1/view1_frontal.jpg" for n in (1, 2, 3)]
    path = pack(tmp_path / "archive.zip", dict.fromkeys(names, b"x") | {"CheXpert-v1.0-small/train.csv": b"a,b"})
    files = find_files(path)
    assert [files.find(name) for name in names] == [f"{path}/{name}" for name in names]
    assert not any(map(files.is_ambiguous, names)), "the path tells them apart"
    assert files.is_ambiguous("view1_frontal.jpg")
    assert files.find("patient00009/study1/view1_frontal.jpg") is None


def test_unpacked_files_go_before_their_zip(tmp_path):
    pack(tmp_path / "a.zip", {"p/a.png": b"zipped", "/p\\b.png": b"zipped"})
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(b"unpacked")
    files = find_files(tmp_path)
    assert files.find("p/a.png") == str(tmp_path / "p" / "a.png")
    assert files.find("p/b.png") == f"{tmp_path}/a.zip//p\\b.png"


def test_what_was_found_twice(tmp_path):
    for name in ("p1/a.png", "p2/a.png", "p2/a.jpg", "p3/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    files = find_files(tmp_path)
    ambiguous = [name for name in ("p1/a.png", "p2/a.png", "a.png", "p3/b.png", "b.png") if files.is_ambiguous(name)]
    assert ambiguous == ["p2/a.png", "a.png"]


def test_nothing_there(tmp_path):
    (tmp_path / "x.dcm.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(
        ValueError, match=r"no images .* or DICOM files of any name; 1 other files there, such as x.dcm"
    ):
        find_files(tmp_path)
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"cut.zip breaks off: File is not a zip file"):
        find_files(tmp_path)
    with zipfile.ZipFile(tmp_path / "cut.zip", "w") as archive:
        archive.writestr("images_001.tar.gz", b"x")
    with pytest.raises(ValueError, match=r"cut.zip holds 1 archives, which are not looked into .*: unpack it"):
        find_files(tmp_path)
    with zipfile.ZipFile(tmp_path / "cut.zip", "w") as archive:
        archive.writestr("labels.csv", b"x")
    with pytest.raises(ValueError, match=r"; no films in \S+cut.zip"):
        find_files(tmp_path)
    with pytest.raises(ValueError, match=r"absent does not exist; expected a folder of images, or a .zip or .tar.gz"):
        find_files(tmp_path / "absent")
