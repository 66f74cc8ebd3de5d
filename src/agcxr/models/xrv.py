"""TorchXRayVision's classifiers (arXiv:2111.00595) as models of this package.

They are a DenseNet-121 for 224 px and a ResNet-50 for 512 px, of one gray channel scaled to [-1024, 1024], with 18
outputs of which each set of weights was taught some. The scaling becomes the model's normalisation; outputs are taken
by name, and those that were never taught, or are no findings here, are left out. Files are read as tensors only.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from torch import Tensor

from agcxr.findings import CHESTXRAY14
from agcxr.models.agcnn import AGCNN
from agcxr.models.legacy import class_names, fill_branch, outputs_of, reorder, repeat_global
from agcxr.models.weights import COMMON_PREFIX, read_checkpoint, states_in

TARGETS = (
    "Atelectasis",
    "Consolidation",
    "Infiltration",
    "Pneumothorax",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Effusion",
    "Pneumonia",
    "Pleural_Thickening",
    "Cardiomegaly",
    "Nodule",
    "Mass",
    "Hernia",
    "Lung Lesion",
    "Fracture",
    "Lung Opacity",
    "Enlarged Cardiomediastinum",
)
"""Their 18 outputs, in order."""
CHEXPERT = ("Atelectasis", "Consolidation", "Pneumothorax", "Edema", "Effusion", "Pneumonia", "Cardiomegaly")
TAUGHT: dict[str, tuple[str, ...]] = {
    "densenet121-res224-all": CHESTXRAY14.names,
    "densenet121-res224-nih": CHESTXRAY14.names,
    "densenet121-res224-pc": CHESTXRAY14.names,
    "densenet121-res224-chex": CHEXPERT,
    "densenet121-res224-mimic_nb": CHEXPERT,
    "densenet121-res224-mimic_ch": CHEXPERT,
    "densenet121-res224-rsna": ("Pneumonia",),
    "resnet50-res512-all": CHESTXRAY14.names,
}
"""The findings that each set of weights was taught."""
SUFFIX = "-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
FILES = {
    "densenet121-res224-all": f"nih-pc-chex-mimic_ch-google-openi-kaggle{SUFFIX}",
    "densenet121-res224-rsna": f"kaggle{SUFFIX}",
    "resnet50-res512-all": "pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt",
    **{f"densenet121-res224-{name}": f"{name}{SUFFIX}" for name in ("nih", "pc", "chex", "mimic_nb", "mimic_ch")},
}
"""The files that TorchXRayVision downloads."""

MEAN, STD = (0.5,) * 3, (1 / 2048,) * 3
"""Of pixels in [0, 1]: (x - mean) / std lies in [-1024, 1024]."""


def import_xrv(weights: str, file: str | Path | None = None) -> AGCNN:
    """The model of a set of weights, as a global branch; the local one is its copy and the fusion repeats its logits.

    `weights`: a name of TAUGHT (`nih` is short for `densenet121-res224-nih`), or a file. `file`: the state dict of the
    named weights; default: the file in TorchXRayVision's cache. Views are whole films, as they were trained on. Raises
    ValueError, with the cure, for another name, a file that is absent or holds pickled code (their DenseNets do), and
    one of another network.
    """
    name = _name_of(weights)
    if name is None and not Path(weights).is_file():
        near = difflib.get_close_matches(weights, list(TAUGHT), n=1)
        raise ValueError(
            f"{weights!r} is neither a file nor a set of weights{f' (did you mean {near[0]!r}?)' if near else ''}; "
            f"expected one of {', '.join(TAUGHT)}, or a file"
        )
    path = Path(file) if file else Path(weights) if Path(weights).is_file() else _cached(str(name))
    content = _read(path, name)
    state = {COMMON_PREFIX.sub("", key, count=1): value for key, value in states_in(content, path)[0].items()}
    thresholds = state.pop("op_threshs", None)
    dense = any(key.startswith("features.denseblock") for key in state)
    if not dense and "layer1.0.conv1.weight" not in state:
        raise ValueError(
            f"{path} is neither a DenseNet-121 nor a ResNet-50 of TorchXRayVision: {', '.join(list(state)[:4])}"
        )
    order = outputs_of({path: class_names(content)}, TARGETS)
    taken = _taken(name, thresholds, path)
    head, side = ("classifier", 224) if dense else ("fc", 512)
    reorder(state, order, taken, path)
    model = AGCNN(
        "densenet121" if dense else "resnet50",
        image_size=side,
        resize=side,
        labels=taken,
        weights="none",
        mean=MEAN,
        std=STD,
    )
    fill_branch(model.global_branch, state, head, path)
    repeat_global(model)
    source = (
        f"TorchXRayVision's {name or 'weights'} ({path.name}); the local branch is a copy, fusion repeats the global "
    )
    source += "logits" + _thresholds(order, thresholds, taken)
    model.card = model.new_card(prepared_size=side, source=source)
    return model.eval()


def _name_of(weights: str) -> str | None:
    """The full name of a set of weights, from a short one or from the name of the file that is downloaded."""
    names = {name: name for name in TAUGHT} | {file: name for name, file in FILES.items()}
    return names.get(weights) or names.get(f"densenet121-res224-{weights}") or names.get(Path(weights).name)


def _cached(name: str) -> Path:
    path = Path("~/.torchxrayvision/models_data").expanduser() / FILES[name]
    if not path.is_file():
        raise ValueError(f"the weights {name} are not in TorchXRayVision's cache ({path}); {_cure(name)}")
    return path


def _cure(name: str | None) -> str:
    kind, name = ("ResNet" if name and name.startswith("resnet") else "DenseNet"), name or "NAME"
    code = f"torch.save(x.models.{kind}(weights='{name}').state_dict(), '{name}.pt')"
    return (
        "where TorchXRayVision is installed and its download is trusted, write the tensors alone with `python -c "
        f'"import torch, torchxrayvision as x; {code}"`, and run `agcxr import xrv {name} --file {name}.pt`'
    )


def _read(path: Path, name: str | None) -> dict[str, object]:
    try:
        return read_checkpoint(path)
    except ValueError as error:
        if "can run code" not in str(error):
            raise
        raise ValueError(
            f"{path} is a pickled module and is not loaded, because such a file can run code; {_cure(name)}"
        ) from error


def _taken(name: str | None, thresholds: Tensor | None, path: Path) -> tuple[str, ...]:
    """The findings that were taught: by the name of the weights, else those that have a threshold of their own."""
    if name is not None:
        return tuple(label for label in CHESTXRAY14.names if label in TAUGHT[name])
    if thresholds is None or tuple(thresholds.shape) != (len(TARGETS),):
        raise ValueError(
            f"{path} does not say which outputs were taught (no op_threshs); run `agcxr import xrv NAME --file {path}` "
            f"with one of {', '.join(TAUGHT)}"
        )
    has = dict(zip(TARGETS, (~thresholds.isnan()).tolist(), strict=True))
    return tuple(label for label in CHESTXRAY14.names if has[label])


def _thresholds(order: tuple[str | None, ...], thresholds: Tensor | None, taken: tuple[str, ...]) -> str:
    """Their operating points, on the raw score, for the card."""
    if thresholds is None or tuple(thresholds.shape) != (len(order),):
        return ""
    values = [(label, float(thresholds[order.index(label)])) for label in taken]
    return "; its own thresholds: " + ", ".join(f"{label} {value:.3g}" for label, value in values if value == value)
