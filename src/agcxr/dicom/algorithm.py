"""How DICOM objects name the algorithm, and the UIDs that follow from its identity.

UIDs are derived, not drawn: the same film under the same model gives the same UIDs, so whatever is made or sent twice
is the same object to an archive.
"""

from __future__ import annotations

import uuid

from agcxr import notices
from agcxr.inference.identity import MODEL_NAME as MODEL_NAME
from agcxr.inference.identity import NAME as NAME
from agcxr.inference.identity import Algorithm as Algorithm

RESEARCH_ONLY = f"{notices.RESEARCH_ONLY} Preliminary, unverified output of an algorithm."

_NAMESPACE = uuid.UUID("6f0c9c4e-2f9e-5d0a-9b61-4f1c3a8f1d27")


def uuid_of(*parts: str) -> uuid.UUID:
    """A name-based UUID: a function of `parts`."""
    return uuid.uuid5(_NAMESPACE, chr(10).join(parts))


def derived_uid(*parts: str) -> str:
    """A UID that is a function of `parts` (PS3.5 B.2: "2.25." and a UUID, here a name-based one)."""
    return f"2.25.{uuid_of(*parts).int}"
