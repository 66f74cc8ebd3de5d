"""The answers of a network whose crops lie where annotations say: the ceiling of any attention."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch

from agcxr import geometry
from agcxr.config import Train
from agcxr.data import augment
from agcxr.data.dataset import Shard, films
from agcxr.data.prepared import Prepared
from agcxr.inference.stream import BatchPrediction
from agcxr.models.agcnn import AGCNN, linear
from agcxr.training import frozen
from agcxr.training.frozen import Machine

BATCH = 64


@torch.no_grad()
def annotated_answers(model: AGCNN, settings: Train, prepared: Prepared, split: str) -> BatchPrediction:
    """For the films of a part, in order, on the CPU. Raises ValueError where their places are not known."""
    part, size = films(prepared, split), prepared.plan.size
    machine = Machine(torch.device("cpu"), Shard(), lambda tensor: tensor[None], nullcontext)
    views = frozen.centre(len(part), part, settings)
    place_NR4 = frozen.film_boxes(model, part, settings, BATCH, machine)
    pooled_NC = frozen.film_features(model, part, views, settings, BATCH, machine, place_NR4)
    global_ND, local_ND = pooled_NC.chunk(2, 1)
    box_BR4 = frozen.box_in_view(place_NR4, views, settings)
    film_BR4 = augment.map_boxes(box_BR4, views, settings.image_size, to="prepared") / size
    box_NR4 = torch.where(geometry.present(box_BR4)[..., None], film_BR4, 0.0).double().numpy()
    return BatchPrediction(
        labels=model.labels,
        global_NK=linear(model.global_branch.head, global_ND).sigmoid().numpy(),
        local_NK=linear(model.local_branch.head, local_ND).sigmoid().numpy(),
        fusion_NK=model.fuse(global_ND, local_ND).sigmoid().numpy(),
        box_N4=box_NR4[:, 0],
        fallback_N=place_NR4[:, 0].isinf().any(1).numpy(),
        window_4=(views.window_B4[0] / size).double().numpy(),
        plateau_N=np.zeros(len(part)),
        box_NR4=box_NR4,
    )
