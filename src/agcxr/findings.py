"""What a model answers for: an ordered, named set of findings; the fifteen outputs of ChestX-ray14 are the default.

A prepared folder's plan and a checkpoint's card carry their set; everything between a table and a DICOM report reads
names, means and codes from it. Light: no arrays, no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from agcxr import labels as chestxray14
from agcxr.labels import spelling as spelling
from agcxr.values import Frozen

LONGEST = 100
"""Letters of a name: it heads columns, rows of pictures and groups of reports."""
MOST = 1000
"""Labels of a set."""
LARGEST_FILE = 2**20
"""Bytes of a findings file."""


Words = Annotated[str, Field(pattern=r"^[^\\\x00-\x1f]+$")]
"""DICOM keeps the backslash for itself."""


class Code(Frozen):
    """What a finding is called in a coding scheme, as DICOM writes it: SCT (SNOMED CT), DCM, RADLEX, or one that begins
    with 99 (private)."""

    scheme: Annotated[Words, Field(max_length=16)]
    value: Annotated[Words, Field(max_length=16)]
    meaning: Annotated[Words, Field(max_length=64)]


class Findings(Frozen):
    """An ordered set of labels and what is known of them. Every vector of labels, logits or probabilities follows
    `labels`.

    Raises ValueError (pydantic's) for names that are empty, too long, or the same but for case, spaces, hyphens and
    underscores, and for anything stated of a name that is none of the labels.
    """

    name: Annotated[str, Field(min_length=1, max_length=LONGEST)] = "own"
    """Of the set, such as ChestX-ray14."""
    labels: Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST)]
    """All outputs, in order; with `none` where there is one."""
    none: str | None = None
    """The label that says that there is none of the findings. It is in no mean and comes last in lists."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """Other spellings, in any case -> label."""
    short: dict[str, str] = Field(default_factory=dict)
    """Names of at most four letters for tight tables; see `short_name`."""
    localised: tuple[str, ...] = ()
    """Findings whose sign usually lies in one place of the film."""
    diffuse: tuple[str, ...] = ()
    """Findings that usually spread over a lung or more. What is in neither is not known."""
    codes: dict[str, Code] = Field(default_factory=dict)
    """Label -> its code in DICOM objects; a label without one is private there, by its own name."""

    @model_validator(mode="after")
    def _names_that_can_be_told_apart(self) -> Findings:
        for name in self.labels:
            if name != name.strip() or not 0 < len(name) <= LONGEST or not name.isprintable() or "\\" in name:
                raise ValueError(
                    f"the label {name[:LONGEST]!r} cannot name a finding; expected 1 to {LONGEST} letters, no backslash"
                )
        count = Counter(map(spelling, self.labels))
        if twice := [name for name in self.labels if count[spelling(name)] > 1]:
            raise ValueError(
                f"the labels {' and '.join(map(repr, twice[:2]))} cannot be told apart; rename one of them"
            )
        stated = {
            "none": () if self.none is None else (self.none,),
            "aliases": tuple(self.aliases.values()),
            "short": tuple(self.short),
            "localised": self.localised,
            "diffuse": self.diffuse,
            "codes": tuple(self.codes),
        }
        for field, names in stated.items():
            if unknown := [name for name in names if name not in self.labels]:
                raise ValueError(f"{field} names {unknown[0]!r}, which is none of the labels {', '.join(self.labels)}")
        codes = Counter((code.scheme, code.value) for code in self.codes.values())
        if shared := [label for label, code in self.codes.items() if codes[code.scheme, code.value] > 1]:
            raise ValueError(f"{' and '.join(map(repr, shared[:2]))} have one code; expected one for each")
        if both := set(self.localised) & set(self.diffuse):
            raise ValueError(f"{min(both)!r} cannot be both localised and diffuse")
        return self

    @classmethod
    def of(cls, labels: Iterable[str], name: str = "own") -> Findings:
        """A set of these names, in this order, with what is known of standard findings among them: other spellings,
        short names, where they lie, codes. One that reads "No Finding" or "Normal" beside others says that there
        is none of them. Raises ValueError for names that cannot be told apart or name nothing."""
        labels = tuple(labels)
        if labels == CHESTXRAY14.labels:
            return CHESTXRAY14
        try:
            return cls._standard(labels, name)
        except ValidationError as error:
            raise ValueError(problems(error)) from None

    @classmethod
    def _standard(cls, labels: tuple[str, ...], name: str) -> Findings:
        own = set(map(spelling, labels))
        standard = {label: known for label in labels if (known := _STANDARD.canonical(label))}
        twice = Counter(standard.values())
        spellings: dict[str, list[str]] = {}
        for alias, known in (*_STANDARD.aliases.items(), *((name, name) for name in _STANDARD.labels)):
            spellings.setdefault(known, []).append(alias)
        return cls(
            name=name,
            labels=labels,
            none=next(
                (label for label, known in standard.items() if known == _STANDARD.none and len(labels) > 1), None
            ),
            # Where two labels mean one standard finding, no other spelling can say which is meant.
            aliases={
                alias: label
                for label, known in standard.items()
                if twice[known] == 1
                for alias in spellings.get(known, ())
                if spelling(alias) not in own
            },
            short={label: _STANDARD.short[known] for label, known in standard.items() if known in _STANDARD.short},
            localised=tuple(label for label, known in standard.items() if known in _STANDARD.localised),
            diffuse=tuple(label for label, known in standard.items() if known in _STANDARD.diffuse),
            codes={
                label: _STANDARD.codes[known]
                for label, known in standard.items()
                if known in _STANDARD.codes and twice[known] == 1
            },
        )

    @classmethod
    def of_terms(cls, terms: Iterable[str], name: str = "own") -> Findings:
        """`of` the terms that lists hold: by the alphabet, "none of them" last; of several spellings the first."""
        first: dict[str, str] = {}
        for term in sorted(set(terms), key=lambda term: (term.casefold(), term)):
            first.setdefault(spelling(term), " ".join(term.split()))
        found = cls.of(first.values(), name)
        return found.restricted((*found.names, *((found.none,) if found.none else ())))

    @property
    def names(self) -> tuple[str, ...]:
        """The findings: every label but `none`. Means are over these."""
        return tuple(label for label in self.labels if label != self.none)

    @property
    def positions(self) -> tuple[int, ...]:
        """Where the findings stand among the labels."""
        return tuple(k for k, label in enumerate(self.labels) if label != self.none)

    def canonical(self, name: str) -> str | None:
        """The label however it is written (case, spaces, hyphens, underscores, aliases); None if it is none of them."""
        return self._spellings.get(spelling(name))

    @cached_property
    def _spellings(self) -> dict[str, str]:
        pairs = (*self.aliases.items(), *((label, label) for label in self.labels))
        return {spelling(text): label for text, label in pairs}

    def column(self, label: str, other: Findings) -> str | None:
        """The label of `other` that means what a label of this set does, by the spellings that either knows; "none of
        them" is that of the other, however it is called."""
        known = other.canonical(label) or next((name for name in other.labels if self.canonical(name) == label), None)
        return other.none if known is None and label == self.none else known

    def union(self, other: Findings) -> Findings:
        """These labels, then those of another set that mean none of them, with what is known of either. Where both
        have a label for "none of them", this set's counts; one that this set lacks stays a label for it."""
        more = [label for label in other.labels if other.column(label, self) is None]
        if not more:
            return self
        own = {spelling(text) for text in (*self.labels, *self.aliases)}
        kept = other.restricted(more)
        return Findings(
            name=self.name if self.name == other.name else f"{self.name} and {other.name}"[:LONGEST],
            labels=(*self.labels, *more),
            none=self.none or kept.none,
            aliases={text: label for text, label in kept.aliases.items() if spelling(text) not in own} | self.aliases,
            short=kept.short | self.short,
            localised=(*self.localised, *kept.localised),
            diffuse=(*self.diffuse, *kept.diffuse),
            codes=kept.codes | self.codes,
        )

    def short_name(self, label: str) -> str:
        """At most four letters for tight tables: the standard ones, else the first letters of its words, which may be
        those of another label."""
        words = label.replace("_", " ").replace("-", " ").split()
        return self.short.get(label) or (label[:4] if len(words) == 1 else "".join(word[:2] for word in words)[:4])

    def restricted(self, labels: Sequence[str]) -> Findings:
        """The same set with some of its labels, in the order given."""
        kept = set(labels)
        if tuple(labels) == self.labels:
            return self
        return Findings(
            name=self.name,
            labels=tuple(labels),
            none=self.none if self.none in kept else None,
            aliases={alias: label for alias, label in self.aliases.items() if label in kept},
            short={label: text for label, text in self.short.items() if label in kept},
            localised=tuple(label for label in self.localised if label in kept),
            diffuse=tuple(label for label in self.diffuse if label in kept),
            codes={label: code for label, code in self.codes.items() if label in kept},
        )

    @property
    def is_default(self) -> bool:
        """These are the fifteen of ChestX-ray14."""
        return self == CHESTXRAY14


def read_findings(path: str | Path) -> Findings:
    """A named set (see NAMED), or a findings file: JSON or YAML with `labels` and any other field of `Findings`. What
    it does not state of a standard finding is filled in. Raises ValueError for a file that is missing, too large, or no
    set of findings."""
    import yaml

    if (named := NAMED.get(str(path).lower())) is not None:
        return named
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"there is no findings file {path}; expected YAML or JSON with `labels: [Tuberculosis, ...]`, or a named "
            f"set: {', '.join(NAMED)}"
        )
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a findings file has at most {LARGEST_FILE:,}")
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeError) as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    if not isinstance(given, Mapping) or not isinstance(given.get("labels"), list):
        raise ValueError(f"{path} states no `labels`; expected a list of names there, such as [Tuberculosis, Fracture]")
    try:
        known = Findings.of(map(str, given["labels"])).model_dump()
        stated = Findings.model_validate({**given, "labels": known["labels"]}).model_dump(exclude_unset=True)
        merged = {key: known[key] | value for key, value in stated.items() if isinstance(value, dict)}
        lies = set(stated.get("localised", ())) | set(stated.get("diffuse", ()))
        places = {key: tuple(x for x in known[key] if x not in lies) for key in ("localised", "diffuse")}
        places = {key: (*names, *stated.get(key, ())) for key, names in places.items()}
        name = stated.get("name", path.stem[:LONGEST])
        return Findings.model_validate({**known, **stated, **merged, **places, "name": name})
    except ValidationError as error:
        raise ValueError(f"{path} is no findings file: {problems(error)}") from None


def problems(error: ValidationError) -> str:
    """What pydantic found wrong, in a line."""
    return "; ".join(
        f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg'].removeprefix('Value error, ')}"
        for each in error.errors()[:3]
    )


def _sct(value: str, meaning: str) -> Code:
    return Code(scheme="SCT", value=value, meaning=meaning)


def _dcm(value: str, meaning: str) -> Code:
    return Code(scheme="DCM", value=value, meaning=meaning)


CHESTXRAY14 = Findings(
    name="ChestX-ray14",
    labels=chestxray14.LABELS,
    none=chestxray14.NO_FINDING,
    aliases=chestxray14.ALIASES,
    short=chestxray14.SHORT,
    localised=chestxray14.LOCALISED,
    diffuse=tuple(name for name in chestxray14.FINDINGS if name not in chestxray14.LOCALISED),
    codes={
        "Atelectasis": _sct("46621007", "Atelectasis"),
        "Cardiomegaly": _sct("8186001", "Cardiomegaly"),
        "Effusion": _sct("60046008", "Pleural effusion"),
        "Infiltration": _dcm("112121", "Infiltrate"),
        "Mass": _sct("4147007", "Mass"),
        "Nodule": _sct("27925004", "Nodule"),
        "Pneumonia": _sct("233604007", "Pneumonia"),
        "Pneumothorax": _sct("36118008", "Pneumothorax"),
        "Consolidation": _sct("95436008", "Lung consolidation"),
        "Edema": _sct("19242006", "Pulmonary edema"),
        "Emphysema": _sct("87433001", "Pulmonary emphysema"),
        "Fibrosis": _sct("51615001", "Fibrosis of lung"),
        "Hernia": _sct("39839004", "Diaphragmatic hernia"),
    },
)
"""The fifteen outputs of ChestX-ray14: the default, and what folders and cards of before this type are about."""

_OTHERS: dict[str, tuple[tuple[str, ...], str, Code]] = {
    "Aortic Aneurysm": (("aneurysm of aorta",), "AoAn", _sct("67362008", "Aortic aneurysm")),
    "Bronchiectasis": ((), "Bron", _sct("12295008", "Bronchiectasis")),
    "COPD": (("chronic obstructive pulmonary disease",), "COPD", _sct("13645005", "Chronic obstructive lung disease")),
    "COVID-19": (("covid", "covid19 pneumonia"), "CoV", _sct("840539006", "Disease caused by SARS-CoV-2")),
    "Fracture": (("bone fracture",), "Frac", _sct("125605004", "Fracture of bone")),
    "Ground Glass Opacity": (("ggo",), "GGO", _dcm("112120", "Ground glass opacity")),
    "Interstitial Lung Disease": (("ild",), "ILD", _sct("233703007", "Interstitial lung disease")),
    "Lung Opacity": (("opacity", "airspace opacity"), "Opac", _dcm("112001", "Opacity")),
    "Pericardial Effusion": ((), "PcEf", _sct("373945007", "Pericardial effusion")),
    "Pneumomediastinum": ((), "PMed", _sct("16838000", "Pneumomediastinum")),
    "Pulmonary Embolism": (("lung embolism",), "PE", _sct("59282003", "Pulmonary embolism")),
    "Pulmonary Hypertension": ((), "PHyp", _sct("70995007", "Pulmonary hypertension")),
    "Rib Fracture": (("rib fractures",), "RibF", _sct("33737001", "Fracture of rib")),
    "Sarcoidosis": ((), "Sarc", _sct("31541009", "Sarcoidosis")),
    "Scoliosis": ((), "Scol", _sct("298382003", "Scoliosis deformity of spine")),
    "Tuberculosis": (("tb",), "TB", _sct("56717001", "Tuberculosis")),
}
"""Further standard findings: other spellings, short name, code. SNOMED CT and DICOM codes that mean the same; what has
none that surely does is private in DICOM objects, by its own words."""

_STANDARD = Findings(
    name="standard findings",
    labels=(*CHESTXRAY14.labels, *_OTHERS),
    none=CHESTXRAY14.none,
    aliases={
        **CHESTXRAY14.aliases,
        **{alias: name for name, (aliases, _, _) in _OTHERS.items() for alias in aliases},
        "healthy": "No Finding",
        "no abnormality": "No Finding",
        "infiltrates": "Infiltration",
        "pulmonary fibrosis": "Fibrosis",
        "pulmonary emphysema": "Emphysema",
        "pulmonary mass": "Mass",
        "pulmonary nodule": "Nodule",
    },
    short={**CHESTXRAY14.short, **{name: short for name, (_, short, _) in _OTHERS.items()}},
    localised=(*CHESTXRAY14.localised, "Fracture", "Rib Fracture"),
    diffuse=(*CHESTXRAY14.diffuse, "Interstitial Lung Disease", "COPD"),
    codes={**CHESTXRAY14.codes, **{name: code for name, (_, _, code) in _OTHERS.items()}},
)


CXR_LT_30 = Findings.of(
    (
        "Normal",
        "aortic elongation",
        "cardiomegaly",
        "pleural effusion",
        "Nodule",
        "atelectasis",
        "pleural thickening",
        "aortic atheromatosis",
        "Support Devices",
        "alveolar pattern",
        "fracture",
        "Hernia",
        "Emphysema",
        "azygos lobe",
        "Hydropneumothorax",
        "Kyphosis",
        "Mass",
        "Pneumothorax",
        "Subcutaneous Emphysema",
        "pneumoperitoneo",
        "vascular hilar enlargement",
        "vertebral degenerative changes",
        "hyperinflated lung",
        "interstitial pattern",
        "central venous catheter",
        "hypoexpansion",
        "bronchiectasis",
        "hemidiaphragm elevation",
        "sternotomy",
        "calcified densities",
    ),
    "CXR-LT-30",
)
"""The 30 classes of CXR-LT 2026, task 1 (PadChest and NIH films, arXiv:2602.22092), spelled and ordered as in its table
of training films as participants published it."""

NAMED: dict[str, Findings] = {"nih": CHESTXRAY14, "cxr-lt-30": CXR_LT_30}
"""Sets that a command knows by name."""
