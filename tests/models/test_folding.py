"""Folded batch norms: the same answers by fewer operations, never a stale one, and out of the way where asked."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from agcxr.models.agcnn import AGCNN
from agcxr.models.backbones import Backbone
from agcxr.models.folding import Folding

SHAPE = (3, 1, 64, 64)


def seen(name: str = "test_resnet") -> Backbone:
    """A backbone whose batch norms have seen images: their statistics are no longer 0 and 1."""
    torch.manual_seed(0)
    net = Backbone(name, weights="none").train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        for _ in range(3):
            net(2 * torch.randn(SHAPE))
    return net.eval()


class Norms(TorchDispatchMode):
    """Counts the batch norms that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "batch_norm" in func.name()
        return func(*args, **(kwargs or {}))


def norms(net: nn.Module, image: torch.Tensor) -> int:
    with Norms() as counted, torch.no_grad():
        net(image)
    return counted.count


@pytest.mark.parametrize(
    ("name", "left"),
    [("test_resnet", 0), ("resnet10t", 0), ("test_efficientnet", 0), ("tf_mobilenetv3_small_minimal_100", 0)],
)
def test_the_twin_answers_alike_without_a_batch_norm(name, left):
    net, image = seen(name), torch.randn(SHAPE)
    with torch.no_grad():
        plain, twin = net(image), Folding().of(net, image)
        assert twin is not net
        torch.testing.assert_close(twin(image), plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))
    assert norms(net, image) > 5
    assert norms(twin, image) == left


def test_norms_that_follow_no_convolution_stay():
    """DenseNet's first norm of a layer is given many maps put together."""
    net, image = seen("densenet121"), torch.randn(SHAPE)
    with torch.no_grad():
        plain, twin = net(image), Folding().of(net, image)
        torch.testing.assert_close(twin(image), plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))
    assert 0 < norms(twin, image) < norms(net, image)
    stay, folded = "net.features.denseblock1.denselayer1.norm1", "net.features.denseblock1.denselayer1.conv1"
    assert twin.get_submodule(stay).weight is net.get_submodule(stay).weight
    assert twin.get_submodule(folded).weight is not net.get_submodule(folded).weight


def test_a_network_without_batch_norms_is_left_alone():
    torch.manual_seed(0)
    net = Backbone("test_convnext", weights="none").eval()
    with torch.no_grad():
        assert Folding().of(net, torch.randn(SHAPE)) is net


class TwoUses(nn.Module):
    """What the convolution gives goes into the norm, and around it as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.norm.running_var.fill_(4.0)

    def forward(self, image):
        out = self.conv(image)
        return self.norm(out) + out


class TwoNorms(TwoUses):
    """One convolution for two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.BatchNorm2d(4)

    def forward(self, image):
        out = self.conv(image)
        return self.norm(out) + self.other(out)


class TwoCalls(TwoUses):
    """One convolution and one norm, called twice; folding would be right, but nobody needs it."""

    def forward(self, image):
        return self.norm(self.conv(image)) + self.norm(self.conv(image + 1))


@pytest.mark.parametrize("kind", [TwoUses, TwoNorms, TwoCalls])
def test_what_cannot_be_folded_is_not(kind):
    torch.manual_seed(0)
    net, image = kind().eval(), torch.randn(SHAPE)
    with torch.no_grad():
        folding = Folding()
        assert folding.of(net, image) is net
        assert folding.of(net, image) is net


def test_training_gradients_and_hooks_get_the_network_itself():
    net, image, folding = seen(), torch.randn(SHAPE), Folding()
    assert folding.of(net, image) is net  # gradients
    with torch.no_grad():
        assert folding.of(net.train(), image) is net
        net.eval()
        assert folding.of(net, image[:0]) is net
        handle = net.net.layer4.register_forward_hook(lambda *given: None)
        assert folding.of(net, image) is net
        handle.remove()
        assert folding.of(net, image) is not net


def test_norms_shared_by_processes_wait():
    """Several GPUs share a branch's norms while it trains, and give them back: before, meanwhile and after."""
    net, image, folding = seen(), torch.randn(SHAPE), Folding()
    with torch.no_grad():
        assert folding.of(net, image) is not net
        shared = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
        assert folding.of(shared, image) is shared
        fresh = Folding()
        assert fresh.of(shared, image) is shared
        assert fresh.of(net, image) is not net


def test_a_hook_hears_the_backbone_of_a_model():
    torch.manual_seed(0)
    model, heard = AGCNN("test_resnet", weights="none", image_size=64, resize=72).eval(), []
    with torch.no_grad():
        model.forward_global(torch.rand(SHAPE))
        model.global_branch.backbone.net.layer4.register_forward_hook(lambda *given: heard.append(given[2].shape))
        model.forward_global(torch.rand(SHAPE))
    assert len(heard) == 1


def written(net: Backbone) -> None:
    net.net.bn1.running_mean += 1


def loaded(net: Backbone) -> None:
    net.load_state_dict(
        {name: value * 2 if value.is_floating_point() else value for name, value in net.state_dict().items()}
    )


def trained(net: Backbone) -> None:
    with torch.enable_grad():
        net(torch.randn(SHAPE)).square().mean().backward()
    torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9).step()


def wider(net: Backbone) -> None:
    net.double()


@pytest.mark.parametrize("change", [written, loaded, trained, wider])
def test_a_twin_is_never_stale(change):
    net, folding = seen(), Folding()
    with torch.no_grad():
        image = torch.randn(SHAPE)
        before = folding.of(net, image)
        assert folding.of(net, image) is before
        change(net)
        image = image.to(next(net.parameters()).dtype)
        plain, twin = net(image), folding.of(net, image)
        assert twin is not before
        assert twin is not net
        torch.testing.assert_close(twin(image), plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.AdamW])
def test_a_fused_step_makes_it_anew(optimiser):
    """Fused steps do not count as writing; here even the batch norms are held."""
    torch.manual_seed(0)
    model, image = AGCNN("test_resnet", weights="none", image_size=64, resize=72).eval(), torch.rand(SHAPE)
    learn = optimiser(model.parameters(), lr=0.5, fused=True)
    with torch.no_grad():
        before = model.forward_global(image).logit_BK
    model.forward_global(image).logit_BK.square().sum().backward()
    learn.step()
    with torch.no_grad():
        after = model.forward_global(image).logit_BK
    plain = model.forward_global(image).logit_BK
    assert not torch.allclose(after, before, rtol=1e-2)
    torch.testing.assert_close(after, plain, rtol=1e-4, atol=1e-4 * float(plain.detach().abs().max()))


def test_films_that_are_not_finite_decide_nothing():
    net, folding = seen(), Folding()
    with torch.no_grad():
        assert folding.of(net, torch.full(SHAPE, torch.nan)) is net
        assert folding.of(net, torch.randn(SHAPE)) is not net


def test_copies_begin_empty_and_states_know_nothing_of_it():
    torch.manual_seed(0)
    model = AGCNN("test_resnet", weights="none", image_size=64, resize=72).eval()
    names = list(model.state_dict())
    with torch.no_grad():
        model(torch.rand(SHAPE))
    assert model.global_branch._folding._twin is not None
    assert list(model.state_dict()) == names
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.global_branch._folding._twin is None


def test_a_twin_made_in_inference_mode_serves_outside_it():
    net, image, folding = seen(), torch.randn(SHAPE), Folding()
    with torch.inference_mode():
        twin = folding.of(net, image)
        inside = twin(image)
    with torch.no_grad():
        assert folding.of(net, image) is twin
        assert torch.equal(twin(image), inside)
    assert not any(parameter.is_inference() for parameter in twin.parameters())
