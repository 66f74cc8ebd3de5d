"""Batch norms shared by GPUs: the network stays the one whose weights are kept, before, during and after a fit.

On one processor a shared norm computes what a plain one does, once it is kept from asking for a GPU.
"""

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import load_file
from tiny import short
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from agcxr.data.dataset import films
from agcxr.data.prepared import open_prepared
from agcxr.models.agcnn import AGCNN
from agcxr.training import stages
from agcxr.training.norms import SharedNorms
from agcxr.training.run_folder import RunFolder
from agcxr.training.tasks import Data

torch.set_num_threads(1)


def network(name: str) -> AGCNN:
    torch.manual_seed(0)
    return AGCNN(name, weights="none", image_size=64, resize=64).to(memory_format=torch.channels_last)


def kinds(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


def answers(model: AGCNN) -> torch.Tensor:
    image_B1HW = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    return torch.stack([model.global_branch(image_B1HW).logit_BK, model.local_branch(image_B1HW).logit_BK])


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", ["test_resnet", "densenet121", "test_efficientnet"])
def test_the_network_is_the_same_one_before_during_and_after(name, training):
    plain, shared, norms = network(name), network(name), SharedNorms()
    before = kinds(shared)
    assert norms.apply(shared) is shared
    assert len(before) > 4
    assert kinds(shared).keys() == before.keys()
    assert all(issubclass(kind, nn.SyncBatchNorm) for kind in kinds(shared).values())
    assert list(shared.state_dict()) == list(plain.state_dict())
    assert torch.equal(answers(shared.train(training)), answers(plain.train(training)))  # and moves the statistics
    last = shared.global_branch.forward(torch.rand(2, 1, 64, 64)).feature_BDhw
    assert last.is_contiguous(memory_format=torch.channels_last)
    plain.global_branch.forward(torch.rand(2, 1, 64, 64))
    shared.load_state_dict(plain.state_dict())
    assert norms.revert(shared) is shared
    assert kinds(shared) == before
    assert all(module.training == training for module in shared.modules())
    assert torch.equal(answers(shared.eval()), answers(plain.eval()))


def test_what_was_learned_and_moved_to_a_device_is_in_the_norms_put_back():
    """Lightning moves the network after `apply`: parameters are kept, statistics are new tensors."""
    model, norms = network("test_efficientnet"), SharedNorms()
    parameters = list(model.parameters())
    norms.apply(model)
    assert all(one is two for one, two in zip(parameters, model.parameters(), strict=True))
    model.double().global_branch.backbone(torch.rand(2, 1, 64, 64, dtype=torch.float64))
    learned = {key: value.clone() for key, value in model.state_dict().items()}
    norms.revert(model)
    assert list(model.state_dict()) == list(learned)
    assert all(torch.equal(value, learned[key]) for key, value in model.state_dict().items())
    assert learned["global_branch.backbone.net.bn1.num_batches_tracked"] == 1
    norms.revert(model)  # nothing is left to put back
    assert all(torch.equal(value, learned[key]) for key, value in model.state_dict().items())


def test_frozen_branches_are_left_as_they_are():
    model, norms = network("test_resnet").freeze("global"), SharedNorms()
    before = kinds(model)
    norms.apply(model)
    found = kinds(model)
    assert {name.partition(".")[0] for name in found if found[name] is not before[name]} == {"local_branch"}
    assert {name.partition(".")[0] for name in found if found[name] is before[name]} == {"global_branch"}
    statistics = model.global_branch.state_dict()["backbone.net.bn1.running_mean"].clone()
    answers(model.train())
    assert torch.equal(model.global_branch.state_dict()["backbone.net.bn1.running_mean"], statistics)


def test_a_fit_shares_norms_and_puts_them_back(prepared, tmp_path, monkeypatch):
    """By Lightning, one process: the weights of a fit without the plugin, and the kinds of norms of before."""
    calls, trainer = [], L.Trainer

    def in_one_process(norm, given):  # torch's own asks for a GPU first
        calls.append(norm)
        return _BatchNorm.forward(norm, given)

    monkeypatch.setattr(nn.SyncBatchNorm, "forward", in_one_process)
    monkeypatch.setattr(nn.parallel.DistributedDataParallel, "_passing_sync_batchnorm_handle", lambda *_: None)  # too
    opened, made = open_prepared(prepared), short(backbone="test_efficientnet")
    data = Data(films(opened, "train"), films(opened, "val"))
    for name, plugins in (("plain", None), ("shared", [SharedNorms()])):
        ddp = {"strategy": DDPStrategy(static_graph=True), "plugins": plugins}
        monkeypatch.setattr(L, "Trainer", lambda ddp=ddp, **given: trainer(**given | ddp))
        torch.manual_seed(0)
        model = stages.build(made)
        before = kinds(model)
        try:
            stages.train_stage("global", model, made, data, RunFolder(tmp_path / name), progress=False)
        finally:
            torch.distributed.destroy_process_group()
        assert kinds(model) == before
        assert bool(calls) == (name == "shared")
    plain, shared = (load_file(tmp_path / name / "global" / "best.safetensors") for name in ("plain", "shared"))
    assert plain.keys() == shared.keys()
    assert all(torch.equal(plain[key], shared[key]) for key in plain)
    assert all(torch.equal(value, shared[key]) for key, value in model.global_branch.state_dict().items())


@pytest.mark.parametrize(("cuda", "devices", "shared"), [(True, 2, True), (True, 1, False), (False, 2, False)])
def test_the_trainer_of_several_gpus_shares_norms(monkeypatch, tmp_path, cuda, devices, shared):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(L, "Trainer", lambda **given: given)
    given = stages.make_trainer(short(devices=devices), 1, [], tmp_path)
    assert [type(plugin) for plugin in given["plugins"] or ()] == [SharedNorms] * shared
    assert not given.get("sync_batchnorm")
