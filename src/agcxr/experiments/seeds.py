"""Runs of several seeds, evaluated: mean, spread and each run, in the report of every one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agcxr.data.prepared import Prepared, open_prepared
from agcxr.evaluation.analysis import pairs
from agcxr.evaluation.report import Written
from agcxr.evaluation.results import Analysis
from agcxr.evaluation.study import Study, study
from agcxr.experiments.ablation import Draws, over_branch, sample
from agcxr.table import to_text
from agcxr.training.seeds import SEEDS, Gain, Seeds, Spread, read_seeds, with_difference, write_seeds


def evaluate_seeds(
    out: str | Path, prepared: str | Path | Prepared, split: str = "test", *, progress: bool = True, **options: Any
) -> tuple[Seeds, tuple[Written, ...]]:
    """Evaluate every run of a folder that `train_seeds` made, and write OUT/evaluation/<split>/seeds.json.

    `options` go to `study`. Each run gets its own results and report, which shows all seeds. Raises ValueError as
    `evaluate` does, and where there is no seeds.json.
    """
    root = Path(out)
    trained, films = read_seeds(root), prepared if isinstance(prepared, Prepared) else open_prepared(prepared)
    studies = [study(root / run, films, split, progress=progress, **options) for run in trained.runs]
    seeds = Seeds(
        measure=f"Mean AUROC over the findings on the {split} films",
        seeds=trained.seeds,
        runs=trained.runs,
        spreads=spreads_of([study_of_seed.results.analysis for study_of_seed in studies]),
        gains=_gains(studies),
        level=studies[0].results.analysis.resampling.level,
    )
    write_seeds(root / "evaluation" / split / SEEDS, seeds)
    if progress:
        print(f"\n{to_text(seeds.table())}")
    return seeds, tuple(study_of_seed.report_again(seeds) for study_of_seed in studies)


def spreads_of(each: Sequence[Analysis]) -> tuple[Spread, ...]:
    """The mean AUROC of each branch over several evaluations, then the difference of the last and the first."""
    values = [[branch.auroc.value for branch in item.mean.branches] for item in each]
    return with_difference([Spread.of(name, [v[b] for v in values]) for b, name in enumerate(each[0].branches)])


def _gains(studies: Sequence[Study]) -> tuple[Gain, ...]:
    """The last branch minus each other one, mean AUROC, over the patients and the seeds together."""
    analysis = studies[0].results.analysis
    how, used = analysis.resampling, analysis.mean.findings
    if len(studies) < 2 or not used:
        return ()
    labels = tuple(result.finding for result in analysis.labels)
    by_seed = [study_of_seed.evaluation.scores for study_of_seed in studies]
    draws = Draws(how.resamples, how.level, how.seed)
    sampled = sample(by_seed, [labels.index(name) for name in used], draws)
    out = []
    for last, other in pairs(analysis.branches):
        apart = over_branch(last, other, sampled, draws).model_dump(include={"value", "low", "high", "p"})
        out.append(Gain(branch=analysis.branches[last], against=analysis.branches[other], **apart))
    return tuple(out)
