"""Stage III, five epochs: features of the frozen branches computed once, beside two forward passes in every epoch.

Both sides are `agcxr train`'s own task on the same films and views (augmentation off, one view a film), from the same
weights; the trained fusion layers are compared.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from agcxr.config import Augment
from agcxr.training.stages import make_trainer
from agcxr.training.tasks import Data, StageTask
from benchmarks import materials
from benchmarks.materials import Settings
from benchmarks.measure import Fact, Found, Row, alternate

THEME = "fusion cache"
EPOCHS = 5


def run(settings: Settings) -> Iterator[Found]:
    """One row, and how equal the results are."""
    films = materials.tiled(settings.folder, settings.pick(48 if materials.device().type == "cpu" else 4096, 16))
    data = Data(films, films.first(4))
    plain = materials.recipe(settings, epochs=(1, 1, EPOCHS))
    plain = plain.model_copy(update={"augment": Augment(crop="none", flip=0.0)})
    cached = plain.model_copy(update={"fusion": plain.fusion.model_copy(update={"cached_views": 1})})
    left: dict[str, torch.Tensor] = {}

    def fit(name: str) -> None:
        config = cached if name == "cached" else plain
        model = materials.network(config)
        trainer = make_trainer(config, EPOCHS, [], settings.folder)
        trainer.fit(StageTask(model, config, "fusion", data))
        left[name] = model.fusion_head.weight.detach().float().cpu().clone()

    found = alternate({n: lambda n=n: fit(n) for n in ("cached", "plain")}, settings.pick(3, 1), warm_up=0)
    yield Row(
        f"stage III, {EPOCHS} epochs, {settings.backbone}",
        "the same, nothing kept",
        EPOCHS * len(films),
        found["cached"],
        found["plain"],
        peer=True,
        note=f"{len(films)} films; both sides build the network and validate. The more epochs, the larger the ratio",
    )
    gap = float((left["cached"] - left["plain"]).abs().max())
    yield Fact(
        "largest difference of a fusion weight after training",
        f"{gap:.1e}",
        "at the run's precision (bf16 where the hardware computes in it); the test in float32 demands 1e-5",
    )
