"""The codes our DICOM objects speak in: standard ones where the meaning is the same, else the private scheme 99AGCXR.

Findings take a code of SNOMED CT (SCT) or DICOM (DCM, PS3.16) where one means what the label of ChestX-ray14 means. The
rest, and what only this method knows (scores of branches, thresholds), is 99AGCXR; every report that uses it says so in
its Coding Scheme Identification Sequence.
"""

from __future__ import annotations

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.coding import Code

from agcxr.calibration import Point
from agcxr.labels import NO_FINDING

SCHEME = "99AGCXR"


def scheme() -> CodingSchemeIdentificationItem:
    """What a report says about the private scheme."""
    return CodingSchemeIdentificationItem(
        designator=SCHEME, name="agcxr private codes, research use only", responsible_organization="agcxr"
    )


def _private(value: str, meaning: str) -> Code:
    return Code(value, SCHEME, meaning)


FINDING_CODES: dict[str, Code] = {
    "Atelectasis": Code("46621007", "SCT", "Atelectasis"),
    "Cardiomegaly": Code("8186001", "SCT", "Cardiomegaly"),
    "Effusion": Code("60046008", "SCT", "Pleural effusion"),
    "Infiltration": Code("112121", "DCM", "Infiltrate"),
    "Mass": Code("4147007", "SCT", "Mass"),
    "Nodule": Code("27925004", "SCT", "Nodule"),
    "Pneumonia": Code("233604007", "SCT", "Pneumonia"),
    "Pneumothorax": Code("36118008", "SCT", "Pneumothorax"),
    "Consolidation": Code("95436008", "SCT", "Lung consolidation"),
    "Edema": Code("19242006", "SCT", "Pulmonary edema"),
    "Emphysema": Code("87433001", "SCT", "Pulmonary emphysema"),
    "Fibrosis": Code("51615001", "SCT", "Fibrosis of lung"),
    "Pleural_Thickening": _private("PLEURAL_THICK", "Pleural thickening"),
    "Hernia": Code("39839004", "SCT", "Diaphragmatic hernia"),
    NO_FINDING: _private("NO_FINDING", "None of the 14 findings"),
}
"""The labels of this project. A label of another model is private, by its own name (`finding_code`)."""


def finding_code(label: str) -> Code:
    """Code of a label; private for a label that is not one of the 15."""
    short = "".join(letter if letter.isalnum() else "_" for letter in label).upper()[:16]
    return FINDING_CODES.get(label) or _private(short, label[:64])


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
WHOLE_VIEW = _private("WHOLE_VIEW", "No region stood out: the whole view")
