"""`agcxr serve`: load a model, open the socket, serve until interrupted."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from agcxr.calibration import Point, Prevalence
from agcxr.inference.load import load_engine
from agcxr.inference.prediction import Precision, ViewSet
from agcxr.intake import judge
from agcxr.notices import RESEARCH_ONLY
from agcxr.serve.app import create_app
from agcxr.serve.connections import protocol
from agcxr.serve.guard import Access
from agcxr.serve.limits import Limits, PublicUrl, check_exposure
from agcxr.tokens import is_local

TOKEN = "AGCXR_TOKEN"


def serve(
    model: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    open_to_all: bool = False,
    public_url: str | None = None,
    limits: Limits | None = None,
    device: str | None = None,
    precision: Precision = "fp32",
    check_films: bool = True,
    verbose: bool = False,
    others: Sequence[str] = (),
    views: ViewSet = "plain",
    point: Point = "youden",
    prevalence: Prevalence | None = None,
    token_file: Path | None = None,
    audit: Path | None = None,
) -> None:
    """Serve a model until SIGINT or SIGTERM.

    Args:
        model: run folder, model folder, hub id, or an exported file (.onnx; served without torch).
        port: 0 takes a free one.
        token: asked of every client; default: the environment variable AGCXR_TOKEN, if set.
        open_to_all: answer beyond this machine without a token.
        public_url: where a proxy before the server shows it, such as https://hospital.example.org/reading-room;
            requests under that name, and from pages of that address, are answered too.
        check_films: refuse what is no frontal chest film before any probability is shown.
        verbose: a line per request on stderr: route, status and seconds, nothing of the film.
        others, views: what to average over; see `load.load_engine`. point, prevalence: as there.
        token_file: more tokens, by name; see `Tokens`. audit: file that gets a line for each film; see `Audit`.

    Raises:
        ValueError: the model, the address, the public URL or the token will not do.
    """
    token = token or os.environ.get(TOKEN) or None
    public = None if public_url is None else PublicUrl.parse(public_url)
    check_exposure(host, token, open_to_all, public, token_file)
    access = Access(token, is_local(host), public, token_file)
    limits = limits or Limits()
    listener = _listen(host, port)  # before the model is loaded: a taken port should not cost seconds
    with listener:
        app = create_app(
            load_engine(model, device, precision, point, prevalence, others=others, views=views),
            limits=limits,
            access=access,
            audit=audit,
            judge=judge if check_films else None,
        )
        _log(verbose)
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}"
        known_as = "" if public is None else f", to readers {public.url}/"
        words = f"agcxr serves {address}{known_as} ({RESEARCH_ONLY})"
        server(app, limits, words).run(sockets=[listener])


class Server(uvicorn.Server):
    """Says where it is once it answers, not before."""

    words = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.words:
            print(self.words, file=sys.stderr, flush=True)


def server(app: ASGIApp, limits: Limits, words: str = "") -> uvicorn.Server:
    """uvicorn, quiet and impatient. `words`: printed when it is up."""
    config = uvicorn.Config(
        app,
        http=protocol(limits),
        ws="none",
        lifespan="on",
        access_log=False,  # it would log addresses and query strings
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=10,
        h11_max_incomplete_event_size=16 * 1024,
        backlog=512,
    )
    made = Server(config)
    made.words = words
    return made


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512
        )
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot listen on {host} port {port}: {reason}; choose another with --port") from error


def _log(verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log = logging.getLogger("agcxr.serve")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO if verbose else logging.WARNING)
