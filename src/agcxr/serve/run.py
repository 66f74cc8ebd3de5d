"""`agcxr serve`: load a model, open the socket, serve until interrupted."""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from agcxr.inference.explain import RESEARCH_ONLY
from agcxr.inference.prediction import Precision
from agcxr.serve.app import create_app
from agcxr.serve.connections import protocol
from agcxr.serve.decode_child import Intake
from agcxr.serve.engine import Engine
from agcxr.serve.guard import Access
from agcxr.serve.limits import Limits, check_exposure, is_local

TOKEN = "AGCXR_TOKEN"


def serve(
    model: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    open_to_all: bool = False,
    limits: Limits | None = None,
    device: str | None = None,
    precision: Precision = "fp32",
    intake: Intake | None = None,
    verbose: bool = False,
) -> None:
    """Serve a model until SIGINT or SIGTERM.

    Args:
        model: run folder, model folder or hub id.
        port: 0 takes a free one.
        token: asked of every client; default: the environment variable AGCXR_TOKEN, if set.
        open_to_all: listen beyond this machine without a token.
        verbose: a line per request on stderr: route, status and seconds, nothing of the film.

    Raises:
        ValueError: the model, the address or the token will not do.
    """
    token = token or os.environ.get(TOKEN) or None
    check_exposure(host, token, open_to_all)
    limits = limits or Limits()
    listener = _listen(host, port)  # before the model is loaded: a taken port should not cost seconds
    with listener:
        from agcxr.inference.predictor import Predictor

        engine = Engine(Predictor.from_pretrained(Path(model), device=device, precision=precision))
        app = create_app(engine, limits=limits, access=Access(token, is_local(host)), intake=intake)
        _log(verbose)
        shown = f"[{host}]" if ":" in host else host
        print(f"agcxr serves http://{shown}:{listener.getsockname()[1]} ({RESEARCH_ONLY})", file=sys.stderr, flush=True)
        server(app, limits).run(sockets=[listener])


def server(app: ASGIApp, limits: Limits) -> uvicorn.Server:
    """uvicorn, quiet and impatient."""
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
    return uvicorn.Server(config)


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
