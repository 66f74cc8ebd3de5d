"""What a network costs on one film: its floating-point operations, counted while it runs.

Counted are convolutions and matrix products, a multiplication and an addition as two, as torch's counter does; what it
leaves out (norms, activations, the box and the crop) is some hundredths of it. Cost of training: about three times as
much a film and step.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from agcxr.config import Train
from agcxr.findings import CHESTXRAY14, Findings
from agcxr.inference.prediction import Branch
from agcxr.training.stages import build

SLACK = 0.02
"""Of a cost that counts as the same."""


@torch.no_grad()
def film_cost(settings: Train, branch: Branch = "fusion", findings: Findings = CHESTXRAY14) -> int:
    """Floating-point operations of the answer that a branch gives on one film.

    The fusion costs all branches and crops; so does the local one, for the global one says where to look, except where
    it looks at the whole view: then it is a network of its own, as the global one is.
    """
    # A place that annotations say costs what attention's does.
    looks = settings.local.model_copy(
        update={"look": "attention" if settings.local.look == "oracle" else settings.local.look}
    )
    model = build(settings.model_copy(update={"weights": "none", "norms": "batch", "local": looks}), findings).eval()
    view_1CHW = torch.rand(1, 1, settings.image_size, settings.image_size)
    alone = branch == "global" or (branch == "local" and settings.local.look == "whole")
    run = model.forward_global if alone else model
    run(view_1CHW)  # the first call folds the norms
    with FlopCounterMode(display=False) as counter:
        run(view_1CHW)
    return int(counter.get_total_flops())


def side_of_cost(settings: Train, cost: int) -> int:
    """The smallest view whose global branch costs at least as much, to SLACK: its side in pixels, in steps of a
    feature cell."""
    side = settings.image_size
    while film_cost(sized(settings, side), "global") < (1 - SLACK) * cost:
        side += settings.output_stride
    return side


def sized(settings: Train, side: int) -> Train:
    """The same settings with views of another side that show as much of the film."""
    resize = round(side * settings.resize / settings.image_size)
    return settings.model_copy(update={"image_size": side, "resize": resize})
