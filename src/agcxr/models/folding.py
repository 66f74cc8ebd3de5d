"""Batch norms folded into the convolutions before them, for passes that need no gradients.

In evaluation a batch norm is a scale and a shift of each channel, which the weights of the convolution before it can
hold as well: the same answers up to rounding, and a reading and a writing of every feature map less. Frozen branches,
validation and prediction run this way; whatever trains, is exported or is watched by hooks does not.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3
"""Largest difference on the first image, as a share of the largest feature; a fold that is not one differs wholly."""

Key = tuple[tuple[int, int], ...]


class Folding:
    """Keeps the folded twin of one network. A twin counts for the very tensors it was made of: it is made anew when one
    of them was moved or written to, and whenever the network may have learned in between (fused optimisers write
    without PyTorch's count of it)."""

    def __init__(self) -> None:
        self._pairs: tuple[tuple[str, str], ...] | None = None
        self._twin: tuple[Key, nn.Module] | None = None

    def __reduce__(self) -> tuple[type[Folding], tuple[()]]:
        """Copies and pickles begin empty."""
        return Folding, ()

    def of(self, net: nn.Module, image_BCHW: Tensor) -> nn.Module:
        """The twin of `net`, or `net` itself where gradients are wanted, it trains, it is traced or compiled, somebody
        listens by a hook, or nothing can be folded. `image_BCHW`: what it is about to be given; the first image of it
        shows, once, that the twin answers alike."""
        if net.training or torch.is_grad_enabled():
            self._twin = None
            return net
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return net
        key = _key(net)
        if key is None or self._pairs == () or not len(image_BCHW):
            return net
        if self._twin is None or self._twin[0] != key:
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(image_BCHW.device.type, enabled=False):
                if self._pairs is None:
                    self._pairs = _foldable(net, image_BCHW[:1].clone())
                if not self._pairs:
                    return net
                self._twin = (key, _folded(net, self._pairs))
        return self._twin[1]


def _foldable(net: nn.Module, image_1CHW: Tensor) -> tuple[tuple[str, str], ...] | None:
    """The pairs, none where folding them would answer otherwise; None where this image cannot show it."""
    pairs, plain = _pairs(net, image_1CHW)
    if not pairs:
        return ()
    if not plain.isfinite().all():
        return None
    gap = (_folded(net, pairs)(image_1CHW) - plain).abs().max()
    return pairs if gap <= TOLERANCE * plain.abs().max() else ()


def _key(net: nn.Module) -> Key | None:
    """Where each tensor lies and how often it was written to; None where that cannot be told, a hook listens, or norms
    are shared by processes for a while (they are not what they will be again)."""
    found = []
    for module in net.modules():
        if module._forward_hooks or module._forward_pre_hooks or isinstance(module, nn.SyncBatchNorm):
            return None
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is None:
                continue
            if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_inference() or tensor.is_meta:
                return None
            found.append((tensor.data_ptr(), tensor._version))
    return tuple(found)


def _pairs(net: nn.Module, image_1CHW: Tensor) -> tuple[tuple[tuple[str, str], ...], Tensor]:
    """(convolution, batch norm) by name, where the norm is given just what the convolution gave, each called once; and
    what the network answered."""
    made: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept, so that no other takes their place
    calls: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []
    handles = []

    def gave(name: str) -> Any:
        def hook(module: nn.Module, given: Any, out: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            made[id(out)] = (name, out)

        return hook

    def given_to(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            calls[name] = calls.get(name, 0) + 1
            if id(given[0]) in made:
                pairs.append((made[id(given[0])][0], name))

        return hook

    for name, module in net.named_modules():
        if type(module) in (nn.Conv2d, Conv2dSame):
            handles.append(module.register_forward_hook(gave(name)))
        elif type(module) in (nn.BatchNorm2d, BatchNormAct2d) and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(given_to(name)))
    try:
        plain = net(image_1CHW)
    finally:
        for handle in handles:
            handle.remove()
    convolutions = [conv for conv, _ in pairs]
    once = tuple(
        (conv, norm) for conv, norm in pairs if calls[conv] == 1 and calls[norm] == 1 and convolutions.count(conv) == 1
    )
    return once, plain


def _folded(net: nn.Module, pairs: tuple[tuple[str, str], ...]) -> nn.Module:
    """A copy that shares every tensor with `net` but those of the folded convolutions."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    twin = copy.deepcopy(net, shared)
    for conv, norm in pairs:
        convolution, batch_norm = net.get_submodule(conv), net.get_submodule(norm)
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(batch_norm, nn.BatchNorm2d)
        twin.set_submodule(conv, fuse_conv_bn_eval(convolution, batch_norm).requires_grad_(False))
        after = (batch_norm.drop, batch_norm.act) if isinstance(batch_norm, BatchNormAct2d) else ()
        twin.set_submodule(norm, nn.Sequential(*after))
    return twin.eval()
