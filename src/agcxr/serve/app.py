"""The routes. Each is thin: receive, ask the service, answer."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from agcxr.findings import LONGEST
from agcxr.inference.engine import Engine
from agcxr.inference.prediction import Branch
from agcxr.inference.reading import Judge
from agcxr.notices import RESEARCH_ONLY
from agcxr.serve import openapi
from agcxr.serve.answers import (
    ErrorAnswer,
    ExampleAnswer,
    MapAnswer,
    Mistake,
    ModelAnswer,
    PredictAnswer,
    model_answer,
)
from agcxr.serve.audit import Audit
from agcxr.serve.examples import EXAMPLES
from agcxr.serve.guard import FILMS, INTERNAL, Access, Guard
from agcxr.serve.held import LEASE
from agcxr.serve.limits import Limits
from agcxr.serve.measures import Measures
from agcxr.serve.problem import Problem
from agcxr.serve.service import Service
from agcxr.serve.upload import Upload, receive_films

T = TypeVar("T")
ROUTES = (
    "/v1/predict",
    "/v1/film",
    "/v1/map",
    "/v1/picture",
    "/v1/dicom",
    "/v1/model",
    "/v1/examples",
    "/health",
    "/metrics",
)
router = APIRouter()


def create_app(
    engine: Engine,
    *,
    limits: Limits | None = None,
    access: Access | None = None,
    judge: Judge | None = None,
    audit: Path | None = None,
) -> ASGIApp:
    """The whole server as an ASGI app; decoders and threads start with its lifespan.

    Args:
        judge: looks at each film before the network does, such as `agcxr.intake.judge`; default: nobody.
        audit: file that gets a line for each film; see `Audit`.
    """
    limits, measures = limits or Limits(), Measures()
    service = Service(engine, limits, measures, judge)
    log = None if audit is None else Audit(audit, engine.algorithm.version)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield
        if log is not None:
            log.close()

    access = access or Access()
    app = openapi.Described(
        access.public,
        needs_token=access.token is not None or access.token_file is not None,
        title="agcxr",
        version=version("agcxr"),
        summary="Attention-guided classification of chest X-rays",
        description=openapi.DESCRIPTION,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        responses=openapi.ERRORS,
    )
    app.state.service = service
    app.state.static = load_static()
    app.include_router(router)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_query)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _internal)
    return Guard(app, access, measures, service.held, route_of, log)


def route_of(path: str) -> str:
    """One of a few names for any path, so that what a client asks for never reaches logs or counters."""
    known = next((route for route in ROUTES if path == route or path.startswith(f"{route}/")), None)
    return known or ("page" if path == "/" or path.startswith("/static/") else "other")


@router.post(
    "/v1/predict", response_model=PredictAnswer, responses=openapi.PREDICT, openapi_extra=openapi.FILMS, tags=["films"]
)
async def predict(request: Request, pictures: bool = False, identity: bool = False) -> JSONResponse:
    """Probabilities, the attended box and the three branches for one or several films.

    Files are answered in their order; one that cannot be read or is refused says why in its place. The status is 422
    where none could be read. `pictures=true` adds the attention, the crop and a thumbnail as PNGs;
    `identity=true` whose film a DICOM film is.
    """
    service, films = await _receive(request)
    answers = await _unless_gone(request, service.predict(films, pictures=pictures, identity=identity))
    unreadable = all(one.status == "unreadable" for one in answers)
    error = Mistake(code="unreadable", message=answers[0].reason or "") if unreadable else None
    answer = PredictAnswer(model=service.engine.algorithm.version, films=tuple(answers), error=error)
    return JSONResponse(answer.model_dump(mode="json", by_alias=True), 422 if unreadable else 200)


@router.post("/v1/film", responses=openapi.PNG, response_class=Response, openapi_extra=openapi.FILM, tags=["films"])
async def film(request: Request) -> Response:
    """The film as the model's reader decoded it (windowed, bright = dense), at full depth: an 8- or 16-bit PNG."""
    service, films = await _receive(request, one=True)
    return _png(request, await _unless_gone(request, service.film(films[0])))


@router.post("/v1/map", responses=openapi.MAP, openapi_extra=openapi.FILM, tags=["films"])
async def finding_map(
    request: Request, finding: Annotated[str, Query(max_length=LONGEST)], branch: Branch = "fusion"
) -> MapAnswer:
    """Where one finding is read on a film: Grad-CAM of one branch."""
    service, films = await _receive(request, one=True)
    return await _unless_gone(request, service.map(films[0], finding, branch))


@router.post(
    "/v1/picture", responses=openapi.PICTURE, response_class=Response, openapi_extra=openapi.FILM, tags=["films"]
)
async def explained(request: Request) -> Response:
    """The explained film: original, attention, crop and findings in one PNG."""
    service, films = await _receive(request, one=True)
    return _png(request, await _unless_gone(request, service.picture(films[0])))


@router.post("/v1/dicom", responses=openapi.ZIP, response_class=Response, openapi_extra=openapi.DICOM, tags=["films"])
async def dicom(request: Request) -> Response:
    """DICOM results of one DICOM film (CR, DX, Secondary Capture), in its own study: a .zip with `sr.dcm` (Structured
    Report, TID 1500), `sc.dcm` (the explained picture) and `seg.dcm` (the attended region).

    They are those that `agcxr predict --dicom` writes; made in memory, kept nowhere. The same film and model give the
    same UIDs.
    """
    service, films = await _receive(request, one=True)
    data = await _unless_gone(request, service.dicom(films[0]))
    return _file(request, data, "application/zip", name="agcxr-dicom.zip")


@router.get("/v1/model", responses=openapi.MODEL, tags=["server"])
async def model(request: Request) -> ModelAnswer:
    """What model this is: labels, operating points, versions; and the server's limits."""
    service = _service(request)
    return model_answer(service.engine, service.limits, intake=service.has_intake, dicom=service.has_dicom)


@router.get("/v1/examples", responses=openapi.EXAMPLES, tags=["server"])
async def examples() -> list[ExampleAnswer]:
    """Synthetic films to try."""
    return [ExampleAnswer(id=one.id, title=one.title, findings=one.findings) for one in EXAMPLES]


@router.get("/v1/examples/{name}", responses=openapi.EXAMPLE, response_class=Response, tags=["server"])
async def example(request: Request, name: str) -> Response:
    """One of them, as a PNG."""
    return _png(request, await _service(request).example(name))


@router.get("/health", responses=openapi.HEALTH, tags=["server"])
async def health(request: Request) -> JSONResponse:
    """Status 200 while films are being answered, else 503."""
    alive = _service(request).batcher.alive
    content = {"status": "ok" if alive else "failing", "research_only": RESEARCH_ONLY}
    return JSONResponse(content, 200 if alive else 503)


@router.get("/metrics", responses=openapi.METRICS, response_class=Response, tags=["server"])
async def metrics(request: Request) -> Response:
    """Counters and histograms in Prometheus' text format."""
    return Response(_service(request).measures.text(), media_type=openapi.METRICS_TYPE)


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    return _static(request, "index.html")


@router.get("/static/{name}", include_in_schema=False)
async def static(request: Request, name: str) -> Response:
    return _static(request, name)


# --- helpers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StaticFile:
    data: bytes
    media_type: str


def load_static() -> dict[str, StaticFile]:
    """The page's files, in memory: requests never name a path on disk."""
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
    found = {}
    for file in (resources.files("agcxr.serve") / "static").iterdir():
        suffix = f".{file.name.rpartition('.')[2]}"
        kind = kinds.get(suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        found[file.name] = StaticFile(file.read_bytes(), kind)
    return found


def _static(request: Request, name: str) -> Response:
    file = request.app.state.static.get(name)
    if file is None:
        raise Problem(404, "not_found", "there is no such file")
    return Response(file.data, media_type=file.media_type, headers={"cache-control": "no-cache"})


def _service(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


async def _receive(request: Request, *, one: bool = False) -> tuple[Service, list[Upload]]:
    service = _service(request)
    films = await receive_films(request, service.limits, request.scope[LEASE].add)
    request.scope[FILMS].extend(films)
    if one and len(films) != 1:
        raise Problem(400, "one_film", f"{len(films)} files were sent; this address takes one film a request")
    return service, films


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()


def _png(request: Request, data: bytes) -> Response:
    return _file(request, data, "image/png")


def _file(request: Request, data: bytes, media_type: str, name: str | None = None) -> Response:
    """`name`: for a client that saves it. Never the film's, which may name a patient."""
    request.scope[LEASE].owe(len(data))
    headers = {} if name is None else {"content-disposition": f'attachment; filename="{name}"'}
    return Response(data, media_type=media_type, headers=headers)


async def _http_error(_: Request, error: Any) -> JSONResponse:
    words = {404: "there is nothing at this address", 405: "this address does not answer that method"}
    message = words.get(error.status_code, "the request cannot be answered")
    answer = _error(Problem(error.status_code, "not_found" if error.status_code == 404 else "bad_request", message))
    if allowed := (error.headers or {}).get("Allow"):
        answer.headers["Allow"] = allowed.replace("GET", "GET, HEAD")  # what GET answers, HEAD does (see Guard)
    return answer


async def _bad_query(_: Request, error: Any) -> JSONResponse:
    places = sorted({str(one["loc"][-1]) for one in error.errors() if one["loc"]} & {"pictures", "finding", "branch"})
    return _error(Problem(422, "bad_query", f"missing or impossible value of {', '.join(places) or 'a parameter'}"))


async def _problem(_: Request, error: Any) -> JSONResponse:
    return _error(error)


async def _gone(_: Request, __: Any) -> Response:
    return Response(status_code=499)


async def _internal(_: Request, __: Any) -> JSONResponse:
    return _error(INTERNAL)


def _error(problem: Problem) -> JSONResponse:
    answer = ErrorAnswer(error=Mistake(code=problem.code, message=problem.message))
    headers = {} if problem.retry_after is None else {"retry-after": str(problem.retry_after)}
    return JSONResponse(answer.model_dump(mode="json"), problem.status, headers)
