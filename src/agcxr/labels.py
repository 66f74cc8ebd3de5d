"""The findings: their names, their order, and the names other people write them by.

The order is that of the ChestX-ray14 paper (arXiv:1705.02315), then "No Finding". It is the order of every
label vector, logit and probability in this project. Imports nothing.
"""

FINDINGS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""The 14 findings. Means over "the findings" are means over these (NIH convention; No Finding is left out)."""

LOCALISED: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Mass",
    "Nodule",
    "Pneumothorax",
    "Hernia",
)
"""Findings whose sign usually lies in one place of the film; the other seven spread over a lung or more. A grouping of
ours: radiographs do not always keep to it."""

NO_FINDING = "No Finding"

LABELS: tuple[str, ...] = (*FINDINGS, NO_FINDING)
"""All 15 outputs, in order."""

SHORT: dict[str, str] = dict(
    zip(
        LABELS,
        (
            "Atel",
            "Card",
            "Effu",
            "Infi",
            "Mass",
            "Nodu",
            "Pneu",
            "PTx",
            "Cons",
            "Edem",
            "Emph",
            "Fibr",
            "PlTh",
            "Hern",
            "None",
        ),
        strict=True,
    )
)
"""A name of at most four letters for tight tables and plots."""

ALIASES: dict[str, str] = {
    "infiltrate": "Infiltration",
    "pleural effusion": "Effusion",
    "enlarged heart": "Cardiomegaly",
    "lung mass": "Mass",
    "hiatal hernia": "Hernia",
    "hiatus hernia": "Hernia",
    "oedema": "Edema",
    "pulmonary edema": "Edema",
    "no findings": "No Finding",
    "normal": "No Finding",
}
"""Lower-case spellings used by other data sets and by the NIH box file ("Infiltrate")."""


def canonical(name: str) -> str | None:
    """The project's name of a finding however it is written (case, spaces, hyphens, underscores, aliases); None if
    unknown."""
    return _KNOWN.get(spelling(name))


def spelling(name: str) -> str:
    """What two spellings of a name share: its letters without case, spaces, hyphens and underscores."""
    return "".join(name.casefold().replace("_", " ").replace("-", " ").split())


_KNOWN = {spelling(name): label for name, label in (*ALIASES.items(), *((label, label) for label in LABELS))}


def index(name: str) -> int:
    """Position of a finding in LABELS. Raises ValueError for a name that is not one of them."""
    label = canonical(name)
    if label is None:
        raise ValueError(f"unknown finding {name!r}; expected one of {', '.join(LABELS)}")
    return LABELS.index(label)
