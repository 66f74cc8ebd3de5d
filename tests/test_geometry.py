"""Crops against F.interpolate, and boxes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from agcxr import geometry


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def integer_boxes(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    x0, y0 = torch.randint(0, width - 1, (n,), generator=draw), torch.randint(0, height - 1, (n,), generator=draw)
    x1 = x0 + 1 + (torch.rand(n, generator=draw) * (width - x0)).long()
    y1 = y0 + 1 + (torch.rand(n, generator=draw) * (height - y0)).long()
    return torch.stack([x0, y0, x1.clamp(max=width), y1.clamp(max=height)], 1).float()


def one_by_one(image: torch.Tensor, box: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    cuts = [part[:, y0:y1, x0:x1][None] for part, (x0, y0, x1, y1) in zip(image, box.int().tolist(), strict=True)]
    return torch.cat([F.interpolate(cut, size, mode="bilinear", align_corners=False) for cut in cuts])


@pytest.mark.parametrize(("source", "size"), [((100, 130), (64, 50)), ((33, 20), (112, 112)), ((512, 512), (96, 96))])
@pytest.mark.parametrize("channels", [1, 3])
def test_integer_boxes_equal_interpolate(source, size, channels):
    image, box = noise(24, channels, *source), integer_boxes(24, *source)
    # Noise shows every rounding of a coordinate; float32 places pixel 500 to within 3e-5 of a pixel.
    tolerance = 2e-6 if max(source) < 200 else 1e-5
    torch.testing.assert_close(geometry.crop(image, box, size), one_by_one(image, box, size), rtol=0, atol=tolerance)


def test_whole_image_at_its_own_size_is_unchanged():
    image = noise(2, 1, 37, 50)
    box = torch.tensor([[0.0, 0, 50, 37]] * 2)
    assert torch.equal(geometry.crop(image, box, (37, 50)), image)
    assert torch.equal(geometry.crop(image, geometry.whole(box, (37, 50)), (37, 50)), image)


def test_an_integer_box_at_its_own_size_is_a_slice():
    image = noise(1, 1, 20, 20)
    assert torch.equal(geometry.crop(image, torch.tensor([[3.0, 5, 13, 11]]), (6, 10)), image[:, :, 5:11, 3:13])


def test_worked_example():
    image = torch.tensor([[0.0, 1, 2, 3], [4, 5, 6, 7]])[None, None]
    found = geometry.crop(image, torch.tensor([[0.5, 0.0, 2.5, 2.0]]), (1, 2))
    assert found.tolist() == [[[[2.5, 3.5]]]]  # between columns 0|1 and 1|2, and between the two rows


def test_fractional_boxes_read_a_linear_ramp_exactly():
    ramp = torch.arange(40.0).expand(1, 1, 40, 40) / 40
    found = geometry.crop(ramp, torch.tensor([[7.3, 2.0, 19.9, 30.0]]), 8)[0, 0, 0] * 40
    centres = 7.3 + (torch.arange(8) + 0.5) * 12.6 / 8 - 0.5
    torch.testing.assert_close(found, centres, atol=1e-5, rtol=0)


def test_a_box_narrower_than_a_pixel_and_one_outside():
    image = noise(2, 1, 9, 9)
    box = torch.tensor([[4.0, 4.0, 4.5, 5.0], [20.0, 20.0, 30.0, 30.0]])
    found = geometry.crop(image, box, 3)
    assert torch.equal(found[0], image[0, :, 4, 4].expand(1, 3, 3))
    assert torch.equal(found[1], image[1, :, 8, 8].expand(1, 3, 3))


def test_batched_equals_single_in_any_layout():
    image, box = noise(5, 3, 40, 40), integer_boxes(5, 40, 40) * 0.97
    together = geometry.crop(image, box, 24)
    alone = torch.cat([geometry.crop(image[k : k + 1], box[k : k + 1], 24) for k in range(5)])
    assert torch.equal(together, alone)
    assert torch.equal(geometry.crop(image.to(memory_format=torch.channels_last), box, 24), together)


def test_the_route_of_a_cpu_equals_that_of_other_devices_and_passes_no_gradient_by():
    image, box = noise(5, 2, 40, 50), integer_boxes(5, 40, 50) * 0.97
    plainly = geometry.crop(image, box, (24, 33))
    asked = image.clone().requires_grad_()  # takes the route of tensor operations
    found = geometry.crop(asked, box, (24, 33))
    torch.testing.assert_close(found.detach(), plainly, rtol=0, atol=1e-6)
    found.sum().backward()
    assert asked.grad is not None
    assert asked.grad.sum().item() == pytest.approx(found.numel(), rel=1e-5)  # the weights of a sample sum to one


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_crops_as_a_cpu_does_without_a_host_synchronisation():
    image, box = noise(8, 1, 100, 130), integer_boxes(8, 100, 130) * 0.97
    on_gpu = image.cuda(), box.cuda()
    geometry.crop(*on_gpu, 64)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = geometry.crop(*on_gpu, 64)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.cpu(), geometry.crop(image, box, 64), rtol=0, atol=1e-5)


def test_no_images_give_no_crops():
    assert geometry.crop(torch.zeros(0, 1, 8, 8), torch.zeros(0, 4), 4).shape == (0, 1, 4, 4)


def test_autocast_keeps_coordinates_and_dtype():
    image, box = noise(4, 1, 224, 224), integer_boxes(4, 224, 224)
    with torch.autocast("cpu", torch.bfloat16):
        found = geometry.crop(image, box, 224)
        half = geometry.crop(image.bfloat16(), box, 224)
    assert torch.equal(found, geometry.crop(image, box, 224))
    assert half.dtype == torch.bfloat16


def test_scaling_boxes():
    box = torch.tensor([[2.0, 3.0, 8.0, 6.0]])
    assert geometry.scale_boxes(box, (10, 20), (20, 10)).tolist() == [[1, 6, 4, 12]]
    assert geometry.scale_boxes(box, 8, 8).tolist() == box.tolist()


def test_a_sharper_image_of_the_same_view_gives_a_sharper_crop_of_the_same_place():
    smooth = F.interpolate(noise(1, 1, 5, 5), (96, 96), mode="bilinear")
    small = F.avg_pool2d(smooth, 2)
    box = torch.tensor([[10.0, 6.0, 40.0, 30.0]])
    sharp = geometry.crop(smooth, geometry.scale_boxes(box, 48, 96), 32)
    torch.testing.assert_close(sharp, geometry.crop(small, box, 32), atol=0.02, rtol=0)


def test_refusals_say_what_is_expected():
    image, box = noise(2, 1, 8, 8), torch.zeros(2, 4)
    with pytest.raises(ValueError, match="divide uint8 pixels by 255"):
        geometry.crop((image * 255).byte(), box, 4)
    with pytest.raises(ValueError, match=r"boxes have shape \(1, 4\); expected 2 x 4"):
        geometry.crop(image, box[:1], 4)
    with pytest.raises(ValueError, match="both sides must be at least 1"):
        geometry.crop(image, box, 0)
