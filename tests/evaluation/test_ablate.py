"""The ablation: resamples that arms share, lesion sizes by hand, and a small one that is run, kept and resumed."""

from __future__ import annotations

import csv
import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from evaluated import SIZE, write_prepared

from agcxr import metrics
from agcxr.config import Augment, Fusion, Local, Stage, Train
from agcxr.evaluation import ablate as ablate_module
from agcxr.evaluation.ablate import ablate
from agcxr.evaluation.ablation import BinResult, Draws, Interval, Paired, read_ablation, sample, usable
from agcxr.evaluation.ablation_size import Advantage, bins, conclusions, read_lesions, size_study, small_findings
from agcxr.evaluation.ablation_tables import answer, markdown, span
from agcxr.evaluation.analysis import Scores

LABELS = ("Nodule", "Mass", "No Finding")
NAN = math.nan
torch.set_num_threads(1)


def made(n: int = 120, noise: float = 1.0, seed: int = 0) -> Scores:
    """Labels of n films of n / 2 patients, and scores of three branches that follow them through noise."""
    target = (np.random.default_rng(0).random((n, 3)) < 0.4).astype(np.float64)
    rng = np.random.default_rng([seed, 1])
    score = 1 / (1 + np.exp(-(target[None] + noise * rng.standard_normal((3, n, 3)))))
    patient = np.array([f"p{i // 2}" for i in range(n)], dtype=object)
    return Scores(LABELS, ("global", "local", "fusion"), target, score, patient)


# --- statistics -------------------------------------------------------------------------------------------------------


def test_the_mean_leaves_out_no_finding_and_findings_without_a_class():
    scores = made()
    assert usable(scores) == ([0, 1], ())
    target = scores.target_NK.copy()
    target[:, 1] = 0
    assert usable(replace(scores, target_NK=target)) == ([0], ("Mass",))


def test_one_seed_is_the_bootstrap_over_patients_alone():
    scores, draws = made(), Draws.of(1, 50, 0.95, 0)
    assert (draws.seed_weight_SR == 1).all()
    found = sample([scores], [0, 1], draws)
    by_hand = np.mean([metrics.auroc(scores.target_NK[:, k], scores.score_BNK[2, :, k]) for k in (0, 1)])
    assert found.value_B[2] == pytest.approx(by_hand)
    np.testing.assert_allclose(found.replicate_BR, draws.bootstrap(scores).auroc_BKR[:, :2].mean(1))


def test_seeds_widen_the_interval_by_their_spread():
    good, bad = made(noise=0.5), made(noise=3, seed=1)
    draws = Draws.of(2, 400, 0.95, 0)
    np.testing.assert_allclose(draws.seed_weight_SR.sum(0), 1)
    found = sample([good, bad], [0, 1], draws)
    assert found.value_B[0] == pytest.approx(found.value_SB[:, 0].mean())
    spread = found.value_SB[0, 0] - found.value_SB[1, 0]
    low, high = np.quantile(found.replicate_BR[0], [0.025, 0.975])
    assert high - low > 0.8 * spread
    same = sample([good, good], [0, 1], draws)
    np.testing.assert_allclose(same.replicate_BR, sample([good], [0, 1], Draws.of(1, 400, 0.95, 0)).replicate_BR)


def test_differences_are_paired():
    scores, draws = made(), Draws.of(1, 50, 0.95, 0)
    one, two = sample([scores], [0, 1], draws), sample([scores], [0, 1], draws)
    gap = draws.paired(0.0, one.replicate_BR[2] - two.replicate_BR[2])
    assert (gap.low, gap.high, gap.clear) == (0, 0, False)


# --- by size ----------------------------------------------------------------------------------------------------------


def lesions(*rows: tuple[str, str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["image_id", "finding", "diameter_cm"])


def test_small_findings_by_their_median():
    table = lesions(
        ("a", "Nodule", 2), ("a", "Hernia", 3), ("b", "Hernia", 3.9), ("a", "Effusion", 9), ("b", "Mass", 6)
    )
    assert small_findings(table) == ("Mass", "Nodule", "Hernia")
    assert small_findings(table, 3.2) == ("Mass", "Nodule")


def test_bins_go_by_the_largest_sign_of_a_film():
    scores = made()
    films = [f"{i}.png" for i in range(120)]
    positive = np.flatnonzero(scores.target_NK[:, 0] == 1)
    rows = [(f"{i}.png", "Nodule", 1 + 0.01 * n) for n, i in enumerate(positive)]
    rows += [(f"{positive[0]}.png", "Nodule", 2.5)]  # a second, larger one
    found = bins(films, LABELS, scores.target_NK, lesions(*rows), ("Nodule",))
    assert [one.finding for one in found] == ["Nodule"] * len(found)
    assert found[-1].target_N[positive[0]] == 1
    assert np.isnan(found[0].target_N[positive[0]])
    assert sum(one.films for one in found) == len(positive)
    assert all(((one.target_N == 0) == (scores.target_NK[:, 0] == 0)).all() for one in found)
    assert all(a.high_cm == b.low_cm for a, b in pairwise(found))
    with pytest.raises(ValueError, match="the lesions name fewer than 5 films of the split for each of Nodule"):
        bins(films, LABELS, scores.target_NK, lesions(("other.png", "Nodule", 1.0)), ("Nodule",))


def test_where_only_the_small_ones_gain_the_advantage_ends_there():
    """Attention knows all nodules, the control only those of 2 cm or more."""
    scores = made(400, noise=1.5)
    films = [f"{i}.png" for i in range(400)]
    positive = np.flatnonzero(scores.target_NK[:, 0] == 1)
    size = np.linspace(1, 2.99, len(positive))
    table = lesions(*[(f"{i}.png", "Nodule", d) for i, d in zip(positive, size, strict=True)])
    clever, blind = scores.score_BNK.copy(), scores.score_BNK.copy()
    clever[:, positive, 0] = blind[:, positive, 0] = 0.99
    blind[:, positive[size < 2], 0] = 0.5
    by_arm = {"attention": [replace(scores, score_BNK=clever)], "centre": [replace(scores, score_BNK=blind)]}
    found = size_study(films, table, by_arm, "attention", Draws.of(1, 100, 0.95, 0))
    assert found.findings == ("Nodule",)
    small = next(one for one in found.small if one.branch == "fusion")
    assert small.gap.low > 0
    first, last = found.bins[0], found.bins[3]
    assert first.sensitivity.value == last.sensitivity.value == 1
    assert first.sensitivity_gap.low > 0.2
    assert (last.auroc_gap.value, last.auroc_gap.high) == (0, 0)
    assert found.conclusions[1].startswith("Fusion, attention against centre: the advantage ends at 2")


def test_a_bin_of_one_patient_has_no_interval():
    scores = made(400, noise=1.5)
    positive = scores.target_NK[:, 0] == 1
    one = replace(scores, patient_N=np.where(positive, "one", scores.patient_N.astype(object)))
    table = lesions(*[(f"{i}.png", "Nodule", 1.5) for i in np.flatnonzero(positive)])
    by_arm = {"attention": [one], "centre": [replace(one, score_BNK=one.score_BNK * 0.5)]}
    found = size_study([f"{i}.png" for i in range(400)], table, by_arm, "attention", Draws.of(1, 20, 0.95, 0))
    for row in found.bins:
        assert 0 < row.auroc.value < 1
        ends = [row.auroc.low, row.auroc_gap.low, row.auroc_gap.p, row.sensitivity.high, row.sensitivity_gap.high]
        assert np.isnan(ends).all()
    assert all(math.isnan(row.gap.low) and math.isnan(row.auroc.high) for row in (*found.each, *found.small))
    assert span(found.bins[0].auroc_gap) == "+.000"
    assert "no advantage is shown" in found.conclusions[0]


def row(low: float, high: float, gap_low: float, finding: str = "Nodule") -> BinResult:
    whole = Interval(value=0.8, low=0.7, high=0.9)
    gap = Paired(value=gap_low + 0.05, low=gap_low, high=gap_low + 0.1, p=0.1)
    same = {"auroc": whole, "auroc_control": whole, "sensitivity": whole, "sensitivity_control": whole}
    return BinResult(
        finding=finding, low_cm=low, high_cm=high, films=20, branch="local", control="whole", auroc_gap=gap,
        sensitivity_gap=gap, **same,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gaps", "said"),
    [
        ((-0.05, -0.02, -0.03), "no advantage is shown at any diameter of nodules and masses (1 to 7 cm; 3 ranges"),
        ((0.01, -0.02, -0.2), "the advantage ends at 2 cm; the interval lies over 0 for 1–2 cm (Nodule) of 1 to 7 cm."),
        (
            (0.01, -0.02, 0.01),
            "ends at 2 cm; the interval lies over 0 for 1–2 cm (Nodule), 3.2–7 cm (Mass) of 1 to 7 cm.",
        ),
        ((-0.01, 0.02, 0.01), "the advantage has no end in the sizes there are"),
        ((-0.2, -0.2, -0.2), "none with a 95 % interval over 0, and whole is better in 3)"),
    ],
)
def test_conclusions_in_words(gaps, said):
    found = [row(1, 2, gaps[0]), row(2, 3, gaps[1]), row(3.2, 7, gaps[2], "Mass")]
    assert said in conclusions(found)[0]


def gap(low: float, high: float) -> Paired:
    return Paired(value=(low + high) / 2, low=low, high=high, p=0.1)


def test_the_answer_is_no_stronger_than_its_intervals(done):
    """Better than random, undecided against centre, worse than whole: attention minus control is turned round."""
    ends = {"random": (-0.03, -0.01), "centre": (-0.02, 0.01), "whole": (0.01, 0.03)}
    arms = []
    for arm in done.results.arms:
        branches = arm.branches
        if not arm.reference:
            branches = tuple(one.model_copy(update={"against_reference": gap(*ends[arm.name])}) for one in branches)
        arms.append(arm.model_copy(update={"branches": branches, "fusion_over_global": gap(-0.01, 0.03)}))
    found = done.results.model_copy(update={"arms": tuple(arms), "sizes": None})
    compared = (
        "attention is better than the random box, +.020 (+.010 to +.030); it is not shown to differ from the centre "
        "box, +.005 (−.010 to +.020); it is worse than the whole view, −.020 (−.030 to −.010)."
    )
    assert answer(found) == (
        "The fusion is not shown to differ from its own global branch: +.010 (−.010 to +.030).",
        f"All {len(found.findings)} findings, fusion: {compared}",
        f"All {len(found.findings)} findings, local branch: {compared}",
    )
    assert "| the whole view | **−.020 (−.030 to −.010)** | **−.020 (−.030 to −.010)** |\n" in markdown(found)
    assert answer(found.model_copy(update={"arms": tuple(arm for arm in arms if arm.reference)})) == ()


def test_where_the_advantage_lies():
    found = [row(1, 2, 0.01), row(2, 3, 0.01), row(3, 4, -0.01), row(4, 7, 0.01, "Mass")]
    at = Advantage.of(found, "local", "whole")
    assert (at.ranges(), at.endless) == ("1–3 cm (Nodule), 4–7 cm (Mass)", False)
    assert [one.high_cm for one in at.run] == [2, 3]
    assert Advantage.of(found[3:], "local", "whole").endless
    assert Advantage.of(found, "fusion", "whole").run == ()


def test_lesion_tables_are_checked(tmp_path):
    path = tmp_path / "lesions.csv"
    path.write_text("image,finding\na.png,Nodule\n")
    with pytest.raises(ValueError, match="has no column 'diameter_cm'; expected the lesions.csv of `agcxr phantom`"):
        read_lesions(path)
    path.write_text("image,finding,diameter_cm\na.png,Dragon,2\n")
    with pytest.raises(ValueError, match="names the finding 'Dragon'"):
        read_lesions(path)


# --- the whole of it --------------------------------------------------------------------------------------------------


def settings(**local: object) -> Train:
    common = {"epochs": 1, "batch_size": 6}
    return Train(
        backbone="test_resnet",
        weights="none",
        image_size=48,
        resize=SIZE,
        augment=Augment(flip=0),
        global_=Stage(**common),
        local=Local(**common, min_side=4, **local),
        fusion=Fusion(**common),
        precision="fp32",
    )


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    folder = write_prepared(tmp_path_factory.mktemp("films") / "prepared")
    index = pd.read_parquet(folder / "index.parquet")
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
    found = read_ablation(done.folder)
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


def test_the_table_and_the_figures(done):
    text = (done.folder / "table.md").read_text()
    assert text.startswith("# Ablation on noise, test films\n")
    known = done.results.model_copy(update={"collection": "phantom, seed 3"})
    assert markdown(known).startswith("# Ablation on phantom, seed 3, test films\n")
    assert "| attention (ref.) |" in text
    assert "| Arm | Global | Local | Fusion | Local − ref. | Fusion − ref. |" in text
    assert "- Fusion, attention against whole: " in text
    assert (
        text.index("## What attention adds") < text.index("![Every arm](figure.png)") < text.index("## Where the crop")
    )
    assert "| Mean AUROC, attention minus | Fusion | Local | Fusion, small findings | Local, small findings |" in text
    assert all(f"\n| the {name} | " in text for name in ("random box", "centre box", "whole view"))
    assert (
        "| Fusion | Attention | − random box | − centre box | − whole view |\n|---|---|---|---|---|\n| Nodule |" in text
    )
    assert "<details><summary>Sensitivity</summary>" in text
    assert "40 resamples of the patients and of the seeds" in text
    for name in ("figure", "sizes"):
        assert (done.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        ElementTree.fromstring((done.folder / f"{name}.svg").read_bytes())


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


def test_refusals(done, films, tmp_path):
    with pytest.raises(ValueError, match=r"begun with other settings: local.threshold: 0.7 -> 0.5"):
        ablate(films, settings(threshold=0.5), done.folder, progress=False)
    with pytest.raises(ValueError, match="the comparison by lesion size is with the controls"):
        ablate(films, settings(), tmp_path, only=["tau"], lesions=films / "lesions.csv", progress=False)
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="is not empty and holds no ablation"):
        ablate(films, settings(), tmp_path, only=["tau"], progress=False)
    with pytest.raises(ValueError, match="make it with `agcxr ablate"):
        read_ablation(tmp_path)
