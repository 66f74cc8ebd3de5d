"""Training on CPUs: gradients of depthwise convolutions, and memory that is used again.

In bf16 a step of EfficientNet-Lite0 takes six tenths of the time of PyTorch's own, where both keep freed memory:
`python -m benchmarks --only training_step --backbone tf_efficientnet_lite0`. The same numbers are summed, in another
order.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# mallopt's parameters (malloc.h): memory given back to the system at the top of the heap, taken from it beyond what is
# asked for, and blocks that are mapped one by one.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 64 * 2**20


@cache
def keep_freed_memory() -> bool:
    """Have this process use freed memory again rather than give it back to the system. Whether it could (glibc only).

    A step frees and takes blocks of many megabytes by the hundred. Mapped one by one, as glibc does with large ones,
    every page of them is cleared by the system each time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _TOP_PAD_BYTES))
    return all(bool(mallopt(name, value)) for name, value in settings)


class FastDepthwise(TorchFunctionMode):
    """Within it, depthwise convolutions that autocast computes in bf16 on a CPU get gradients by a faster way.

    oneDNN's own are 5 to 30 times as slow as its forward pass there: that to the input where the stride is over 1, that
    to the weights where the kernel is over 3 x 3. All others, other devices and dtypes are left as they are.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is torch.conv2d and not kwargs and len(args) == 7 and _is_slow(*args):
            image, weight, bias, stride, padding, _, _ = args
            to = torch.get_autocast_dtype("cpu")
            out = _Depthwise.apply(image.to(to), weight.to(to), tuple(stride), tuple(padding))
            return out if bias is None else out + bias.to(to)[:, None, None]
        return function(*args, **(kwargs or {}))


def _is_slow(
    image: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> bool:
    """Whether a convolution is one whose gradients are slow, and are asked for."""
    depthwise = image.dim() == 4 and groups > 1 and groups == image.shape[1] == weight.shape[0]
    if not depthwise or not all(isinstance(pair, tuple) for pair in (stride, padding, dilation)):
        return False
    high, wide = weight.shape[2:]
    usual = set(dilation) == {1} and padding[0] < high and padding[1] < wide
    bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    asked = torch.is_grad_enabled() and (image.requires_grad or weight.requires_grad)
    return usual and bf16 and asked and image.device.type == "cpu" and (max(stride) > 1 or max(high, wide) > 3)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of B x C x H x W by C x 1 x h x w, without bias and dilation."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(image, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        image, weight = ctx.saved_tensors
        to_image = to_weight = None
        if ctx.needs_input_grad[0]:
            to_image = (_from_spread if max(ctx.stride) > 1 else _library_grad)(grad, image, weight, ctx, 0)
        if ctx.needs_input_grad[1]:
            if max(weight.shape[2:]) > 3 and weight.dtype == torch.bfloat16:
                to_weight = _library_grad(grad.float(), image.float(), weight.float(), ctx, 1).to(weight.dtype)
            else:
                to_weight = _library_grad(grad, image, weight, ctx, 1)
        return to_image, to_weight, None, None


def _library_grad(grad: Tensor, image: Tensor, weight: Tensor, ctx: Any, which: int) -> Tensor:
    """PyTorch's gradient to the image (0) or to the weights (1)."""
    asked = [which == 0, which == 1, False]
    stride, padding = list(ctx.stride), list(ctx.padding)
    backward = torch.ops.aten.convolution_backward
    return backward(grad, image, weight, None, stride, padding, [1, 1], False, [0, 0], len(weight), asked)[which]


def _from_spread(grad: Tensor, image: Tensor, weight: Tensor, ctx: Any, _: int) -> Tensor:
    """The gradient to the image: that of the output spread out by the stride, zeros between, convolved with the turned
    kernel, which is a forward pass of stride 1."""
    (down, right), (above, left) = ctx.stride, ctx.padding
    batch, channels, tall, wide = image.shape
    high, broad = weight.shape[2:]
    spread = grad.new_zeros((batch, tall + 2 * above - high + 1, wide + 2 * left - broad + 1, channels))
    spread = spread.permute(0, 3, 1, 2)  # channels_last, as training is
    spread[:, :, ::down, ::right] = grad
    return torch.conv2d(spread, weight.flip(2, 3), None, 1, (high - 1 - above, broad - 1 - left), 1, channels)
