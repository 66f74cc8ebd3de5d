"""Old public checkpoints as models of this package.

- arnoweng/CheXNet and zoogzog/chexnet: one DenseNet-121 with 14 sigmoid outputs.
- Ien001/AG-CNN: three files, two DenseNet-121 (global, local) and a fusion layer.

They were trained on gray films repeated to RGB, resized to 256, cut to 224, with ImageNet's mean and deviation, and
their outputs are the 14 findings in this project's order, without No Finding. What is not taken over: their average
over ten crops (here: the central one), and in AG-CNN an Otsu threshold and a cut from the central third of the film in
place of the paper's threshold and box. Files are read as tensors only; nothing in them is executed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from agcxr import config
from agcxr.labels import FINDINGS
from agcxr.models.agcnn import AGCNN, Branch
from agcxr.models.weights import load_strictly, read_state_dict

CROPPED_OTHERWISE = (
    "; its local and fusion branches were trained on crops by Otsu's threshold and from the film's central third, and "
    "here see the paper's: trust the global branch"
)
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
"""Before PyTorch 0.4 the parts of a dense layer were called `norm.1`, `conv.1`, ..."""


def import_chexnet(files: Sequence[str | os.PathLike[str]]) -> AGCNN:
    """The model in one CheXNet file, or in the global, local and fusion files of AG-CNN (in any order if named so).

    From one file comes a global branch. The local branch then is a copy of it and the fusion layer repeats the global
    logits, so that all three outputs mean something; the card's `source` says so. Raises ValueError for a file that
    is unreadable, unsafe, or of another network.
    """
    paths = [Path(file) for file in files]
    if len(paths) not in (1, 3):
        raise ValueError(
            f"{len(paths)} files; expected one CheXNet file, or the global, local and fusion file of AG-CNN"
        )
    model = AGCNN(
        "densenet121",
        in_channels=3,
        labels=FINDINGS,
        weights="none",
        # AG-CNN sums the channels after their ReLU; its threshold of 178 / 255 before Otsu is the paper's 0.7.
        attention=config.Attention(statistic="l1" if len(paths) == 3 else "max"),
    )
    states = {path: _renamed(read_state_dict(path)) for path in paths}
    if len(paths) == 1:
        _fill_branch(model.global_branch, states[paths[0]], paths[0])
        _repeat_global(model)
        source = f"DenseNet-121 of {paths[0].name}; the local branch is a copy, fusion repeats the global logits"
    else:
        global_path, local_path, fusion_path = _sorted(states)
        _fill_branch(model.global_branch, states[global_path], global_path)
        _fill_branch(model.local_branch, states[local_path], local_path)
        fusion = {name.removeprefix("fc."): value for name, value in states[fusion_path].items()}
        load_strictly(model.fusion_head, fusion, str(fusion_path))
        source = "AG-CNN of " + ", ".join(path.name for path in (global_path, local_path, fusion_path))
        source += CROPPED_OTHERWISE
    model.card = model.new_card(prepared_size=model.resize, source=source)
    return model.eval()


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names torchvision uses today: no wrappers' prefixes, `norm1` for `norm.1`, a head that is no Sequential."""
    renamed = {}
    for name, value in state.items():
        name = _OLD_NAME.sub(r"\1\2.", name.removeprefix("module.").removeprefix("densenet121."))
        renamed[name.replace("classifier.0.", "classifier.")] = value
    return renamed


def _fill_branch(branch: Branch, state: dict[str, Tensor], path: Path) -> None:
    head = state.get("classifier.weight")
    if head is None or not any(name.startswith("features.denseblock") for name in state):
        raise ValueError(
            f"{path} holds no DenseNet-121 classifier; expected names such as features.denseblock1... and "
            f"classifier.weight, found {', '.join(list(state)[:4])}"
        )
    if head.shape[0] != len(FINDINGS):
        raise ValueError(f"{path} has {head.shape[0]} outputs; expected 14, the findings {', '.join(FINDINGS)}")
    filled = {
        name.replace("classifier.", "head.") if name.startswith("classifier.") else f"backbone.net.{name}": value
        for name, value in state.items()
    }
    for name, value in branch.state_dict().items():
        if name.endswith("num_batches_tracked"):  # counted only since PyTorch 0.4.1, and of no effect here
            filled.setdefault(name, torch.zeros_like(value))
    load_strictly(branch, filled, str(path))


def _repeat_global(model: AGCNN) -> None:
    """The local branch a copy of the global one; fusion logits equal to the global ones."""
    model.local_branch.load_state_dict(model.global_branch.state_dict())
    head = model.global_branch.head
    with torch.no_grad():
        model.fusion_head.weight.copy_(torch.cat([head.weight, torch.zeros_like(head.weight)], dim=1))
        model.fusion_head.bias.copy_(head.bias)


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
