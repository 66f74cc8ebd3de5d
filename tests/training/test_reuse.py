"""What is done is not done again: stages taken over from another run, and finished runs left as they are."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import short, write_prepared

from agcxr.cli import main
from agcxr.config import from_yaml, to_yaml
from agcxr.training import run_folder, stages
from agcxr.training.run_folder import Reused, RunFolder, StageSummary, uses_bf16, write_weights
from agcxr.training.stages import train

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def donor(prepared, tmp_path_factory) -> Path:
    return train(prepared, short(), tmp_path_factory.mktemp("reuse") / "donor", progress=False).folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def content(run: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in run.rglob("*") if path.is_file()]
    return {str(path.relative_to(run)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_stages_that_would_be_the_same_are_taken_over(prepared, tmp_path, donor, capsys):
    other = short(local={"threshold": 0.4})
    alone = train(prepared, other, tmp_path / "alone", progress=False)
    shared = train(prepared, other, tmp_path / "shared", reuse=[donor])
    out = capsys.readouterr().out
    assert f"From {donor}: took over global; trains local, fusion (local.threshold: 0.7 -> 0.4)." in out
    assert " weights a branch, views of 48 px: 25 films to train on, 13 to validate." in out
    assert ", fp32.\nEpochs at most: global (done), local 1, fusion 1. A line each; * marks the best so far" in out
    assert not (tmp_path / "shared" / "global" / "last.ckpt").exists()  # copied, not trained
    assert (tmp_path / "shared" / "local" / "last.ckpt").exists()
    one, two = weights(alone.folder), weights(shared.folder)
    assert all(torch.equal(one[key], two[key]) for key in one | two)
    assert [s.val_auc for s in shared.stages] == [s.val_auc for s in alone.stages]


def test_another_seed_takes_nothing_over(prepared, tmp_path, donor, capsys):
    run = train(prepared, short(seed=1), tmp_path / "run", reuse=[donor])
    assert "took nothing over; trains global, local, fusion (seed: 0 -> 1)." in capsys.readouterr().out
    assert (run.folder / "global" / "last.ckpt").exists()


def test_learned_maps_belong_to_the_global_stage(donor, prepared, tmp_path, capsys):
    """They are trained in it, so that it is another stage with them, and with another share; other statistics share."""
    base, maps = short(), short(local={"statistic": "learned"})
    other = short(local={"statistic": "learned", "top_share": 0.5})
    assert run_folder.recipe(base, 0) == run_folder.recipe(short(local={"statistic": "cam", "crops": 3}), 0)
    for one, two in ((base, maps), (maps, base), (maps, other)):
        assert run_folder._unlike(one, two, 0)
        assert run_folder._unlike(one, two, 1)
    train(prepared, maps, tmp_path / "maps", reuse=[donor])
    said = "took nothing over; trains global, local, fusion (local.statistic: one without maps of its own -> learned"
    assert said in capsys.readouterr().out


def test_a_stage_that_diverged_is_tried_again_without_the_one_before(prepared, tmp_path, capsys):
    wild = short(local={"lr": 1e30})
    with pytest.raises(ValueError, match="diverged") as told:
        train(prepared, wild, tmp_path / "wild", progress=False)
    cure = f"lower --local.lr (now 1e+30); a new run with --reuse {tmp_path / 'wild'} need not train global again"
    assert str(told.value).endswith(cure)
    train(prepared, short(), tmp_path / "tame", reuse=[tmp_path / "wild"])
    assert "took over global; trains local, fusion (local.lr: 1e+30 -> 0.01)." in capsys.readouterr().out
    kept = [load_file(tmp_path / name / "global" / "best.safetensors") for name in ("wild", "tame")]
    assert all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])


def test_reasons_in_words(prepared, tmp_path, donor):
    plan = prepared / "plan.json"
    joint, longer = short(strategy="G_LF"), short(loss="asymmetric")
    for name, config in (("joint", joint), ("longer", longer), ("same", short())):
        RunFolder(tmp_path / name).start(config, plan, resume=False)
    assert str(RunFolder(tmp_path / "joint").reuse(RunFolder(donor), joint)) == (
        "took over global; trains local+fusion (strategy: G_L_F -> G_LF)"
    )
    assert RunFolder(tmp_path / "longer").reuse(RunFolder(donor), longer) == Reused(
        (), ("global", "local", "fusion"), "loss: bce -> asymmetric"
    )
    same = RunFolder(tmp_path / "same")
    assert str(same.reuse(RunFolder(tmp_path / "longer"), longer)) == (
        "took nothing over; trains global, local, fusion (global is not finished there)"
    )
    assert str(same.reuse(RunFolder(donor), short())) == "took over global, local, fusion"
    assert str(same.reuse(RunFolder(donor), short())) == "nothing was left to take over"


@pytest.mark.parametrize(
    ("backbone", "weights", "equal"),
    [
        ("test_resnet", "none", True),
        ("resnet50.tv_in1k", "imagenet", True),
        ("vit_tiny_patch16_224", "imagenet", False),  # .5/.5
        ("tf_efficientnet_lite0", "imagenet", False),
        ("vit_tiny_patch16_224", "none", True),
        ("resnet50", "weights.safetensors", False),  # a file may state its own
    ],
)
def test_normalisation_is_compared_by_its_numbers(backbone, weights, equal):
    """Runs of earlier versions say `imagenet`, which was their default."""
    before, after = (short(backbone=backbone, weights=weights, normalisation=name) for name in ("imagenet", "weights"))
    changes = [] if equal else ["normalisation: imagenet -> weights"]
    assert run_folder.differences(before, after) == changes
    assert (run_folder.recipe(before, 0) == run_folder.recipe(after, 0)) is equal
    subtracted = short(backbone=backbone, weights=weights, normalisation="mean")
    assert run_folder.differences(before, subtracted) == ["normalisation: imagenet -> mean"]


def held(run: RunFolder, **stages: float) -> RunFolder:
    """Finished stages whose weights are one number each."""
    for name, value in stages.items():
        write_weights(run.stage(name) / "best.safetensors", {"w": torch.tensor([float(value)])})
        run.finish(StageSummary(name, 1, 0.5, {}, (), 1, 1.0))
    return run


def values(run: RunFolder) -> dict[str, float]:
    return {path.parent.name: load_file(path)["w"].item() for path in sorted(run.root.glob("*/best.safetensors"))}


def test_what_follows_a_stage_with_other_weights_here_is_not_taken_over(prepared, tmp_path):
    runs = {name: RunFolder(tmp_path / name) for name in ("donor", "same", "other", "begun", "later", "lost")}
    for run in runs.values():
        run.start(short(), prepared / "plan.json", resume=False)
    donor = held(runs["donor"], **{"global": 1, "local": 1, "fusion": 1})
    assert str(held(runs["same"], **{"global": 1}).reuse(donor, short())) == "took over local, fusion"
    assert values(runs["same"]) == {"global": 1, "local": 1, "fusion": 1}
    assert str(held(runs["other"], **{"global": 2}).reuse(donor, short())) == (
        "took nothing over; trains local, fusion (global has other weights here)"
    )
    assert values(runs["other"]) == {"global": 2}
    runs["begun"].stage("global").mkdir()
    assert runs["begun"].reuse(donor, short()) == Reused((), ("global", "local", "fusion"), "global is begun here")
    assert values(runs["begun"]) == {}
    assert held(runs["later"], **{"global": 1, "local": 2}).reuse(donor, short()) == Reused(
        (), ("fusion",), "local has other weights here"
    )
    (held(runs["lost"], **{"global": 1}).stage("global") / "best.safetensors").unlink()
    assert runs["lost"].reuse(donor, short()).why == "global has other weights here"


@pytest.mark.parametrize("asked", ["auto", "bf16"])
def test_auto_is_the_precision_that_it_came_to(prepared, tmp_path, monkeypatch, asked):
    """Begun where the hardware computes in bf16; a machine that does not must neither go on with it nor reuse it."""
    plan, settings = prepared / "plan.json", short(precision=asked)
    monkeypatch.setattr(run_folder, "uses_bf16", lambda precision: precision in ("auto", "bf16"))
    donor, run = (RunFolder(tmp_path / name) for name in ("donor", "run"))
    donor.start(settings, plan, resume=False)
    held(donor, **{"global": 1})
    donor.start(short(precision="auto"), plan, resume=True)
    assert from_yaml(donor.root / "config.yaml").precision == "bf16"
    monkeypatch.setattr(run_folder, "uses_bf16", lambda precision: precision == "bf16")
    with pytest.raises(ValueError, match=r"so it cannot be resumed with these: precision: bf16 -> fp32\. Give"):
        donor.start(short(precision="auto"), plan, resume=True)
    donor.start(from_yaml(donor.root / "config.yaml"), plan, resume=True)  # as --resume without flags does
    run.start(short(precision="auto"), plan, resume=False)
    assert from_yaml(run.root / "config.yaml").precision == "fp32"
    assert run.reuse(donor, short(precision="auto")).why == "precision: bf16 -> fp32"


def test_a_run_of_an_earlier_version_that_says_auto_goes_on(prepared, tmp_path):
    run, plan, settings = RunFolder(tmp_path / "run"), prepared / "plan.json", short(precision="auto")
    run.start(settings, plan, resume=False)
    to_yaml(settings, run.root / "config.yaml")
    run.start(settings, plan, resume=True)
    other = "fp32" if uses_bf16("auto") else "bf16"
    with pytest.raises(ValueError, match=f"precision: (fp32|bf16) -> {other}"):
        run.start(short(precision=other), plan, resume=True)


def test_runs_that_cannot_fit_are_refused_before_the_folder_is_claimed(prepared, tmp_path, donor):
    others = write_prepared(tmp_path / "others", parts={"train": 9, "val": 4})
    cases = [
        (others, short(), donor, r"was trained on other films than .*others \(their plan.json differ\)"),
        (prepared, short(backbone="test_convnext2"), donor, "has the backbone test_resnet and this run test_convnext2"),
        (prepared, short(), tmp_path / "none", "none holds no run whose stages could be reused"),
        (prepared, short(), tmp_path / "run", "run holds no run whose stages could be reused"),
    ]
    for films, config, other, message in cases:
        with pytest.raises(ValueError, match=message):
            train(films, config, tmp_path / "run", reuse=[other], progress=False)
        assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="cannot reuse its own stages"):
        train(prepared, short(), donor, resume=True, reuse=[donor], progress=False)


def test_the_flag_and_a_finished_run_resumed_to_the_byte(prepared, tmp_path, donor, capsys):
    to_yaml(short(), tmp_path / "settings.yaml")
    words = ["train", "--data", str(prepared), "--config", str(tmp_path / "settings.yaml")]
    run = tmp_path / "run"
    assert main([*words, "--out", str(run), "--reuse", str(donor)]) == 0
    assert f"From {donor}: took over global, local, fusion." in capsys.readouterr().out
    before = content(run)
    assert {"run.json", "model/config.json", "model/model.safetensors"} <= before.keys()
    assert b'"calibration":{' in before["model/config.json"][0].replace(b" ", b"")
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert content(run) == before
    assert f"Next: agcxr evaluate {run}" in capsys.readouterr().out
    # A model that is gone is made again.
    (run / "model" / "config.json").unlink()
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert content(run)["model/model.safetensors"][0] == before["model/model.safetensors"][0]
    assert main([*words, "--out", str(tmp_path / "more"), "--seeds", "2", "--reuse", str(donor)]) == 2
    assert "--reuse is for runs of one seed, as stages of another differ" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("here", "devices", "batch", "message"),
    [
        ((2, "GPUs"), 9, 8, "9 devices were asked for, but this machine has 2 GPUs; give --devices 2 or fewer"),
        ((1, "core and no GPU"), 2, 8, "this machine has 1 core and no GPU; give --devices 1 or fewer"),
        ((64, "GPUs"), 32, 64, "25 films cannot be dealt out to 32 devices; use fewer devices or more films"),
        ((8, "GPUs"), 3, 9, "fusion.batch_size is 4 films over 3 devices; expected a multiple of 3, such as 3"),
    ],
)
def test_devices_that_cannot_share_are_told_once_and_early(
    prepared, tmp_path, monkeypatch, here, devices, batch, message
):
    monkeypatch.setattr(stages, "devices_here", lambda: here)
    made = short(devices=devices, local={"batch_size": batch})
    made = made.model_copy(update={"global_": made.global_.model_copy(update={"batch_size": batch})})
    with pytest.raises(ValueError, match=re.escape(message)):
        train(prepared, made, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
