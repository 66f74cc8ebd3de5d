"""Writes the card of the included model from the folds that measured its recipe (docs/starter.md has the commands):

    python benchmarks/starter_card.py folds/evaluation/test/results.json

makes src/agcxr/weights/starter.md, for people, and starter.json, the numbers in it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from agcxr import starter
from agcxr.evaluation.results import Results, load_results
from agcxr.table import number, signed, words
from agcxr.uncertainty import Estimate

TEXT = """# The starter

An AG-CNN for frontal chest radiographs that comes with `agcxr`: `agcxr predict starter film.png`. Research
use only, not a medical device.

**It is a starting point.** Two `tf_efficientnet_lite0` branches on views of 224 px (the second on a crop of
the film at 384 px, where the first looks), from ImageNet weights, trained by `--preset strong --size 224
--fusion.start mean` on 1,987 films of 1,399 patients of NIH ChestX-ray14 and on nothing else. Outputs: 14
findings and "No Finding", calibrated on a tenth of the patients, the attended box, its heatmap and crop.
Weights are stored in half precision and computed in float32.

## What it is worth

Measured on its recipe, not on itself: five folds by patient, each film scored by a model that saw no film of
its patient. AUROC of the fusion over {films:,} films of {patients:,} patients, with 95 % intervals over
patients (10,000 resamples; one seed, so training chance is not in them).

| Finding | Positives | AUROC |
|---|---|---|
{rows}
| **Mean of 14** | | **{mean}** |

The global branch alone: {alone}; the fusion minus it {gain}. Among films with at least one finding, or of
other hospitals, expect less: on the official test part of the same collection, which has almost no normal
film, the same recipe at 336 px reaches .669 (.651 to .686). docs/results/strong.md in the repository has all
of it.

## What it must not be used for

- No diagnosis, no triage, no exclusion of anything. Its labels were mined from reports, its films come from
  one institution (NIH Clinical Center, 1992 to 2015), rich in positives and no sample of any population:
  probabilities and calls are calibrated to that mixture, not to yours. `--prevalence` corrects for how common
  findings are, and for nothing else.
- No lateral films, no children as a group, no photographs of films: it was taught nothing of them. Films
  unlike those it saw are warned of or refused at intake.
- No proof of attention: the box is where the global branch responds most, which is often not the finding.
- No evaluation on NIH ChestX-ray14: it has seen a part of both official parts.

## Whose it is

Weights: Apache-2.0, as the package. First weights: EfficientNet-Lite0 (Apache-2.0). Films: NIH Clinical
Center, https://nihcc.app.box.com/v/ChestXray-NIHCC; Wang X, Peng Y, Lu L, Lu Z, Bagheri M, Summers RM.
ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on Weakly-Supervised Classification and
Localization of Common Thorax Diseases. CVPR 2017. Method: Guan et al., arXiv:1801.09927.
"""


def main() -> None:
    results = load_results(Path(sys.argv[1]).parent)
    analysis, mean = results.analysis, results.analysis.mean
    findings = [
        {"finding": row.finding, "positives": row.positives, "fusion": shown(row.branches[-1].auroc)}
        for row in analysis.labels
        if row.finding in mean.findings
    ]
    gap = next(gap for gap in mean.gaps if gap.against == mean.branches[0].branch and gap.measure == "auroc")
    facts = {
        "films": analysis.films,
        "patients": analysis.patients,
        "mean": shown(mean.branches[-1].auroc),
        "alone": shown(mean.branches[0].auroc),
        "gain": f"{signed(gap.value)} ({signed(gap.low)} to {signed(gap.high)})",
    }
    rows = "\n".join(f"| {words(row['finding'])} | {row['positives']:,} | {row['fusion']} |" for row in findings)
    starter.CARD.write_text(TEXT.format(rows=rows, **facts), encoding="utf-8")
    numbers = {**facts, "findings": findings, "made": results.made, "run": described(results)}
    starter.CARD.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


def shown(auroc: Estimate) -> str:
    """.676 (.658 to .693)."""
    return f"{number(auroc.value)} ({number(auroc.low)} to {number(auroc.high)})"


def described(results: Results) -> str:
    """Of which models the numbers are."""
    return f"{results.backbone}, {results.collection}, {results.analysis.resampling.resamples:,} resamples"


if __name__ == "__main__":
    main()
