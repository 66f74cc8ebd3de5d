"""One tidy table of every estimate: what it holds, and that nothing stands in it twice."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_analysis import make_scores

from agcxr.evaluation.analysis import Evaluation, Points
from agcxr.evaluation.estimates import COLUMNS, save, tidy
from agcxr.uncertainty import Difference, Estimate
from agcxr.values import Record


class Branch(Record):
    branch: str
    auroc: Estimate


class Finding(Record):
    finding: str
    branches: tuple[Branch, ...]
    gap: Difference


class Everything(Record):
    labels: tuple[Finding, ...]
    mean: Branch


def test_a_row_an_estimate_named_by_the_records_around_it() -> None:
    half = Estimate(value=0.5, low=0.25, high=0.75, left_out=2)
    gap = Difference(value=0.125, low=-0.5, high=0.5, p=0.25)
    finding = Finding(finding="Mass", branches=(Branch(branch="global", auroc=half),), gap=gap)
    table = tidy(results=Everything(labels=(finding,), mean=Branch(branch="fusion", auroc=half)), other=None)
    assert tuple(table.columns) == COLUMNS
    rows = table.drop(columns=["file", "group", "against", "point"]).to_numpy().tolist()
    assert rows[0][:6] == ["Mass", "global", "auroc", 0.5, 0.25, 0.75]
    assert math.isnan(rows[0][6])
    assert rows[1] == ["Mass", "", "gap", 0.125, -0.5, 0.5, 0.25, 0]
    assert rows[2][:4] == ["mean", "fusion", "auroc", 0.5]
    assert (table["file"] == "results").all()
    assert (table["against"] == "").all()


def test_every_measure_of_an_evaluation_stands_in_it_once(tmp_path: Path) -> None:
    scores = make_scores(60)
    points = Points(("half",), np.full((1, len(scores.branches), len(scores.labels)), 0.5))
    evaluation = Evaluation.of(scores, resamples=20, points=points)
    table = evaluation.estimates
    assert not table.duplicated(["finding", "group", "branch", "against", "measure", "point"]).any()
    mass = evaluation.analysis.label("Mass")
    at = table.set_index(["finding", "group", "branch", "against", "measure", "point"]).sort_index()
    assert at.loc[("Mass", "", "fusion", "", "auroc", "")]["value"] == mass.branches[-1].auroc.value
    assert (
        at.loc[("Mass", "", "fusion", "", "sensitivity", "half")]["low"] == mass.branches[-1].points[0].sensitivity.low
    )
    gap = next(gap for gap in mass.gaps if (gap.against, gap.measure) == ("global", "auroc"))
    assert at.loc[("Mass", "", "fusion", "global", "auroc", "")]["p"] == gap.p
    assert at.loc[("mean", "", "global", "", "brier", "")]["high"] == evaluation.analysis.mean.branches[0].brier.high
    save(tmp_path, results=evaluation.analysis)
    again = pd.read_csv(tmp_path / "estimates.csv", keep_default_na=False, na_values={"value": ""})
    assert again["value"].to_numpy() == pytest.approx(table["value"].to_numpy(), nan_ok=True)
