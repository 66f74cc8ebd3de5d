"""Batch norms over the whole batch of a step, where several GPUs share it."""

from __future__ import annotations

from lightning.pytorch.plugins.layer_sync import LayerSync
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

STATE = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class SharedNorms(LayerSync):
    """What a Lightning Trainer does to the model before a fit on several GPUs, and undoes after it.

    Lightning's own plugin makes plain batch norms of timm's that have an activation inside (DenseNet, EfficientNet), so
    that another network is trained than the one whose weights are kept.
    """

    def __init__(self) -> None:
        self._replaced: list[tuple[str, nn.Module]] = []

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace the batch norms that learn, in place, by ones that share their statistics. Names and tensors stay.

        Frozen ones are in evaluation mode and take no statistics of a batch: they are left as they are.
        """
        for name, norm in list(model.named_modules()):
            if isinstance(norm, _BatchNorm) and norm.training:
                model.set_submodule(name, convert_sync_batchnorm(norm))
                self._replaced.append((name, norm))
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Put the norms that were replaced back, with what has been learned since."""
        for name, norm in self._replaced:
            shared = model.get_submodule(name)
            for key in STATE:
                setattr(norm, key, getattr(shared, key))
            model.set_submodule(name, norm.train(shared.training))
        self._replaced.clear()
        return model
