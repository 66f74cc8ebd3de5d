from __future__ import annotations

import io
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from agcxr.data import archives
from agcxr.data.archives import BROKEN_ARCHIVE, is_film, list_archive, walk_archive
from agcxr.data.radiograph import RadiographError

DICOM = bytes(128) + b"DICM" + bytes(10)
BARE = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + bytes(120)
FILES = {
    "images/a.png": b"a",
    "images/B.JPG": b"b",
    "images/IM0001": DICOM,
    "images/1.2.840.7": BARE,
    "images/scan.img": DICOM,
    "images/c.IMA": b"c",
}
OTHERS = {
    "labels.csv": b"x,y",
    "notes.json": b"{}" * 100,
    "README": b"text",
    "DICOMDIR": DICOM,
    "Thumbs.db": bytes(200),
    "film.dcm.gz": b"\x1f\x8b" + bytes(200),
    "inner.zip": b"PK",
}
HIDDEN = {".DS_Store": b"x", "images/.hidden.png": b"x", "__MACOSX/images/._a.png": b"x", "images/._a.png": b"x"}


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of the kind that its name says, with folders, in the order given."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images/", b"")
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    kind = {".bz2": "w:bz2", ".xz": "w:xz", ".gz": "w:gz", ".tgz": "w:gz"}.get(path.suffix, "w")
    with tarfile.open(path, kind) as archive:
        folder = tarfile.TarInfo("images")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


ALL = ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz"]


@pytest.mark.parametrize("name", ALL)
def test_films_of_an_archive(tmp_path, name):
    path = pack(tmp_path / name, OTHERS | FILES | HIDDEN)
    others: list[str] = []
    assert {member.name: member.read() for member in walk_archive(path, pass_over=others.append)} == FILES
    assert others == list(OTHERS)
    said: list[str] = []
    assert list_archive(path, said.append) == tuple(FILES)
    assert said == [f"{path} holds 1 archives, which are not looked into (such as inner.zip): unpack it"]
    wanted = {"B", "images/c.IMA"}
    assert [member.name for member in walk_archive(path, wanted)] == ["images/B.JPG", "images/c.IMA"]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("file", ["images/a.png", "images/IM0001"])
def test_no_member_grows_beyond_the_limit(tmp_path, monkeypatch, name, file):
    path = pack(tmp_path / name, {file: DICOM + bytes(10_000)})
    monkeypatch.setattr(archives, "MAX_MEMBER", 10_000)
    for member in walk_archive(path):
        with pytest.raises(RadiographError, match=r"a file of 10,142 bytes; no radiograph needs more than 10,000"):
            member.read()
    for member in walk_archive(path):
        member.size = 5  # as if its header said so
        with pytest.raises(RadiographError, match=r"a file that grows beyond 10,000 bytes in its archive"):
            member.read()


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_a_bomb_is_known_by_how_well_it_is_packed(tmp_path, monkeypatch, name):
    path = pack(tmp_path / name, {"a.png": bytes(1_000_000)})
    monkeypatch.setattr(archives, "MAX_MEMBER_OF_SMALL", 10_000)
    for member in walk_archive(path):
        with pytest.raises(RadiographError, match=r"a file of 1,000,000 bytes packed into [\d,]+; no radiograph packs"):
            member.read()
    for member in walk_archive(path):
        member.size = 5
        with pytest.raises(RadiographError, match=r"a file that grows beyond [\d,]+ bytes in its archive"):
            member.read()
    film = np.random.default_rng(0).bytes(1_000_000)
    for member in walk_archive(pack(tmp_path / f"film-{name}", {"a.png": film})):
        assert member.read() == film


def test_a_zip_that_states_too_small_a_size_is_damaged(tmp_path):
    path = pack(tmp_path / "a.zip", {"a.png": bytes(1_000_000)})
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 1_000_000), struct.pack("<I", 10)))
    (member,) = walk_archive(path)
    with pytest.raises(RadiographError, match=r"damaged in its archive: Bad CRC-32 for file 'a.png'"):
        member.read()


def test_a_zip_of_bzip2_unpacks_in_small_steps(tmp_path, monkeypatch):
    """The module unpacks all that it is given at once: 4 kB of a bomb are 80 MB, 1 MB would be 20 GB."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.png", bytes(50_000_000))
    asked: list[int] = []
    read = zipfile._SharedFile.read
    monkeypatch.setattr(zipfile._SharedFile, "read", lambda self, n=-1: asked.append(n) or read(self, n))
    monkeypatch.setattr(archives, "MAX_MEMBER", 50_000_000)
    (member,) = walk_archive(path)
    assert len(member.read()) == 50_000_000
    assert max(asked) <= 4096


def test_encrypted_members_are_said(tmp_path):
    path = pack(tmp_path / "a.zip", {"a.png": b"a", "IM0001": DICOM, "t.csv": b"x"})
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.find(mark)
        while start >= 0:
            data[start + at] |= 1
            start = data.find(mark, start + 4)
    path.write_bytes(data)
    # What has no suffix may be a film: somebody must say why it was not read.
    members = list(walk_archive(path))
    assert [member.name for member in members] == ["a.png", "IM0001"]
    for member in members:
        with pytest.raises(RadiographError, match=r"encrypted in its archive; unpack the archive with its password"):
            member.read()


def test_links_and_large_zips(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "images/a.png")
        with archive.open("a.png", "w", force_zip64=True) as file:
            file.write(b"film")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive.writestr("a.png", b"second")
        archive.writestr("../../b.png", b"b")
    found = [(member.name, member.read()) for member in walk_archive(path)]
    assert found == [("a.png", b"film"), ("a.png", b"second"), ("../../b.png", b"b")]
    assert not (tmp_path.parent / "b.png").exists()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("link.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    assert list(walk_archive(tmp_path / "a.tar")) == []


@pytest.mark.parametrize("name", ALL)
def test_archives_that_are_none(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"<html>Sign in</html>")
    with pytest.raises(BROKEN_ARCHIVE):
        list(walk_archive(path))
    said: list[str] = []
    assert list_archive(path, said.append) == ()
    assert said[0].startswith(f"{path} breaks off: ")


@pytest.mark.parametrize(("name", "kind"), [("a.zip", ".tar"), ("a.tar.gz", ".zip"), ("a.tar", ".zip")])
def test_archives_under_the_name_of_another_kind(tmp_path, name, kind):
    path = pack(tmp_path / f"right{kind}", FILES).rename(tmp_path / name)
    said: list[str] = []
    assert list_archive(path, said.append) == ()
    assert said == [f"{path} breaks off: it is a {kind} archive; name it so"]


@pytest.mark.parametrize(
    ("name", "head", "film"),
    [
        *(("a.PNG", b"", True), ("a.DICOM", b"", True), ("a.ima", b"", True), ("._a.png", b"", False)),
        *(("IM1", DICOM, True), ("IM1", BARE, True), ("IM1", b"\x08\0\0\0\x04\0\0\0", True), ("IM1", b"text", False)),
        *(("a.bin", DICOM, True), ("a.bin", BARE, False), ("1.2.3", BARE, True), ("dicomdir", DICOM, False)),
        *(("IM1", b"\x08\0\0\0\x0a\0\0\0", False), ("IM1", b"", False), ("a.csv", b"x,y", False)),
    ],
)
def test_what_a_film_is(name, head, film):
    assert is_film(name, lambda: head[:132]) is film


def test_what_cannot_be_looked_into():
    def closed() -> bytes:
        raise PermissionError

    assert is_film("IM0001", closed), "it gets a row that says why"
    assert not is_film("notes.txt", closed)
