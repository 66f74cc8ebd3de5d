"""Why does a second look at the whole view gain as much as attention? From the predictions of a finished ablation:

    agcxr ablate --data D --out S --only controls --seeds 3
    python benchmarks/second_opinion.py S

trains nothing and prints a table. Three explanations are set apart, all as mean test AUROC minus that of the global
branch, with an interval over patients and seeds:

- longer training: the local branch of the arm `whole` (the same view, from the global branch's weights, alone);
- a second opinion: the mean of two global branches of different seeds (of their logits), neither trained longer. Pairs
  overlap, so this interval is rough;
- both, and the fusion layer: the fusion of `whole`, beside the method's own.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from agcxr.evaluation.analysis import Scores
from agcxr.evaluation.evaluate import to_scores
from agcxr.experiments.ablation import Draws, sample, usable
from agcxr.experiments.controls import REFERENCE
from agcxr.labels import LABELS
from agcxr.metrics import Floats

ROWS = {
    "two global branches of different seeds": "a second opinion alone",
    "local branch on the whole view": "longer training alone",
    "global and that local branch": "both, without a fusion layer",
    "fusion on the whole view": "both, and the fusion layer",
    "fusion on the attended region": "the method",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ablation", type=Path, help="folder of `agcxr ablate --only controls` with two seeds or more")
    parser.add_argument("--split", default="test", choices=["val", "test"])
    given = parser.parse_args()
    seeds = sorted(given.ablation.glob("seed*"))
    if len(seeds) < 2:
        parser.error(f"{given.ablation} has {len(seeds)} seeds; a second opinion takes two: run ablate with --seeds 3")
    attention, whole = (_scores(seeds, arm, given.split) for arm in (REFERENCE, "controls-whole"))
    sides = [_side_by_side(attention, whole, i) for i in range(len(seeds))]
    draws = Draws(resamples=1000, level=0.95, seed=0)
    found = sample(sides, usable(sides[0])[0], draws)
    print(f"| mean test AUROC, {len(seeds)} seeds | what it has | value | minus the global branch | each seed |")
    print("|---|---|---|---|---|")
    print(f"| global branch | | {found.value_SB[:, 0].mean():.4f} | | |")
    for b, (name, why) in enumerate(ROWS.items(), start=1):
        gap = draws.paired(
            found.value_SB[:, b] - found.value_SB[:, 0], found.replicate_SBR[:, b] - found.replicate_SBR[:, 0]
        )
        each = ", ".join(f"{one:+.4f}" for one in gap.per_seed)
        interval = f"{gap.value:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"
        print(f"| {name} | {why} | {found.value_SB[:, b].mean():.4f} | {interval} | {each} |")


def _scores(seeds: list[Path], arm: str, split: str) -> list[Scores]:
    return [to_scores(pd.read_parquet(seed / arm / f"predictions-{split}.parquet"), LABELS) for seed in seeds]


def _side_by_side(attention: list[Scores], whole: list[Scores], i: int) -> Scores:
    """The global branch of seed i and ROWS, as branches of one table of scores."""
    own, look = attention[i].score_BNK, whole[i].score_BNK
    other = attention[(i + 1) % len(attention)].score_BNK[0]
    branches = np.stack([own[0], _mean(own[0], other), look[1], _mean(own[0], look[1]), look[2], own[2]])
    return replace(attention[i], branches=("global", *ROWS), score_BNK=branches)


def _mean(one: Floats, other: Floats) -> Floats:
    """Of two probabilities, taken on their logits."""
    clipped = np.clip(np.stack([one, other]).astype(np.float64), 1e-9, 1 - 1e-9)
    return 1 / (1 + np.exp(-np.mean(np.log(clipped / (1 - clipped)), axis=0)))


if __name__ == "__main__":
    main()
