"""Stage III, five epochs: features of the frozen branches computed once, beside two forward passes in every epoch.

Both sides are `agcxr train`'s own task on the same films and views (augmentation off, one view a film), from the same
weights; the trained fusion layers are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from agcxr.config import Augment, Train
from agcxr.training.stages import make_trainer, uses_bf16
from agcxr.training.tasks import Data, StageTask
from benchmarks import materials
from benchmarks.materials import Settings
from benchmarks.measure import Fact, Found, Row, alternate

THEME = "fusion cache"
EPOCHS = 5

LIMITS = """
One forward pass of both branches over the films (the limit's side: on tensors that are on the device, boxes known): no
program can know the features with less. What is left is reading and rendering the films, attention and crop, building
the network, and five epochs of a linear layer, which do not grow with the size of the branches.
"""


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

    sides: dict[str, Callable[[], object]] = {n: lambda n=n: fit(n) for n in ("cached", "plain")}
    sides["bare"] = bare_pass(plain, len(films) + len(data.val))
    found = alternate(sides, settings.pick(3, 1), warm_up=0)
    yield Row(
        f"stage III, {EPOCHS} epochs, {settings.backbone}",
        "the same, nothing kept",
        EPOCHS * len(films),
        found["cached"],
        found["plain"],
        peer=True,
        note=f"{len(films)} films; both sides build the network and validate. The more epochs, the larger the ratio",
    )
    yield Row(
        f"stage III, {EPOCHS} epochs, {settings.backbone}",
        "one bare forward pass of both branches",
        len(films),
        found["cached"],
        found["bare"],
        peer=False,
        note="images/s here are films of the whole stage",
    )
    gap = float((left["cached"] - left["plain"]).abs().max())
    yield Fact(
        "largest difference of a fusion weight after training",
        f"{gap:.1e}",
        "at the run's precision (bf16 where the hardware computes in it); the test in float32 demands 1e-5",
    )


def bare_pass(config: Train, n: int, *, local: bool = True) -> Callable[[], None]:
    """A closure that runs n films through both branches (or the global one alone), on tensors that lie on the device,
    at the run's precision."""
    there, batch = materials.device(), 2 * config.fusion.batch_size
    model = materials.network(config).to(there).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    view = torch.rand(batch, 1, config.image_size, config.image_size, device=there)

    @torch.no_grad()
    def forward() -> None:
        for start in range(0, n, batch):
            part = view[: n - start]
            with torch.autocast(there.type, torch.bfloat16, enabled=uses_bf16(config.precision)):
                whole = model.forward_global(part).pooled_BD
                if local:
                    model.fuse(whole, model.forward_local(part).pooled_BD)

    return forward
