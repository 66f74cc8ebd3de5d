"""The `agcxr import ...` commands: other people's checkpoints as models of this package. As commands.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from agcxr.preflight import check_free

Files = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE...", help_behavior_hint="")]
Weights = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME|FILE")]


def import_chexnet(files: Files, out: Path, labels: tuple[str, ...] = (), overwrite: bool = False) -> int:
    """Turn an old public checkpoint (CheXNet, or AG-CNN's three files) into a model of this package.

    Args:
        files: One CheXNet file, or the global, local and fusion file of AG-CNN.
        out: Model folder to write, for evaluate, predict and the rest.
        labels: What the file's outputs are, in its order, with commas or spaces between; outputs of other names are
            left out. Default: the 14 findings in NIH's order.
        overwrite: Replace a model that is there already.
    """
    check_free(folders=[out], overwrite=overwrite)
    from agcxr.models.legacy import import_chexnet as import_files

    model = import_files(files, labels)
    model.save_pretrained(out)
    print(f"{model.card.source if model.card else 'Imported'}; written to {out}")
    return 0


def import_xrv(weights: Weights, out: Path, file: Path | None = None, overwrite: bool = False) -> int:
    """Turn a classifier of TorchXRayVision into a model of this package.

    Args:
        weights: Name of the weights (densenet121-res224-nih, nih, all, ...), or a file of theirs.
        out: Model folder to write, for evaluate, predict and the rest, or for `train --weights`.
        file: State dict of the named weights. Default: the file in TorchXRayVision's cache.
        overwrite: Replace a model that is there already.
    """
    check_free(folders=[out], overwrite=overwrite)
    from agcxr.models.xrv import import_xrv as import_weights

    model = import_weights(weights, file)
    model.save_pretrained(out)
    print(f"{model.card.source if model.card else 'Imported'}; {len(model.labels)} findings; written to {out}")
    return 0


def import_commands() -> dict[str, Callable[..., int | None]]:
    """Names such as "import chexnet" -> what they do."""
    return {"import chexnet": import_chexnet, "import xrv": import_xrv}
