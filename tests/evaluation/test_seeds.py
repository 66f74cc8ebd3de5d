"""Runs of several seeds evaluated: the spread by hand, in a file and in every report."""

from __future__ import annotations

import numpy as np
import pytest
from evaluated import write_prepared, write_run

from agcxr.evaluation.results import load_results
from agcxr.evaluation.seeds import evaluate_seeds
from agcxr.evaluation.tables import number, signed
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
    for written in reports:
        text = written.markdown.read_text()
        for title in ("What a score means", "Subgroups", "Other seeds"):  # with all that one run's report has
            assert f"## {title}\n" in text
        assert "| Seed 0 | Seed 4 |" in text
        assert f"| Fusion − global | **{signed(apart.mean)}** | {number(apart.sd)} |" in text
