"""The codes our DICOM objects speak in: standard ones where the meaning is the same, else the private scheme 99AGCXR.

Findings take the code that their set states (`findings.Findings.codes`): of SNOMED CT (SCT) or DICOM (DCM, PS3.16)
where one surely means what the label means, or what the user gave. The rest, and what only this method knows (scores of
branches, thresholds), is 99AGCXR; every report that uses it says so in its Coding Scheme Identification Sequence.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.coding import Code

from agcxr.calibration import Point
from agcxr.findings import Findings, spelling

SCHEME = "99AGCXR"
LONGEST_VALUE = 16
"""Letters of a code value (VR SH)."""


def scheme() -> CodingSchemeIdentificationItem:
    """What a report says about the private scheme."""
    return CodingSchemeIdentificationItem(
        designator=SCHEME, name="agcxr private codes, research use only", responsible_organization="agcxr"
    )


def _private(value: str, meaning: str) -> Code:
    return Code(value, SCHEME, meaning)


OWN_WORDS = {"Pleural_Thickening": _private("PLEURAL_THICK", "Pleural thickening")}
"""Labels whose private code is not made of their name."""


def finding_code(label: str, findings: Findings) -> Code:
    """Code of a label: the one that its findings state, else a private one of its own words. Two labels of a set never
    share one."""
    if code := findings.codes.get(label):
        return Code(code.value, code.scheme, code.meaning)
    if label == findings.none:
        return _private("NO_FINDING", f"None of the {len(findings.names)} findings")
    return OWN_WORDS.get(label) or _private(_value(label), label.replace("_", " ")[:64])


def _value(label: str) -> str:
    """At most 16 capitals, digits and underscores: a name that says no more in them, or else with a digest of it."""
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
    value = re.sub(r"[^A-Z0-9]+", "_", plain.upper()).strip("_")
    if len(value) <= LONGEST_VALUE and spelling(value) == spelling(label) and value not in METHOD:
        return value
    digest = hashlib.sha256(label.encode()).hexdigest()[:4].upper()
    return f"{value[: LONGEST_VALUE - 5].strip('_')}_{digest}"


CHEST_FILM = Code("399208008", "SCT", "Plain X-ray of chest")
REPORT = Code("126000", "DCM", "Imaging Measurement Report")
REGION = Code("111099", "DCM", "Selected region")
REGION_CATEGORY = Code("309825002", "SCT", "Spatial and Relational Concept")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
ALGORITHM_FAMILY = Code("123110", "DCM", "Artificial Intelligence")
DEVICE = Code("121007", "DCM", "Device")
COMMENT = Code("121106", "DCM", "Comment")
SALIENCY = Code("130404", "DCM", "Saliency")
OF_INTEREST = Code("113000", "DCM", "Of Interest")
NO_UNITS = Code("1", "UCUM", "no units")

SCORE = _private("SCORE_FUSION", "Score of the fusion branch, uncalibrated")
SCORE_GLOBAL = _private("SCORE_GLOBAL", "Score of the global branch, uncalibrated")
SCORE_LOCAL = _private("SCORE_LOCAL", "Score of the local branch, uncalibrated")
PROBABILITY = Code("122157", "DCM", "Probability")
"""Calibrated; raw scores are no probabilities."""
THRESHOLD = _private("THRESHOLD", "Operating point: threshold on the fusion score")
SENSITIVITY = _private("SENSITIVITY", "Sensitivity at the operating point on validation films")
SPECIFICITY = _private("SPECIFICITY", "Specificity at the operating point on validation films")

PRESENT = Code("52101004", "SCT", "Present")
ABSENT = Code("272519000", "SCT", "Absent")
UNDETERMINED = Code("373068000", "SCT", "Undetermined")
"""What a report says of a finding (CID 240 "Present-Absent")."""

RESULT_STATUS = _private("RESULT_STATUS", "Status of the result")
NOT_ATTEMPTED = Code("111225", "DCM", "Not Attempted")
"""Of CID 6042 "Result Status": the model did not read the film."""

POINT_KIND = _private("POINT_KIND", "Choice of the operating point")
POINTS: dict[Point, Code] = {
    "youden": _private("YOUDEN", "Largest sum of sensitivity and specificity"),
    "sensitivity95": _private("SENSITIVITY95", "Sensitivity of at least 95 percent"),
    "specificity95": _private("SPECIFICITY95", "Specificity of at least 95 percent"),
}
NOT_FITTED = _private("NOT_FITTED", "No operating point was fitted")
TOO_RARE = _private("TOO_RARE", "Too few validation films to calibrate: raw scores, no call")
CALL = _private("CALL", "Score against the operating point")
AT_OR_ABOVE = _private("AT_OR_ABOVE", "At or above the operating point")
BELOW = _private("BELOW", "Below the operating point")

REGION_KIND = _private("REGION_KIND", "How the region came about")
ATTENDED = _private("ATTENDED", "Largest region of high attention")
ONE_OF_SEVERAL = _private("ONE_OF_SEVERAL", "One of several regions of high attention")
REGION_WEIGHT = _private("REGION_WEIGHT", "Weight of the region in the local branch")
WHOLE_VIEW = _private("WHOLE_VIEW", "No region stood out: the whole view")

METHOD = frozenset(
    code.value
    for name, value in list(globals().items())
    for code in (value.values() if isinstance(value, dict) else (value,))
    if isinstance(code, Code) and code.scheme_designator == SCHEME and name != "OWN_WORDS"
)
"""Values of private codes that are no findings; no finding takes one of them."""
