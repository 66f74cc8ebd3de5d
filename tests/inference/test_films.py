import os

import pytest

from agcxr.inference.films import Films


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


def test_the_walk_is_lazy(tree, monkeypatch):
    opened = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: opened.append(str(path)) or scandir(path))
    next(iter(Films([str(tree)])))
    assert opened == [str(tree)]
