"""Limits, uploads, the batcher and the decoders, each by itself."""

import asyncio
import json
import os
import signal

import numpy as np
import pytest

from agcxr.inference.predictor import Predictor
from agcxr.inference.reading import ReadFilm
from agcxr.serve.batcher import Batcher
from agcxr.serve.decoder import Decoders, Unreadable
from agcxr.serve.limits import Authority, Limits, Origin, PublicUrl, check_exposure
from agcxr.serve.upload import shown_name
from agcxr.tokens import is_local

from . import make

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.1"])
def test_this_machine_needs_no_token(host):
    check_exposure(host, None, False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_elsewhere_needs_a_token_or_a_word(host):
    with pytest.raises(ValueError, match="AGCXR_TOKEN"):
        check_exposure(host, None, False)
    check_exposure(host, TOKEN, False)
    check_exposure(host, None, True)


@pytest.mark.parametrize(
    "token", ["short", "with spaces in it, long", "ümlaut-ümlaut-ümlaut", "tab\ttab\ttab\ttab\ttab"]
)
def test_weak_tokens(token):
    with pytest.raises(ValueError, match="at least 16 printable"):
        check_exposure("127.0.0.1", token, False)


def test_limits_must_make_sense():
    with pytest.raises(ValueError, match="the limit queue is 0"):
        Limits(queue=0)
    with pytest.raises(ValueError, match="a request may hold 16 films and the queue 8"):
        Limits(queue=8)
    assert Limits().wait <= 0.02


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost:80", "localhost"),
        ("LOCALHOST", "localhost"),
        ("[::1]:8000", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
    ],
)
def test_the_name_in_a_host_header(header, name):
    authority = Authority.parse(header)
    assert authority is not None
    assert authority.name == name
    assert is_local(name)


@pytest.mark.parametrize(
    "header",
    [
        "localhost:80@evil", "evil@localhost", "localhost:80:80", "localhost/", "localhost evil", "localhost,evil",
        "[::1", "::1]", "[::1]x", "localhost:x", "localhost:65536", "localhost:-1", "localhost:80#", "localhost?", "",
        ":80", "é",
    ],
)  # fmt: skip
def test_a_host_header_that_is_more_or_less_than_a_host_names_nobody(header):
    assert Authority.parse(header) is None


def test_origins_are_compared_by_scheme_name_and_port():
    assert Origin.parse("https://Xray.example") == Origin("https", "xray.example", 443)
    assert Origin.parse("http://[::1]:8000") == Origin("http", "::1", 8000)
    for text in ("http://[", "null", "", "file://", "ftp://localhost", "http://a@localhost", "http://localhost/x"):
        assert Origin.parse(text) is None, text


@pytest.mark.parametrize(
    ("text", "url", "path"),
    [
        ("https://xray.example", "https://xray.example", ""),
        ("https://xray.example:443/", "https://xray.example", ""),
        ("http://Xray.example:8080/reading/room/", "http://xray.example:8080/reading/room", "/reading/room"),
        ("https://[2001:db8::1]/x", "https://[2001:db8::1]/x", "/x"),
    ],
)
def test_a_public_url(text, url, path):
    public = PublicUrl.parse(text)
    assert (public.url, public.path) == (url, path)


@pytest.mark.parametrize(
    "text",
    ["xray.example", "ftp://xray.example", "https://", "https://a@b", "https://a/?b", "https://a/#b", "https://a/../b",
     "https://a//b", "https://[", "https://a/b c", "https://a:99999"],
)  # fmt: skip
def test_a_public_url_that_will_not_do(text):
    with pytest.raises(ValueError, match="the public URL is .*; expected the address that readers type, such as"):
        PublicUrl.parse(text)


def test_behind_a_proxy_others_can_reach_it():
    public = PublicUrl("https", Authority("xray.example", None), "/x")
    with pytest.raises(ValueError, match="behind https://xray.example/x everyone who reaches the proxy could use"):
        check_exposure("127.0.0.1", None, False, public)
    check_exposure("127.0.0.1", None, True, public)
    check_exposure("127.0.0.1", "t" * 16, False, public)
    check_exposure("127.0.0.1", None, False, PublicUrl.parse("https://localhost:8443"))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a.png", "a.png"),
        ("C:\\films\\b.dcm", "b.dcm"),
        ("../../etc/passwd", "passwd"),
        ("a\x00\x1b[2J.png", "a??[2J.png"),
        ("", "film"),
        ("x" * 999, "x" * 200),
    ],
)
def test_shown_name(given, shown):
    assert shown_name(given) == shown


def test_films_that_come_together_are_answered_together():
    sizes = []

    async def go():
        batcher = Batcher(
            lambda items: [2 * one for one in items], size=4, wait=0.2, observe=lambda n, s: sizes.append(n)
        )
        batcher.start()
        answers = await asyncio.gather(*(batcher.submit(i) for i in range(10)))
        await batcher.close()
        return answers

    assert asyncio.run(go()) == [2 * i for i in range(10)]
    assert sizes == [4, 4, 2]


def test_a_failure_reaches_those_who_wait_and_nobody_else():
    def run(items):
        if "bad" in items:
            raise RuntimeError("broken")
        return items

    async def go():
        batcher = Batcher(run, size=1, wait=0.001)
        batcher.start()
        first = await asyncio.gather(batcher.submit("bad"), return_exceptions=True)
        second = await batcher.submit("good")
        assert batcher.alive
        await batcher.close()
        return first[0], second

    failure, answer = asyncio.run(go())
    assert isinstance(failure, RuntimeError)
    assert answer == "good"


def test_who_leaves_is_not_computed():
    seen = []

    async def go():
        batcher = Batcher(lambda items: seen.extend(items) or items, size=8, wait=0.1)
        batcher.start()
        leaving = asyncio.ensure_future(batcher.submit("gone"))
        await asyncio.sleep(0)
        leaving.cancel()
        await batcher.submit("here")
        await batcher.close()

    asyncio.run(go())
    assert seen == ["here"]


def decoded(*jobs, limits=None, between=None):
    async def go():
        restarts = []
        decoders = Decoders(64, limits or Limits(decoders=1), on_restart=lambda: restarts.append(1))
        try:
            await decoders.start()
            answers = []
            for job in jobs:
                answers.append(await decoders.read(job, png=True, shown=50))
                if between:
                    between(decoders)
            return answers, len(restarts)
        finally:
            decoders.close()

    return asyncio.run(go())


def test_a_decoder_reads():
    image = make.pixels(120, 90, dtype=np.uint16)
    (film, bad), restarts = decoded(make.encode(image), b"nothing")
    assert isinstance(film, ReadFilm)
    assert (film.width, film.height, film.bits, film.format) == (90, 120, 16, "png")
    assert film.image_SS.shape == (64, 64)
    assert film.film_HW.shape == (50, 38)
    assert isinstance(bad, Unreadable)
    assert restarts == 0


def test_a_decoder_that_dies_takes_one_film_with_it():
    data = make.encode(make.pixels())
    killed = []

    def kill_once(decoders):
        if not killed:
            killed.append(decoders._workers[0]._process.pid)
            os.kill(killed[0], signal.SIGSEGV)
            decoders._workers[0]._process.wait()
            decoders._workers[0]._process.poll = lambda: None  # as if it had died a moment later

    (first, second, third), restarts = decoded(data, data, data, between=kill_once)
    assert isinstance(first, ReadFilm)
    assert second == Unreadable("it made the decoder crash, so the file is damaged")
    assert isinstance(third, ReadFilm)
    assert restarts == 1


def test_a_decoder_that_takes_too_long_is_killed():
    large = make.encode(np.zeros((6000, 6000), np.uint16))
    (answer, after), restarts = decoded(large, b"nothing", limits=Limits(decoders=1, decode=0.02))
    assert answer == Unreadable("decoding it took longer than 0.02 seconds")
    assert isinstance(after, Unreadable)
    assert restarts >= 1


def test_a_jpeg_of_endless_scans_is_not_decoded():
    data = make.encode(make.pixels(), ".jpg")
    (answer,), _ = decoded(data[:-2] + b"\xff\xda" * 100 + b"\xff\xd9")
    assert answer == Unreadable("a JPEG of more than 64 scans")


def test_a_card_whose_views_are_larger_than_its_films_is_refused_at_loading(tmp_path):
    folder = make.save_model(tmp_path / "model")
    card = json.loads((folder / "config.json").read_text())
    card["model"]["image_size"] = 8192
    (folder / "config.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="image_size is 8192 and resize 73; a view is cut from the resized film"):
        Predictor.from_pretrained(folder, device="cpu")
