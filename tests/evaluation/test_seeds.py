"""Runs of several seeds evaluated: the spread by hand, in a file and in every report."""

from __future__ import annotations

import numpy as np
import pytest
from evaluated import write_prepared, write_run

from agcxr.evaluation.report import few_seeds, report
from agcxr.evaluation.results import load_results
from agcxr.evaluation.study import study
from agcxr.evaluation.tables import gap_of
from agcxr.experiments.ablation import over_seeds
from agcxr.experiments.seeds import evaluate_seeds
from agcxr.table import number, signed
from agcxr.training.seeds import Seeds, Spread, read_seeds, write_seeds


def test_every_run_is_evaluated_and_shows_all(tmp_path):
    films = write_prepared(tmp_path / "prepared", boxed=False)
    out = tmp_path / "out"
    for seed in (0, 4):
        write_run(out / f"seed{seed}")
    validation = (Spread.of("global", [0.6, 0.7]),)
    write_seeds(out / "seeds.json", Seeds(measure="", seeds=(0, 4), runs=("seed0", "seed4"), spreads=validation))
    found, reports = evaluate_seeds(out, films, resamples=20, progress=False)
    assert found == read_seeds(out / "evaluation" / "test")
    means = [
        load_results(out / f"seed{s}" / "evaluation" / "test").analysis.mean.branches[2].auroc.value for s in (0, 4)
    ]
    fusion = found.spreads[2]
    assert (fusion.name, fusion.values) == ("fusion", pytest.approx(means))
    assert fusion.mean == pytest.approx(np.mean(means))
    apart = found.spreads[3]
    assert (apart.name, apart.difference) == ("fusion − global", True)
    assert apart.values == pytest.approx([b - a for a, b in zip(found.spreads[0].values, means, strict=True)])
    gain = found.gains[0]
    assert (gain.branch, gain.against, [one.against for one in found.gains]) == (
        "fusion",
        "global",
        ["global", "local"],
    )
    assert gain.value == pytest.approx(apart.mean)
    own = gap_of(load_results(out / "seed0" / "evaluation" / "test").analysis.mean, "global")
    assert gain.high - gain.low >= own.high - own.low - 0.02  # patients and training, not patients alone
    ends = f"{signed(gain.low)} to {signed(gain.high)}"
    for written in reports:
        text = written.markdown.read_text()
        assert f"- **{signed(gain.value)}** Fusion minus global, mean of 2 seeds ({ends}, p " in text
        assert f"(interval {ends})" in text
        assert "Two seeds' intervals hold the truth 87 % of the time where training varies; 5 are better" in text
        assert "training chance not included" not in text
    for written in reports:
        text = written.markdown.read_text()
        for title in ("What a score means", "Subgroups", "Other seeds"):  # with all that one run's report has
            assert f"## {title}\n" in text
        assert "| Seed 0 | Seed 4 |" in text
        assert f"| Fusion − global | **{signed(apart.mean)}** | {number(apart.sd)} |" in text
    again = report(out / "seed4" / "evaluation" / "test").markdown.read_text()  # finds what lies beside the run
    assert f"mean of 2 seeds ({ends}, p " in again


def test_one_run_says_that_training_chance_is_not_included(tmp_path):
    films = write_prepared(tmp_path / "prepared", boxed=False)
    done = study(write_run(tmp_path / "run"), films, resamples=20, progress=False)
    text = done.report.markdown.read_text()
    assert text.count("; training chance not included)") == 2
    assert "The interval is over patients, of one run: training chance is not included." in text


def test_two_seeds_hold_the_truth_87_times_in_100_where_training_varies():
    """Training moves a difference by .01, the patients of a sample by .005; the truth is 0."""
    rng, held = np.random.default_rng(0), {2: 0, 5: 0}
    for seeds in held:
        for _ in range(500):
            patients, training = rng.normal() * 0.005, rng.normal(size=seeds) * 0.01
            replicate_SR = np.tile(patients + rng.normal(size=100) * 0.005, (seeds, 1)) + training[:, None]
            low, high, *_ = over_seeds(patients + training, replicate_SR, 0.95)
            held[seeds] += low <= 0 <= high
    assert 0.82 <= held[2] / 500 <= 0.94
    assert held[5] / 500 >= 0.93
    assert (few_seeds(5), few_seeds(3).startswith(" Seeds are few; 5 are better")) == ("", True)
