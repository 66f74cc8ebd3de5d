"""A model on disk: model.safetensors (weights) and config.json (the card: everything else). Strict, and safe to load.

Nothing here knows the network; models/agcnn.py builds it from the card and fills it with the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import safetensors.torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from pydantic import Field, JsonValue, PositiveFloat, PositiveInt, ValidationError, model_validator
from safetensors import SafetensorError
from torch import Tensor

from agcxr.calibration import Calibration
from agcxr.config import Look, Normalisation, Pool
from agcxr.data.collection_names import AND
from agcxr.data.patients import spellings
from agcxr.data.radiograph import RESIZE_RULE
from agcxr.findings import CHESTXRAY14, Findings
from agcxr.machine import versions
from agcxr.models.hub import unreachable
from agcxr.models.origin import RGB_MEAN, RGB_STD
from agcxr.preflight import check_model
from agcxr.starter import model_path
from agcxr.values import Attention, Frozen, Grown

CARD_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
LARGEST_CARD = 16 * 2**20
"""Bytes. The hashes of all 30,805 patients of ChestX-ray14 take 1 MB."""

HASH_LENGTH = 32
Section = dict[str, JsonValue]


class ModelArguments(Grown):
    """The constructor arguments of AGCNN, but for the first weights."""

    later: ClassVar[frozenset[str]] = frozenset({"pool", "evidence_of"})

    backbone: Annotated[str, Field(max_length=200)]
    pooling: Literal["avg", "max"] = "avg"
    in_channels: Literal[1, 3] = 1
    output_stride: Literal[8, 16, 32] = 32
    image_size: Annotated[int, Field(ge=32, le=8192)] = 224
    resize: Annotated[int, Field(ge=32, le=8192)] = 256
    normalisation: Normalisation = "imagenet"
    mean: tuple[float, float, float] = RGB_MEAN
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = RGB_STD
    """By colour, of pixels in [0, 1]; what the network computes with, whatever `normalisation` says of its making."""
    attention: Attention = Attention()
    crop_source: Literal["view", "prepared"] = "view"
    look: Look = "attention"
    pool: Pool = "max"
    evidence_of: tuple[str, ...] | None = None
    labels: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)] = CHESTXRAY14.labels

    @model_validator(mode="before")
    @classmethod
    def _old_cards_say_no_numbers(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("normalisation") == "mean" and "std" not in given:
            return given | {"std": (1.0, 1.0, 1.0)}
        return given

    @model_validator(mode="after")
    def _a_view_is_cut_from_a_resized_film(self) -> ModelArguments:
        if self.image_size > self.resize:
            raise ValueError(
                f"image_size is {self.image_size} and resize {self.resize}; a view is cut from the resized film, so "
                "image_size can be at most resize"
            )
        return self


class Preprocessing(Frozen):
    """From a film to what the model was trained on."""

    prepared_size: Annotated[int, Field(ge=32, le=8192)] | None = None
    """Side of the prepared films; None: not known, `resize` of the model will do."""
    resize_rule: str = RESIZE_RULE


class Patients(Frozen):
    """Who the model was trained on, without their names: salted hashes."""

    salt: str
    hashes: tuple[str, ...]
    collection: str | None = None
    """Whose patients: `nih`, `chexpert`, `phantom, seed 0`, ... None: not known, as of first cards and plain tables."""
    films: str | None = Field(default=None, exclude_if=lambda films: films is None)
    """Of one of joined collections: the fingerprint of its prepared folder."""
    others: tuple[Patients, ...] = Field(default=(), exclude_if=lambda others: not others)
    """Those of the collections that were joined with this one."""

    @classmethod
    def of(
        cls, ids: Iterable[str], salt: str | None = None, collection: str | None = None, films: str | None = None
    ) -> Patients:
        """Hash patients under a fresh salt (or the given one, to be reproducible)."""
        salt = secrets.token_hex(16) if salt is None else salt
        return cls(salt=salt, hashes=hash_patients(ids, salt), collection=collection, films=films)

    @property
    def groups(self) -> tuple[Patients, ...]:
        """Of every collection."""
        return (self, *self.others)

    @property
    def whose(self) -> str | None:
        """The collections, in words; None where one of them is not known."""
        names = [group.collection for group in self.groups]
        return AND.join(dict.fromkeys(filter(None, names))) if all(names) else None

    def known(self, ids: Iterable[str], collection: str | None = None, films: str | None = None) -> tuple[str, ...]:
        """Those of `ids` that the model was trained on, sorted. Patient 27 of one collection is another person than
        patient 27 of another; where one of the two collections is not known, equal ids count as the same person,
        unless `films`, the fingerprint of their folder, tells that they are of another one of those joined. Ids
        are equal however they are padded: cards and folders of earlier versions hold "00000013" and "13.0" for 13."""
        trained = [one for one in self.groups if films and one.films == films] or self.groups
        return tuple(sorted(one for one in set(ids) if any(group._holds(one, collection) for group in trained)))

    def _holds(self, patient: str, collection: str | None) -> bool:
        if collection and self.collection and collection != self.collection:
            return False
        return any(_hash(text, self.salt) in self._trained for text in spellings(patient))

    @cached_property
    def _trained(self) -> frozenset[str]:
        return frozenset(self.hashes)


class Card(Frozen):
    """config.json: all that is needed to build the model again and to know where it comes from."""

    format: Literal[1] = 1
    model: ModelArguments
    preprocessing: Preprocessing = Preprocessing()
    train_patients: Patients | None = None
    versions: dict[str, str] = Field(default_factory=lambda: versions("agcxr", "torch", "timm"))
    metrics: dict[str, float | None] = Field(default_factory=dict)
    """Validation figures, e.g. `global_auc`; None where undefined."""
    taught: dict[str, tuple[PositiveInt, PositiveInt]] | None = None
    """Labels that the training films taught: how many of them are known to have each, and known not to have it, at
    least one of either. None: not known, as of imported weights and first cards; then every label counts as taught."""
    findings: Findings
    """What is known of the model's labels. Cards that do not say: what is known of labels so called."""
    seed: int | None = None
    source: str | None = None
    """Where imported weights come from; None for a model trained here."""
    calibration: Calibration | None = None
    """Of the fusion, with its operating points; experiments/calibrate.py fits it."""
    feature_statistics: Section | None = None
    """Of the global branch's features on training films, to tell films that are far from them."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the model answers for, in its order. Its other outputs were never taught."""
        return tuple(label for label in self.model.labels if self.taught is None or label in self.taught)

    @property
    def usual(self) -> bool:
        """The findings are what is known of labels so called, so that they say no more than these do."""
        return self.findings == Findings.of(self.model.labels)

    @model_validator(mode="before")
    @classmethod
    def _findings_of_the_labels(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("findings") is not None:
            return given
        model = given.get("model")
        labels = model.get("labels", CHESTXRAY14.labels) if isinstance(model, dict) else getattr(model, "labels", None)
        if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
            return given
        return given | {"findings": Findings.of(labels)}

    @model_validator(mode="after")
    def _findings_are_about_the_labels(self) -> Card:
        if self.findings.labels != self.model.labels:
            raise ValueError(
                f"findings are about {', '.join(self.findings.labels)}; expected the model's labels, "
                f"{', '.join(self.model.labels)}"
            )
        return self

    @model_validator(mode="after")
    def _taught_labels(self) -> Card:
        if self.taught is not None and (not self.taught or set(self.taught) - set(self.model.labels)):
            raise ValueError(
                f"taught names {', '.join(self.taught) or 'no label'}; expected some of the model's labels"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _without_the_empty_section(cls, given: Any) -> Any:
        """Cards of the first runs have an empty `operating_points`; these live in `calibration`."""
        if isinstance(given, dict) and given.get("operating_points", 0) is None:
            return {name: value for name, value in given.items() if name != "operating_points"}
        return given


def hash_patients(ids: Iterable[str], salt: str) -> tuple[str, ...]:
    """Sorted salted SHA-256 hashes of distinct patient ids, the first 32 hex digits (128 bits) of each."""
    return tuple(sorted({_hash(one, salt) for one in ids}))


def _hash(patient: str, salt: str) -> str:
    return hashlib.sha256(f"{salt}:{patient}".encode()).hexdigest()[:HASH_LENGTH]


# --- files ------------------------------------------------------------------------------------------------------------


def write(folder: str | os.PathLike[str], card: Card, state: dict[str, Tensor]) -> None:
    """Write both files into `folder` (made if absent). Each appears whole; the card last."""
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    beside = root / f"{WEIGHTS_FILE}.part"
    # save_file would make it readable by its owner alone; the other files follow the umask.
    beside.write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))
    beside.replace(root / WEIGHTS_FILE)
    beside = root / f"{CARD_FILE}.part"
    beside.write_text(card.model_dump_json(indent=1), encoding="utf-8")
    beside.replace(root / CARD_FILE)


def read_card(path: str | os.PathLike[str]) -> Card:
    """Read and check a card. Raises ValueError for a file that is missing, too large, no JSON, or no card of ours."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"no {CARD_FILE} in {path.parent}, so it is no saved model; expected a folder written by `agcxr train` "
            "(RUN or RUN/model) or by AGCNN.save_pretrained"
        )
    if path.stat().st_size > LARGEST_CARD:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a model's card has at most {LARGEST_CARD:,}")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); save the model again, or copy the file anew") from error
    try:
        return Card.model_validate(found)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in error.errors()[:5])
        raise ValueError(
            f"{path} is not the card of an agcxr model: {told}. It belongs to another program, or to a newer agcxr "
            f"than {version('agcxr')}: upgrade, or save the model again"
        ) from None


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors of a model's weight file. Raises ValueError where it is missing or damaged."""
    path = Path(path)
    if not path.is_file():
        others = sorted(one.name for one in path.parent.glob("*") if one.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        hint = f" ({', '.join(others)} cannot be loaded in its place: only safetensors is safe)" if others else ""
        raise ValueError(f"no {WEIGHTS_FILE} in {path.parent}{hint}; copy it there, or save the model again")
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again, or save the model again") from error


# --- where a model is -------------------------------------------------------------------------------------------------


def fetch(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """The folder with the model meant by `source`: a model folder, a run folder, or a hub id (downloaded if need be).

    The options concern the hub, as in huggingface_hub. Raises ValueError, with the cure, for a folder without a model
    and for a hub id that is neither in the cache nor to be had.
    """
    check_model(source)
    folder, name = model_path(source), str(source)
    if folder.is_dir():
        return _in_folder(folder)
    if folder.is_file():
        raise ValueError(_of_file(folder))
    offline = local_files_only or constants.is_offline_mode()
    problem = "offline mode is on" if offline else unreachable(constants.ENDPOINT)
    cached = isinstance(try_to_load_from_cache(name, CARD_FILE, cache_dir=cache_dir, revision=revision), str)
    if problem and not cached:
        raise ValueError(
            f"there is no folder {name}, and no such model can be fetched from the hub: {problem}. "
            "Check the path, or copy the model folder to this machine"
        )
    try:
        paths = [
            hf_hub_download(
                name,
                file,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download and not problem,
                local_files_only=problem is not None,
                token=token,
            )
            for file in (WEIGHTS_FILE, CARD_FILE)
        ]
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ValueError(f"the hub model {name!r} cannot be had: {error}") from error
    return Path(paths[1]).parent


def _of_file(path: Path) -> str:
    """Why a file is no model here, and what to give."""
    if path.suffix.lower() == ".onnx":
        return (
            f"{path} is an exported file, and a run or model folder is expected here; to measure an exported file, run "
            "`agcxr predict` with it and give the CSV to `agcxr score`"
        )
    return f"{path} is a file; expected the run or model folder that it lies in, here {path.parent}, or a hub id"


def _in_folder(folder: Path) -> Path:
    """The folder itself, or the model/ inside a run."""
    if (folder / CARD_FILE).is_file():
        return folder
    if (folder / "model" / CARD_FILE).is_file():
        return folder / "model"
    if (folder / "config.yaml").is_file():
        raise ValueError(
            f"{folder} is a run without a finished model; finish it with `agcxr train --out {folder} --resume`"
        )
    return folder
