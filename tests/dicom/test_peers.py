from __future__ import annotations

import pytest

from agcxr.dicom.peers import Caller, Peer, check_title, parse_caller, parse_peer


def test_addresses():
    assert parse_peer("ORTHANC@127.0.0.1:4242") == Peer("ORTHANC", "127.0.0.1", 4242)
    assert parse_peer("PACS 1@[::1]:104") == Peer("PACS 1", "::1", 104)
    assert str(parse_peer("ORTHANC@archive:4242")) == "ORTHANC@archive:4242"
    assert parse_caller("XRAY") == Caller("XRAY")
    assert parse_caller("XRAY@10.0.0.5") == Caller("XRAY", "10.0.0.5")


@pytest.mark.parametrize("text", ["", "ORTHANC", "ORTHANC@host", "@h:1", "A@h:0", "A@h:70000", "A@:1", "A@h:x"])
def test_no_address(text):
    with pytest.raises(ValueError, match=r"expected TITLE@host:port|no AE title"):
        parse_peer(text)


@pytest.mark.parametrize("title", ["", " A", "A ", "A\\B", "Ä", "A" * 17, "A\n"])
def test_no_title(title):
    with pytest.raises(ValueError, match="is no AE title; expected 1 to 16"):
        check_title(title)


def test_no_caller():
    with pytest.raises(ValueError, match="names no host"):
        parse_caller("A@")
