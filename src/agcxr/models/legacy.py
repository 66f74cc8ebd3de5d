"""Old public checkpoints as models of this package.

- arnoweng/CheXNet and zoogzog/chexnet: one DenseNet-121 with 14 sigmoid outputs.
- Ien001/AG-CNN: three files, two DenseNet-121 (global, local) and a fusion layer.

They were trained on gray films repeated to RGB, resized to 256, cut to 224, with ImageNet's mean and deviation, and
their outputs are the 14 findings in this project's order, without No Finding; a file that names its classes says so
itself. What is not taken over: their average
over ten crops (here: the central one), and in AG-CNN an Otsu threshold and a cut from the central third of the film in
place of the paper's threshold and box. Files are read as tensors only; nothing in them is executed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agcxr import config
from agcxr.findings import CHESTXRAY14
from agcxr.models.agcnn import AGCNN, Branch
from agcxr.models.weights import COMMON_PREFIX, State, load_strictly, read_checkpoint, states_in

CROPPED_OTHERWISE = (
    "; its local and fusion branches were trained on crops by Otsu's threshold and from the film's central third, and "
    "here see the paper's: trust the global branch"
)
CLASS_NAMES = re.compile(
    r"(?:class|label|target|finding|pathology|disease)_?names?|classes|labels|targets|pathologies|findings|diseases"
    r"|class_?list|label_?(?:list|set|cols|columns)|class_to_idx|idx_to_class|id2label|label2id",
    re.IGNORECASE,
)
"""Where checkpoints keep the names of their outputs."""
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
"""Before PyTorch 0.4 the parts of a dense layer were called `norm.1`, `conv.1`, ..."""


def import_chexnet(files: Sequence[str | os.PathLike[str]], labels: Sequence[str] = ()) -> AGCNN:
    """The model in one CheXNet file, or in the global, local and fusion files of AG-CNN (in any order if named so).

    From one file comes a global branch. The local branch then is a copy of it and the fusion layer repeats the global
    logits, so that all three outputs mean something; the card's `source` says so. `labels`: what the outputs are, in
    the file's order, however each name is written; default: the 14 findings in NIH's. The model's outputs are in this
    project's order, without those of other names. Raises ValueError for a file that is unreadable, unsafe, of another
    network or of other outputs, or whose own class names contradict.
    """
    paths = [Path(file) for file in files]
    if len(paths) not in (1, 3):
        raise ValueError(
            f"{len(paths)} files; expected one CheXNet file, or the global, local and fusion file of AG-CNN"
        )
    contents = {path: read_checkpoint(path) for path in paths}
    order = outputs_of({path: class_names(content) for path, content in contents.items()}, labels)
    taken = tuple(label for label in CHESTXRAY14.labels if label in order)
    model = AGCNN(
        "densenet121",
        in_channels=3,
        labels=taken,
        weights="none",
        # AG-CNN sums the channels after their ReLU; its threshold of 178 / 255 before Otsu is the paper's 0.7.
        attention=config.Attention(statistic="l1" if len(paths) == 3 else "max"),
    )
    states = {path: _renamed(states_in(content, path)[0]) for path, content in contents.items()}
    for path, state in states.items():
        reorder(state, order, taken, path)
    if len(paths) == 1:
        _fill_densenet(model.global_branch, states[paths[0]], paths[0])
        repeat_global(model)
        source = f"DenseNet-121 of {paths[0].name}; the local branch is a copy, fusion repeats the global logits"
    else:
        global_path, local_path, fusion_path = _sorted(states)
        _fill_densenet(model.global_branch, states[global_path], global_path)
        _fill_densenet(model.local_branch, states[local_path], local_path)
        fusion = {name.removeprefix("fc."): value for name, value in states[fusion_path].items()}
        load_strictly(model.fusion_head, fusion, str(fusion_path))
        source = "AG-CNN of " + ", ".join(path.name for path in (global_path, local_path, fusion_path))
        source += CROPPED_OTHERWISE
    model.card = model.new_card(prepared_size=model.resize, source=source)
    return model.eval()


def class_names(content: Any, depth: int = 4) -> tuple[str, ...] | None:
    """The names of its outputs that a checkpoint keeps, in order, wherever it keeps them; None where it keeps none."""
    entries = content if isinstance(content, dict) else getattr(content, "__dict__", {})
    for key, value in entries.items():
        if CLASS_NAMES.fullmatch(str(key)) and (names := _names(value)):
            return names
    parts = (value for key, value in entries.items() if depth and not isinstance(value, Tensor))
    return next((names for part in parts if (names := class_names(part, depth - 1))), None)


def _names(value: Any) -> tuple[str, ...] | None:
    """A list of names, names by their place, or places by name."""
    if isinstance(value, dict):
        if value and all(isinstance(place, int) for place in value.values()):
            value = {place: name for name, place in value.items()}
        try:
            value = [value[key] for key in sorted(value, key=int)]
        except (TypeError, ValueError):
            return None
    if isinstance(value, str):
        value = value.replace("|", ",").split(",")
    if not isinstance(value, list | tuple) or len(value) < 2 or not all(isinstance(name, str) for name in value):
        return None
    return tuple(name.strip() for name in value)


def outputs_of(kept: dict[Path, tuple[str, ...] | None], stated: Sequence[str]) -> tuple[str | None, ...]:
    """What each output is, in this project's names, None where it has none: as stated, else as the files keep it, else
    NIH's order. Raises ValueError where the two differ, or a name stands twice."""
    order = [name.strip() for names in stated for name in names.split(",") if name.strip()]
    plain = _canonical(order, "--labels") if order else CHESTXRAY14.names
    for path, names in kept.items():
        if names is None:
            continue
        own = _canonical(names, f"the class names in {path}")
        if _keys(names) != _keys(order or CHESTXRAY14.names):
            given = f"--labels names {', '.join(order)}" if order else f"NIH's order is {', '.join(CHESTXRAY14.names)}"
            cure = (
                "leave --labels out if" if order and own == CHESTXRAY14.names else f"give --labels {','.join(names)} if"
            )
            raise ValueError(f"{path} keeps other class names, {', '.join(names)}; {given}; {cure} its own are right")
    if not any(plain):
        raise ValueError(
            f"none of --labels {', '.join(order)} is known here; expected some of {', '.join(CHESTXRAY14.labels)}"
        )
    return plain


def _canonical(names: Sequence[str], source: str) -> tuple[str | None, ...]:
    found = tuple(map(CHESTXRAY14.canonical, names))
    twice = [name for name, label in zip(names, found, strict=True) if label and found.count(label) > 1]
    if twice:
        raise ValueError(f"{source} name one finding twice: {', '.join(twice)}; every output needs a name of its own")
    return found


def _keys(names: Sequence[str]) -> list[str]:
    return [CHESTXRAY14.canonical(name) or name.strip().casefold() for name in names]


def reorder(state: State, order: Sequence[str | None], taken: Sequence[str], path: Path) -> None:
    """Bring the rows of each head in a state dict from a file's order of outputs to that of the labels taken."""
    for name in ("classifier", "fc"):
        for part in (f"{name}.weight", f"{name}.bias"):
            if part not in state:
                continue
            if state[part].shape[0] != len(order):
                raise ValueError(
                    f"{path} has {state[part].shape[0]} outputs; expected {len(order)}, {_told(order)}. Say what they "
                    "are by --labels NAME,NAME,..., in the file's order"
                    + (" (TorchXRayVision's have 18: `agcxr import xrv`)" if state[part].shape[0] == 18 else "")
                )
            state[part] = state[part][[order.index(label) for label in taken]]


def _told(order: Sequence[str | None]) -> str:
    return f"the findings {', '.join(name or '(another)' for name in order)}"


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names torchvision uses today: no wrappers' prefixes, `norm1` for `norm.1`, a head that is no Sequential."""
    renamed = {}
    for name, value in state.items():
        name = _OLD_NAME.sub(r"\1\2.", COMMON_PREFIX.sub("", name, count=1).removeprefix("densenet121."))
        renamed[name.replace("classifier.0.", "classifier.")] = value
    return renamed


def _fill_densenet(branch: Branch, state: State, path: Path) -> None:
    head = state.get("classifier.weight")
    if head is None or not any(name.startswith("features.denseblock") for name in state):
        raise ValueError(
            f"{path} holds no DenseNet-121 classifier; expected names such as features.denseblock1... and "
            f"classifier.weight, found {', '.join(list(state)[:4])}"
        )
    fill_branch(branch, state, "classifier", path)


def fill_branch(branch: Branch, state: State, head: str, path: Path) -> None:
    """Load a classifier's tensors into a branch. `head`: what its last layer is called. Raises ValueError where they do
    not fit."""
    filled = {
        name.replace(f"{head}.", "head.", 1) if name.startswith(f"{head}.") else f"backbone.net.{name}": value
        for name, value in state.items()
    }
    for name, value in branch.state_dict().items():
        if name.endswith("num_batches_tracked"):  # counted only since PyTorch 0.4.1, and of no effect here
            filled.setdefault(name, torch.zeros_like(value))
    load_strictly(branch, filled, str(path))


def repeat_global(model: AGCNN) -> None:
    """The local branch a copy of the global one; fusion logits equal to the global ones."""
    model.local_branch.load_state_dict(model.global_branch.state_dict())
    model.start_fusion()


def _sorted(states: dict[Path, dict[str, Tensor]]) -> tuple[Path, Path, Path]:
    """Global, local and fusion file: fusion by what it holds, the branches by their names, or as they were given."""
    fusion = [path for path, state in states.items() if set(state) == {"fc.weight", "fc.bias"}]
    branches = [path for path in states if path not in fusion]
    if len(fusion) != 1 or len(branches) != 2:
        raise ValueError(
            f"{len(fusion)} of the three files {', '.join(path.name for path in states)} hold a fusion layer "
            "(fc.weight, fc.bias); expected exactly one, and two DenseNet-121"
        )
    branches.sort(key=lambda path: "local" in path.name.lower())  # stable: as given where the names do not say
    return branches[0], branches[1], fusion[0]
