"""The ablation: what its page may say, and a small one that is run, killed, resumed and kept."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from evaluated import SIZE, write_prepared
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from agcxr.config import Augment, Fusion, Local, Stage, Train
from agcxr.evaluation.page import Text, to_markdown
from agcxr.experiments import ablate as ablate_module
from agcxr.experiments.ablate import ablate
from agcxr.experiments.ablation import Ablation, SeedDifference
from agcxr.experiments.ablation_size import read_lesions
from agcxr.experiments.ablation_tables import ablation_page, answer, caution
from agcxr.table import signed
from agcxr.training import run_folder
from agcxr.training.tasks import StageTask

torch.set_num_threads(1)


# --- in words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0"), (0.0123, "+.012"), (-0.0005, "−.001"), (0.0003, "+.0003"), (-0.00049, "−.0005"), (2e-6, "+.000002")],
)
def test_a_difference_never_hides_its_sign(value, said):
    assert signed(value, None) == said


def gap(low: float, high: float) -> SeedDifference:
    return SeedDifference(value=(low + high) / 2, low=low, high=high, p=0.1, per_seed=(low, high))


def test_the_answer_is_no_stronger_than_its_intervals(done, tmp_path):
    """Better than random, undecided against centre, worse than whole: attention minus control is turned round."""
    ends = {"random": (-0.03, -0.01), "centre": (-0.02, 0.01), "whole": (0.01, 0.03)}
    arms = []
    for arm in done.results.arms:
        branches = arm.branches
        if not arm.reference:
            branches = tuple(one.model_copy(update={"against_reference": gap(*ends[arm.name])}) for one in branches)
        over = {"fusion_over_global": gap(-0.01, 0.03), "local_over_global": gap(0.001, 0.02)}
        arms.append(arm.model_copy(update={"branches": branches, **over}))
    found = done.results.model_copy(update={"arms": tuple(arms), "sizes": None})
    compared = (
        "attention is better than the random box, +.020 (+.010 to +.030; 2 of 2 seeds agree); it is not shown to "
        "differ from the centre box, +.005 (−.010 to +.020; 1 of 2 seeds agree); it is worse than the whole view, "
        "−.020 (−.030 to −.010; 2 of 2 seeds agree)."
    )
    assert answer(found) == (
        "The fusion is not shown to differ from its own global branch: +.010 (−.010 to +.030; 1 of 2 seeds agree).",
        f"All {len(found.findings)} findings, fusion: {compared}",
        f"All {len(found.findings)} findings, local branch: {compared}",
        "The local branch that looks at the whole view is better than the global branch, +.011 (+.001 to +.020; 2 of 2 "
        "seeds agree): both see the same view, so this is what more training does without looking closer.",
    )
    row = "**▾ −.020** (−.030 to −.010) | −.010 −.030 (2 of 2)"
    text = to_markdown(ablation_page(found), tmp_path)
    assert f"| the whole view | all {len(found.findings)} findings | {row} | {row} |\n" in text
    assert "| +.005 (−.010 to +.020) | +.020 −.010 (1 of 2) |" in text
    assert answer(found.model_copy(update={"arms": tuple(arm for arm in arms if arm.reference)})) == ()


def test_how_far_the_seeds_carry_is_said_first(done):
    assert caution(done.results).startswith(
        "2 seeds are few: how much training alone moves a difference is judged from"
    )
    one = done.results.model_copy(update={"seeds": (0,)})
    assert "not training again" in caution(one)
    assert ablation_page(one).sections[0].blocks[0] == Text(caution(one), warning=True)
    assert caution(done.results.model_copy(update={"seeds": (0, 1, 2, 3, 4)})) == ""


# --- the whole of it --------------------------------------------------------------------------------------------------


def settings(**local: object) -> Train:
    common: dict[str, object] = {"epochs": 1, "batch_size": 6}
    return Train(
        backbone="test_resnet",
        weights="none",
        image_size=48,
        resize=SIZE,
        augment=Augment(flip=0),
        global_=Stage(**common),
        local=Local(**(common | {"min_side": 4} | local)),
        fusion=Fusion(**common),
        precision="fp32",
    )


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    folder = write_prepared(tmp_path_factory.mktemp("films") / "prepared")
    index = pd.read_parquet(folder / "index.parquet")
    index.loc[0, ["Pneumothorax", "Pleural_Thickening"]] = 1  # so that the six training films teach all but Hernia
    index.to_parquet(folder / "index.parquet")
    with (folder / "lesions.csv").open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["image", "finding", "x", "y", "w", "h", "diameter_cm"])
        for i, film in enumerate(index["image_id"][index["Nodule"] == 1]):
            rows.writerow([film, "Nodule", 0, 0, 1, 1, 1 + i / 20])
    return folder


@pytest.fixture(scope="module")
def done(films, tmp_path_factory):
    out = tmp_path_factory.mktemp("ablation") / "out"
    return ablate(
        films, settings(), out, only=["controls"], seeds=(0, 3), lesions=films / "lesions.csv", resamples=40,
        progress=False,
    )  # fmt: skip


def test_a_whole_ablation(done):
    found = Ablation.model_validate_json((done.folder / "results.json").read_bytes())
    assert found.seeds == (0, 3)
    assert [arm.name for arm in found.arms] == ["attention", "random", "centre", "whole"]
    assert (found.films, found.patients, found.left_out) == (48, 24, ("Hernia",))
    reference = found.reference
    assert reference.branch("fusion").against_reference is None
    for arm in found.arms:
        assert arm.branch("global").auroc == reference.branch("global").auroc  # one global branch serves all
        assert len(arm.branch("fusion").per_seed) == 2
        assert arm.branch("fusion").auroc.value == pytest.approx(np.mean(arm.branch("fusion").per_seed))
    gap = found.arm("controls", "whole").branch("fusion").against_reference
    difference = found.arm("controls", "whole").branch("fusion").auroc.value - reference.branch("fusion").auroc.value
    assert gap.value == pytest.approx(difference)
    assert found.arm("controls", "whole").box_area == pytest.approx((48 / SIZE) ** 2)
    assert found.arm("controls", "whole").branch("fusion").paper == 0.851
    assert found.sizes is not None
    assert {one.control for one in found.sizes.bins} == {"random", "centre", "whole"}
    assert len(found.sizes.conclusions) == 6


def test_what_is_shared_was_trained_once(done):
    trained = [
        (seed, path.parent.parent.name)
        for seed in (0, 3)
        for path in sorted((done.folder / f"seed{seed}").glob("*/global/best.safetensors"))
    ]
    assert len(trained) == 8
    for seed in (0, 3):
        folder = done.folder / f"seed{seed}"
        same = {path.read_bytes() for path in folder.glob("*/global/best.safetensors")}
        assert len(same) == 1
        times = {name: json.loads((folder / name / "global" / "done.json").read_text()) for name in ("attention",)}
        assert json.loads((folder / "controls-whole" / "global" / "done.json").read_text()) == times["attention"]
        assert not list(folder.glob("*/*/last.ckpt"))


def test_the_table_and_the_figures(done, films):
    text = (done.folder / "table.md").read_text()
    assert text.startswith("# Ablation on noise, test films\n")
    known = done.results.model_copy(update={"collection": "phantom, seed 3"})
    assert ablation_page(known).title == "Ablation on phantom, seed 3, test films"
    assert "| attention (ref.) |" in text
    assert "| Arm | Global | Local | Fusion | Local − ref. | Fusion − ref. |" in text
    assert "\nFusion, attention against the whole view, " in text
    headings = ["> **2 seeds", "| Mean AUROC, attention minus", "](figure.png)", "## How to read this"]
    headings += [
        "## Where the crop lies",
        "## By the size of the lesion",
        "](sizes.png)",
        "<details><summary>AUROC by the diameter",
    ]
    headings += ["<details><summary>Sensitivity by the diameter", "<details><summary>Settings of the reference"]
    assert sorted(headings, key=text.index) == headings
    assert "| Mean AUROC, attention minus | Findings | Fusion | Fusion, each seed | Local | Local, each seed |" in text
    assert all(f"\n| the {name} | all 13 findings | " in text for name in ("random box", "centre box", "whole view"))
    assert "\n| the whole view | the small finding | " in text
    median = read_lesions(films / "lesions.csv")["diameter_cm"].median()
    assert f"Median diameters in cm, small: Nodule {median:.1f}; not small: none." in text
    head = "| Fusion | Attention | − random box | − centre box | − whole view |"
    assert f"{head}\n| :-- | --: | --: | --: | --: |\n| Nodule |" in text
    assert "of the spread between the seeds and of 40 resamples of the 24 patients" in text
    for name in ("figure", "sizes"):
        assert (done.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        ElementTree.fromstring((done.folder / f"{name}.svg").read_bytes())
    html = (done.folder / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 2


def test_finished_arms_are_skipped_and_kept_in_later_tables(done, films, monkeypatch):
    trained = []
    plain = ablate_module.train

    def train(prepared, config, out, **options):
        trained.append(Path(out).name)
        return plain(prepared, config, out, **options)

    monkeypatch.setattr(ablate_module, "train", train)
    again = ablate(films, settings(), done.folder, only=["normalise"], seeds=(0, 3), resamples=40, progress=False)
    assert trained == ["normalise-percentile"] * 2
    assert [arm.group for arm in again.results.arms] == ["controls"] * 4 + ["normalise"] * 2
    once_more = ablate(films, settings(), done.folder, only=["normalise"], seeds=(0, 3), resamples=40, progress=False)
    assert len(trained) == 2
    assert [arm.model_dump_json() for arm in once_more.results.arms] == [
        arm.model_dump_json() for arm in again.results.arms
    ]  # as text: NaN is not itself


def test_an_arm_killed_in_the_middle_of_a_stage_goes_on_after_its_last_whole_epoch(films, tmp_path, monkeypatch):
    """The same answers as of an ablation that was never stopped."""
    longer = settings(epochs=3)
    whole = ablate(films, longer, tmp_path / "whole", only=["normalise"], resamples=20, progress=False)

    class Killed(BaseException):
        """As SIGKILL: nothing catches it."""

    ran: list[int] = []
    plain = StageTask.training_step

    def step(task, batch, index):
        if task.stage == "local":
            ran.append(task.current_epoch)
            if kill and task.current_epoch == 2:
                raise Killed
        return plain(task, batch, index)

    monkeypatch.setattr(StageTask, "training_step", step)
    kill = True
    with pytest.raises(Killed):
        ablate(films, longer, tmp_path / "killed", only=["normalise"], resamples=20, progress=False)
    assert ran == [0, 1, 2]
    kill = False
    ran.clear()
    again = ablate(films, longer, tmp_path / "killed", only=["normalise"], resamples=20, progress=False)
    assert ran == [2, 0, 1, 2]  # what was left of the arm, then the next one
    for folder in ("attention", "normalise-percentile"):
        one, two = (
            pd.read_parquet(root / "seed0" / folder / "predictions-test.parquet")
            for root in (whole.folder, again.folder)
        )
        pd.testing.assert_frame_equal(one, two)
    assert [arm.model_dump_json() for arm in again.results.arms] == [
        arm.model_dump_json() for arm in whole.results.arms
    ]  # as text: NaN is not itself


def test_a_process_that_was_started_for_a_device_trains_and_leaves_the_folder_to_the_first(
    films, tmp_path, monkeypatch, capsys
):
    """It finds the ablation claimed, trains every arm with the others, and compares what the first one predicted."""
    common = {"only": ["normalise"], "resamples": 20}
    first = ablate(films, settings(), tmp_path / "out", progress=False, **common)
    files = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    capsys.readouterr()
    again = ablate(films, settings(), first.folder, **common)
    assert [arm.model_dump_json() for arm in again.results.arms] == [
        arm.model_dump_json() for arm in first.results.arms
    ]  # as text: NaN is not itself
    trained: list[str] = []
    monkeypatch.setattr(ablate_module, "train", lambda films, settings, out, **options: trained.append(out.name))
    (first.folder / "seed0/attention/predictions-test.parquet").rename(tmp_path / "kept.parquet")
    with pytest.raises(FileNotFoundError, match="predictions-test.parquet"):  # the first one has not predicted it
        ablate(films, settings(), first.folder, **common)
    assert trained == ["attention"]
    (tmp_path / "kept.parquet").rename(first.folder / "seed0/attention/predictions-test.parquet")
    assert {path: path.stat().st_mtime_ns for path in files if path.is_file()} == {
        path: time for path, time in files.items() if path.is_file()
    }
    assert capsys.readouterr().out == ""


def test_a_precision_left_open_is_that_of_the_machine_it_began_on(films, tmp_path, monkeypatch):
    """Arms in bf16 and in float32 do not stand in one table."""
    monkeypatch.setattr(run_folder, "uses_bf16", lambda precision: precision != "fp32")
    ablate_module._claim(tmp_path / "a", run_folder.resolved(Train()))
    monkeypatch.setattr(run_folder, "uses_bf16", lambda precision: precision == "bf16")
    with pytest.raises(ValueError, match=r"begun with other settings: precision: bf16 -> fp32"):
        ablate(films, Train(), tmp_path / "a", only=["controls"], progress=False)


def test_refusals(done, films, tmp_path):
    with pytest.raises(ValueError, match=r"begun with other settings: local.threshold: 0.7 -> 0.5"):
        ablate(films, settings(threshold=0.5), done.folder, progress=False)
    with pytest.raises(ValueError, match="the comparison by lesion size is with the controls"):
        ablate(films, settings(), tmp_path, only=["tau"], lesions=films / "lesions.csv", progress=False)
    others = write_prepared(tmp_path / "others")
    index = pd.read_parquet(others / "index.parquet")
    index.assign(image_id="other " + index["image_id"]).to_parquet(others / "index.parquet")
    with pytest.raises(ValueError, match="is not of the films of .*others; give those it was made of"):
        ablate(others, settings(), done.folder, only=["controls"], seeds=(0, 3), progress=False)
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="is not empty and holds no ablation"):
        ablate(films, settings(), tmp_path, only=["tau"], progress=False)
