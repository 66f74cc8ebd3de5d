"""What OpenAPI cannot see in the code: the form of uploads, and examples."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from agcxr.notices import RESEARCH_ONLY
from agcxr.serve.answers import ErrorAnswer
from agcxr.serve.limits import PublicUrl

Responses = dict[int | str, dict[str, Any]]
"""Status -> what OpenAPI is told of it."""

DESCRIPTION = f"""{RESEARCH_ONLY}

Films are PNG (8 or 16 bits), JPEG, WebP or DICOM, sent as form fields with a file name, or one as the whole body:

    curl -F file=@a.png -F file=@b.dcm http://127.0.0.1:8000/v1/predict
    curl --data-binary @a.dcm http://127.0.0.1:8000/v1/predict
    curl --data-binary @a.dcm http://127.0.0.1:8000/v1/dicom -o results.zip

Nothing that is uploaded is stored or logged. Where the server asks for a token, send `Authorization: Bearer TOKEN`.
A status of 503 comes with Retry-After: the queue is full."""


class Described(FastAPI):
    """The app, whose description also says who may ask: the guard before the routes does, which FastAPI cannot see."""

    def __init__(self, public: PublicUrl | None, *, needs_token: bool, **options: Any) -> None:
        super().__init__(**options)
        self._public, self._needs_token = public, needs_token

    def openapi(self) -> dict[str, Any]:
        described = super().openapi()
        words = "The server's token, where it asks for one (AGCXR_TOKEN)."
        schemes = {"token": {"type": "http", "scheme": "bearer", "description": words}}
        described.setdefault("components", {})["securitySchemes"] = schemes
        described["security"] = [{"token": []}] if self._needs_token else [{}, {"token": []}]
        described["paths"]["/health"]["get"]["security"] = []
        # Relative to where the description lies, which a proxy may have put under a path of its own.
        described["servers"] = [{"url": "." if self._public is None else self._public.url}]
        return described


def _error(code: str, message: str) -> dict[str, Any]:
    example = {"error": {"code": code, "message": message}, "research_only": RESEARCH_ONLY}
    return {"model": ErrorAnswer, "description": message, "content": {"application/json": {"example": example}}}


def _errors(description: str, **messages: str) -> dict[str, Any]:
    """Several errors of one status: code=message."""
    examples = {
        code: {"value": {"error": {"code": code, "message": message}, "research_only": RESEARCH_ONLY}}
        for code, message in messages.items()
    }
    return {"model": ErrorAnswer, "description": description, "content": {"application/json": {"examples": examples}}}


ERRORS: Responses = {
    401: _error("token", "send the server's token in the header `Authorization: Bearer ...`"),
    503: _error("busy", "the queue is full; try again shortly"),
}

_RAW = {"schema": {"type": "string", "format": "binary"}}


def _body(many: bool, kinds: tuple[str, ...] = ("image/png", "image/jpeg", "image/webp")) -> dict[str, Any]:
    file = {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"}
    field = {"type": "array", "items": file} if many else file
    form = {"schema": {"type": "object", "required": ["file"], "properties": {"file": field}}}
    whole = ("application/dicom", "application/octet-stream", *kinds)
    content = {"multipart/form-data": form, **dict.fromkeys(whole, _RAW)}
    return {"requestBody": {"required": True, "content": content}}


FILMS = _body(True)
FILM = _body(False)
DICOM = _body(False, kinds=())

VERSION = version("agcxr")
MODEL_VERSION = f"{VERSION}+9c41d07be2a85f36"
UPLOADS: Responses = {
    400: _errors(
        "The body is not in a form that is understood",
        bad_form="the multipart form is broken or was cut off",
        no_film="the request holds no file; send films as form fields named `file`",
        one_film="2 files were sent; this address takes one film a request",
    ),
    408: _error("too_slow", "the upload did not arrive within 30 seconds"),
    413: _errors(
        "More than the server takes",
        too_large="a film is larger than the 64 MiB allowed",
        too_many="a request may hold at most 16 films",
    ),
}
"""What every address that takes films may answer."""

_UNREADABLE_WORDS = "not a PNG, JPEG, WebP or DICOM file: it looks like text"

PNG: Responses = {
    **UPLOADS,
    200: {"description": "A PNG", "content": {"image/png": _RAW}},
    422: _error("unreadable", _UNREADABLE_WORDS),
}

PICTURE: Responses = {
    **PNG,
    422: _errors("No picture can be made of this file", refused="it lies on its side", unreadable=_UNREADABLE_WORDS),
}

ZIP: Responses = {
    **UPLOADS,
    200: {
        "description": "A .zip with sr.dcm, sc.dcm and seg.dcm",
        "content": {"application/zip": _RAW},
        "headers": {
            "Content-Disposition": {"schema": {"type": "string"}, "example": 'attachment; filename="agcxr-dicom.zip"'}
        },
    },
    422: _errors(
        "No DICOM results can be made of this file",
        no_study="not a DICOM film, so there is no study to put DICOM results in",
        refused="it lies on its side",
        unreadable=_UNREADABLE_WORDS,
    ),
    501: _error(
        "no_extra", "this server makes no DICOM results: it lacks the extra `dicom` (pip install 'agcxr[dicom]')"
    ),
}

MAP: Responses = {
    **UPLOADS,
    200: {
        "description": "The map as a PNG over the whole film",
        "content": {
            "application/json": {
                "example": {
                    "research_only": RESEARCH_ONLY,
                    "finding": "Effusion",
                    "branch": "fusion",
                    "empty": False,
                    "heat": "iVBORw0KGgo...",
                }
            }
        },
    },
    422: _errors(
        "The film or the question will not do",
        unknown_finding="this model does not know that finding; it knows Atelectasis, Cardiomegaly ...",
        refused="it lies on its side",
        unreadable=_UNREADABLE_WORDS,
    ),
    501: _error("no_maps", "an exported file has no maps of single findings; serve the run itself"),
}

_POINTS = {
    "youden": {"threshold": 0.31, "calibrated": 0.17, "above": True},
    "sensitivity95": {"threshold": 0.12, "calibrated": 0.06, "above": True},
    "specificity95": {"threshold": 0.74, "calibrated": 0.55, "above": False},
}
_READ = {
    "index": 0,
    "name": "a.png",
    "status": "read",
    "reason": None,
    "film": {"width": 2500, "height": 2048, "bits": 16, "format": "png", "view_position": None, "notes": []},
    "intake": {"decision": "accept", "reasons": []},
    "findings": [
        {
            "finding": "Effusion",
            "fusion": 0.62,
            "global": 0.55,
            "local": 0.58,
            "calibrated": 0.41,
            "operating_points": _POINTS,
            "uncalibrated": None,
        },
        {
            "finding": "Hernia",
            "fusion": 0.03,
            "global": 0.04,
            "local": 0.02,
            "calibrated": None,
            "operating_points": {},
            "uncalibrated": "too few validation films to calibrate (3 with it; 10 are needed), so raw scores only and "
            "no call",
        },
    ],
    "attention": {
        "box": [1412.0, 980.5, 2103.0, 1771.0],
        "window": [156.2, 128.0, 2343.8, 1920.0],
        "fallback": False,
        "boxes": None,
    },
    "dicom": {"available": False, "reason": "not a DICOM film, so there is no study to put DICOM results in"},
    "pictures": None,
}
_UNREADABLE = {
    "index": 1,
    "name": "notes.txt",
    "status": "unreadable",
    "reason": _UNREADABLE_WORDS,
    "film": None,
    "intake": None,
    "findings": None,
    "attention": None,
    "dicom": None,
    "pictures": None,
}


def _answer(films: list[dict[str, Any]], error: dict[str, str] | None) -> dict[str, Any]:
    about = {"research_only": RESEARCH_ONLY, "version": VERSION, "model": MODEL_VERSION}
    return {**about, "films": films, "error": error}


PREDICT: Responses = {
    **UPLOADS,
    200: {
        "description": "An answer for each film, in order",
        "content": {"application/json": {"example": _answer([_READ, _UNREADABLE], None)}},
    },
    422: {
        "description": "No film could be read; or a parameter is impossible",
        "content": {
            "application/json": {
                "example": _answer([_UNREADABLE | {"index": 0}], {"code": "unreadable", "message": _UNREADABLE_WORDS})
            }
        },
    },
}


def _example(value: Any, description: str = "Successful Response") -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": value}}}


MODEL: Responses = {
    200: _example(
        {
            "research_only": RESEARCH_ONLY,
            "version": VERSION,
            "model": MODEL_VERSION,
            "backbone": "resnet50",
            "image_size": 224,
            "prepared_size": 256,
            "attention": {"statistic": "max", "normalise": "minmax", "threshold": 0.7, "min_side": 16},
            "maps": True,
            "dicom": True,
            "device": "cpu",
            "precision": "fp32",
            "calibration": "platt",
            "intake": True,
            "labels": [
                {
                    "label": "Effusion",
                    "calibrated": True,
                    "prevalence": 0.12,
                    "operating_points": {"youden": {"threshold": 0.31, "sensitivity": 0.83, "specificity": 0.79}},
                },
                {"label": "Hernia", "calibrated": False, "prevalence": 0.002, "operating_points": {}},
            ],
            "metrics": {"auroc_fusion": 0.81},
            "limits": {"file_bytes": 67108864, "request_bytes": 268435456, "files": 16, "pixels": 4e7, "seconds": 60},
        },
        "The model and the server's limits",
    )
}
EXAMPLES: Responses = {
    200: _example([{"id": "effusion", "title": "Effusion", "findings": ["Effusion"]}], "Films to try")
}
EXAMPLE: Responses = {
    200: {"description": "A PNG", "content": {"image/png": _RAW}},
    404: _error("not_found", "there is no such example"),
}
HEALTH: Responses = {
    200: _example({"status": "ok", "research_only": RESEARCH_ONLY}, "Films are being answered"),
    503: _example({"status": "failing", "research_only": RESEARCH_ONLY}, "They are not"),
}
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METRICS: Responses = {
    200: {
        "description": "Prometheus' text format",
        "content": {
            METRICS_TYPE: {
                "schema": {"type": "string"},
                "example": 'agcxr_requests_total{route="/v1/predict",status="200"} 12.0\n',
            }
        },
    }
}
