import itertools
import platform

import pytest
import torch
from torch import nn

from agcxr.training import cpu
from agcxr.training.cpu import FastDepthwise, keep_freed_memory

CASES = [
    (size, kernel, stride, padding)
    for size, kernel, stride, padding in itertools.product(
        ((13, 12), (14, 15), (17, 17)),
        ((3, 3), (5, 5), (3, 5)),
        ((1, 1), (2, 2), (2, 1), (3, 2)),
        ((0, 0), (1, 1), (2, 1)),
    )
    if stride != (1, 1) or max(kernel) > 3
]


def pair(size, kernel, dtype=torch.float64, channels=6):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, channels, *size, dtype=dtype, generator=generator)
    weight = torch.randn(channels, 1, *kernel, dtype=dtype, generator=generator)
    return image.requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), CASES)
def test_gradients_are_those_of_pytorch(size, kernel, stride, padding):
    image, weight = pair(size, kernel)
    plain = torch.conv2d(image, weight, None, stride, padding, 1, len(weight))
    fast = cpu._Depthwise.apply(image, weight, stride, padding)
    assert torch.equal(plain, fast)
    grad = torch.linspace(-1, 1, plain.numel(), dtype=torch.float64).view_as(plain)
    for expected, got in zip(*(torch.autograd.grad(y, (image, weight), grad) for y in (plain, fast)), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def calls(monkeypatch):
    """The kernels that went the fast way."""
    seen = []
    apply = cpu._Depthwise.apply
    monkeypatch.setattr(cpu._Depthwise, "apply", lambda *args: seen.append(tuple(args[1].shape)) or apply(*args))
    return seen


@pytest.mark.parametrize("bias", [False, True])
def test_bf16_gradients_are_at_least_as_near_to_float32_as_before(bias, monkeypatch):
    seen = calls(monkeypatch)
    torch.manual_seed(0)
    net = nn.Conv2d(8, 8, 5, 2, 2, groups=8, bias=bias)
    image = torch.randn(4, 8, 21, 21).to(memory_format=torch.channels_last)

    def gradients(bf16, fast):
        net.zero_grad()
        given = image.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16), FastDepthwise() if fast else torch.enable_grad():
            out = net(given)
        assert out.dtype == (torch.bfloat16 if bf16 else torch.float32)
        (out.float() ** 2).sum().backward()
        return [given.grad, *(p.grad for p in net.parameters())]

    exact, plain, fast = gradients(False, False), gradients(True, False), gradients(True, True)
    assert seen == [(8, 1, 5, 5)]
    for of_exact, of_plain, of_fast in zip(exact, plain, fast, strict=True):
        scale = of_exact.norm()
        assert (of_fast - of_exact).norm() / scale < 1.1 * (of_plain - of_exact).norm() / scale + 1e-3
        assert (of_fast - of_exact).norm() / scale < 0.02


def test_only_slow_ones_in_bf16_with_gradients_go_the_fast_way(monkeypatch):
    seen = calls(monkeypatch)
    image = torch.randn(1, 8, 9, 9)
    with FastDepthwise():
        nn.Conv2d(8, 8, 5, groups=8)(image)  # float32
        with torch.autocast("cpu", torch.bfloat16):
            nn.Conv2d(8, 8, 3, padding=1, groups=8)(image)  # oneDNN is fast there
            nn.Conv2d(8, 8, 5, groups=4)(image)  # not depthwise
            nn.Conv2d(8, 16, 5, groups=8)(image)  # two outputs a channel
            nn.Conv2d(8, 8, 3, stride=2, dilation=2, groups=8)(image)
            nn.Conv2d(8, 8, 5, padding="same", groups=8)(image)
            with torch.no_grad():
                nn.Conv2d(8, 8, 5, groups=8)(image)
            assert seen == []
            nn.Conv2d(8, 8, 3, stride=2, groups=8)(image)
    assert seen == [(8, 1, 3, 3)]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
def test_freed_memory_is_kept_where_the_allocator_can_be_told():
    assert keep_freed_memory()


def test_another_allocator_is_left_alone(monkeypatch):
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory.__wrapped__() is False
