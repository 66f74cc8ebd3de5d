"""What frozen branches say about fixed views, computed once instead of in every epoch.

Boxes: those of a film's evaluation view, in prepared pixels. Features: the pooled vectors of both branches.
Both are found by one pass over a part, shared over the processes and put together on each of them.

Shape suffixes: N films of a part, B films, R boxes of each, H W a view, K labels, D channels, 4 a box (x0, y0, x1, y1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agcxr import geometry
from agcxr.attended import Attended, plateau, view_share
from agcxr.config import Train
from agcxr.data import augment
from agcxr.data.augment import FilmSource, Views
from agcxr.data.dataset import FilmBatch, Films, Shard, evaluation_batches
from agcxr.models.agcnn import AGCNN, CropsOutput
from agcxr.models.attention import Attention

Gather = Callable[[Tensor], Tensor]
"""A tensor of this process (equal shapes on all) -> (processes, ...); one process gives (1, ...)."""

ALL = (-float("inf"), -float("inf"), float("inf"), float("inf"))
"""The box of a film that is shown whole: in any view, cut to the view, it is all of that view."""

MARGIN = 2.0
"""Side of a crop at an annotated place, in sides of its box, where the crops have no side of their own."""

ENOUGH = 64
"""Films that show whether attention chooses a place."""

ON_DEVICE_BYTES = 2**32
"""Cached features up to this size stay on the device."""


@dataclass(frozen=True)
class Machine:
    """Where and how a pass runs: the device, the process's share, its peers and the autocast of the run."""

    device: torch.device
    shard: Shard
    gather: Gather
    autocast: Callable[[], object]


@dataclass(frozen=True)
class Picture:
    """A rendered view and, for crops from the prepared film, what these are cut from."""

    view_B1HW: Tensor
    sharp: Tensor | FilmSource | None


def picture(batch: FilmBatch, views: Views, config: Train) -> Picture:
    """The views of a batch, float32 in [0, 1]."""
    image, local = batch.image_B1SS, config.local
    sharp = None
    if local.crop_source == "prepared":
        sharp = augment.crop_source(image, views, resize=config.resize, window=local.window)
    return Picture(augment.render(image, views), sharp)


def look(model: AGCNN, shown: Picture) -> Attention:
    """Where the frozen global branch looks in these views, boxes in view pixels."""
    with torch.no_grad():
        return model.look(model.forward_global(shown.view_B1HW).feature_BDhw, shown.view_B1HW)


def attended(model: AGCNN, films: Films, config: Train) -> Attended:
    """How much of their evaluation views attention chooses on the first of these films; the model stays as it is."""
    some, training = films.first(ENOUGH), model.training
    device = next(model.parameters()).device
    share, fallback, flat = [], [], []
    model.eval()
    try:
        for batch in evaluation_batches(some, 16):
            views = centre(len(batch), some, config)
            seen = look(model, picture(batch.to(device), views.to(device), config))
            size = config.image_size
            share.append(view_share(seen.box_B4.cpu().numpy(), (0, 0, size, size)))
            fallback.append(seen.fallback_B.cpu().numpy())
            flat.append(plateau(seen.heat_BHW.float().cpu().numpy()))
    finally:
        model.train(training)
    return Attended.of(*map(np.concatenate, (share, fallback, flat)))


def local(model: AGCNN, shown: Picture, box_BR4: Tensor) -> CropsOutput:
    """The local branch on the crops at boxes given in view pixels, from the sharp view where there is one."""
    crop_BR1HW = model.cut(shown.view_B1HW, box_BR4, shown.sharp)
    return model.forward_crops(crop_BR1HW, geometry.present(box_BR4))


def centre(n: int, films: Films, config: Train) -> Views:
    """The evaluation view of n films."""
    return augment.centre_views(n, films.size, image_size=config.image_size, resize=config.resize)


@torch.no_grad()
def film_boxes(model: AGCNN, films: Films, config: Train, batch_size: int, machine: Machine) -> Tensor:
    """The boxes of each film, from its evaluation view: NR4 in prepared pixels, on the device. ALL where the local
    branch is not shown a place but the whole view: where attention fell back to it, and for the control that always
    sees it. For `oracle`, the annotated places themselves, which `box_in_view` makes crops of."""
    if config.local.look == "oracle":
        return places(films, config.local.crops).to(machine.device)

    def boxes(batch: FilmBatch, views: Views) -> Tensor:
        found = look(model, picture(batch, views, config))
        box_BR4 = augment.map_boxes(found.box_BR4, views, config.image_size, to="prepared")
        all_B = torch.ones_like(found.fallback_B) if model.look_at == "whole" else found.fallback_B
        first_B4 = torch.where(all_B[:, None], box_BR4.new_tensor(ALL), box_BR4[:, 0])
        return torch.cat([first_B4[:, None], box_BR4[:, 1:]], 1)

    return _over(films, centre(len(films), films, config), boxes, batch_size, machine)


@torch.no_grad()
def global_features(model: AGCNN, films: Films, config: Train, batch_size: int, machine: Machine) -> Tensor:
    """Pooled features of the global branch, of the evaluation view of every film: N x D float32."""

    def features(batch: FilmBatch, views: Views) -> Tensor:
        return model.forward_global(picture(batch, views, config).view_B1HW).pooled_BD

    return _over(films, centre(len(films), films, config), features, batch_size, machine)


@torch.no_grad()
def film_features(
    model: AGCNN,
    films: Films,
    views: Views,
    config: Train,
    batch_size: int,
    machine: Machine,
    box_NR4: Tensor | None = None,
) -> Tensor:
    """Pooled features of one view a film, global then local: N x 2D float32. `box_NR4`: of `film_boxes`, for crops that
    do not depend on the view; without them the global branch looks at each view."""

    def features(batch: FilmBatch, views: Views) -> Tensor:
        box_BR4 = None if box_NR4 is None else box_in_view(box_NR4[batch.place_B], views, config)
        return torch.cat(branches(model, picture(batch, views, config), box_BR4), 1).float()

    return _over(films, views, features, batch_size, machine)


@torch.no_grad()
def branches(model: AGCNN, shown: Picture, box_BR4: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Pooled features of the global and the local branch, BD each; without boxes the global branch looks itself."""
    glob = model.forward_global(shown.view_B1HW)
    if box_BR4 is None:
        box_BR4 = model.look(glob.feature_BDhw, shown.view_B1HW).box_BR4
    return glob.pooled_BD, local(model, shown, box_BR4).pooled_BD


def box_in_view(box_BR4: Tensor, views: Views, config: Train) -> Tensor:
    """Boxes of the films (prepared pixels) as these views show them. Of the first box, the whole view for ALL and where
    too little is left; of a further one, none where too little is left."""
    box_BR4 = augment.map_boxes(box_BR4, views, config.image_size, to="view")
    if config.local.look == "oracle":
        return around(box_BR4, config)
    return augment.within(box_BR4, config.image_size, config.local.min_side)[0]


def places(films: Films, crops: int) -> Tensor:
    """The first annotated places of each film, NR4 in prepared pixels: ALL where it has none, no box where fewer.
    Raises ValueError for films whose places are not known."""
    if films.place_NR4 is None:
        raise ValueError(
            "local.look is 'oracle', but of these films no places are known; those of a phantom are (prepare it again "
            "if it was drawn by an earlier version, agcxr phantom), or leave --local.look out"
        )
    place_NR4 = torch.from_numpy(films.place_NR4[:, :crops]).clone()
    place_NR4[~geometry.present(place_NR4[:, 0]), 0] = place_NR4.new_tensor(ALL)
    return F.pad(place_NR4, (0, 0, 0, crops - place_NR4.shape[1]))


def around(place_BR4: Tensor, config: Train) -> Tensor:
    """Crops at places in pixels of the view, inside it: squares about the middle of the feature cell that holds the
    place's, where a perfect attention's would be. Their side is the window's, or follows the place's."""
    size, cell = config.image_size, config.output_stride
    side_BR2 = place_BR4[..., 2:] - place_BR4[..., :2]
    side_BR1 = (MARGIN * side_BR2.amax(-1, keepdim=True)).clamp(min=config.local.min_side, max=size)
    if config.local.window:
        side_BR1 = torch.full_like(side_BR1, round(config.local.window * size))
    middle_BR2 = ((place_BR4[..., 2:] + place_BR4[..., :2]) / 2).clamp(0, size - 1)
    start_BR2 = (((middle_BR2 / cell).floor() + 0.5) * cell - side_BR1 / 2).clamp(min=0)
    start_BR2 = torch.minimum(start_BR2, size - side_BR1)
    box_BR4 = torch.where(geometry.present(place_BR4)[..., None], torch.cat([start_BR2, start_BR2 + side_BR1], -1), 0.0)
    return torch.where(
        place_BR4.isinf().any(-1, keepdim=True), geometry.whole(torch.zeros_like(box_BR4), size), box_BR4
    )


def feature_device(n_views: int, n_films: int, width: int, device: torch.device) -> torch.device:
    """The device for small caches, the host's memory for large ones."""
    return device if 4 * n_views * n_films * width <= ON_DEVICE_BYTES else torch.device("cpu")


def whole(place_M: Tensor, value_M: Tensor, n: int, gather: Gather) -> Tensor:
    """The values of all processes in order: value of place p at row p, padding (place -1) left out."""
    place, value = gather(place_M).flatten(), gather(value_M).flatten(0, 1)
    counted = place >= 0
    out = value.new_full((n, *value.shape[1:]), float("nan"))
    out[place[counted]] = value[counted]
    return out


def _over(
    films: Films, views: Views, what: Callable[[FilmBatch, Views], Tensor], batch_size: int, machine: Machine
) -> Tensor:
    places, values = [], []
    for batch, here in _batches(films, views, batch_size, machine):
        with machine.autocast():  # type: ignore[attr-defined]
            values.append(what(batch, here))
        places.append(batch.place_B)
    return whole(torch.cat(places), torch.cat(values), len(films), machine.gather)


def _batches(films: Films, views: Views, batch_size: int, machine: Machine) -> Iterator[tuple[FilmBatch, Views]]:
    pin = machine.device.type == "cuda"
    for batch in evaluation_batches(films, batch_size, shard=machine.shard, pin=pin):
        yield batch.to(machine.device), views[batch.place_B].to(machine.device)  # place -1: the last film again
