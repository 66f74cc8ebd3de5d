"""`agcxr ablate`: train every arm once, sharing what arms have in common, and compare them on the same films.

    OUT/  ablation.yaml (settings of the reference)  seed0/<arm>/ (a run folder, with predictions-<split>.parquet)
          results.json  report.html  table.md  figure.png  figure.svg  [sizes.png  sizes.svg
          budget.png  budget.svg]

Finished arms are skipped on another call, the one under way goes on after its last whole epoch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from agcxr import config as configuration
from agcxr.config import Train, parts_of
from agcxr.data.augment import sharp_size
from agcxr.data.prepared import Prepared, open_prepared
from agcxr.evaluation.analysis import Scores
from agcxr.evaluation.evaluate import crop_rows, place_of, to_frame, to_scores
from agcxr.evaluation.leak import check_films
from agcxr.evaluation.page import to_html, to_markdown
from agcxr.experiments import ablation, budget_tables
from agcxr.experiments.ablation import Ablation, ArmResult, BudgetStudy, Draws, MachineFacts, Resampled, Sampled
from agcxr.experiments.ablation_figure import draw_arms, draw_sizes
from agcxr.experiments.ablation_size import bins, ranged_findings, read_lesions, size_study
from agcxr.experiments.ablation_tables import ablation_page, text
from agcxr.experiments.annotated import annotated_answers
from agcxr.experiments.budget import LOOKS, ArmAnswers, budget_study, check, where_crops_lie
from agcxr.experiments.budget_figure import draw_budget
from agcxr.experiments.controls import GROUPS, REFERENCE, USUAL, Arm, Group, arms, runs, stage_epochs
from agcxr.experiments.cost import film_cost
from agcxr.inference.load import load_runs
from agcxr.inference.prediction import ViewSet
from agcxr.machine import versions
from agcxr.models.agcnn import AGCNN
from agcxr.training.run_folder import PACKAGES, RunFolder, atomic, differences, hardware, resolved
from agcxr.training.stages import first_process, train, wait_for_each_other

SETTINGS = "ablation.yaml"
CHUNK = 512
"""Films whose maps are held at once."""
PLAIN: tuple[str, ViewSet] = (REFERENCE, "plain")
"""Key of the reference."""


@dataclass(frozen=True)
class Ablated:
    """Where an ablation lies, and what it found."""

    folder: Path
    results: Ablation


def ablate(
    prepared: str | Path,
    base: Train,
    out: str | Path,
    *,
    only: Sequence[Group] = (),
    seeds: Sequence[int] = (0,),
    split: str = "test",
    lesions: str | Path | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    device: str | None = None,
    progress: bool = True,
) -> Ablated:
    """Run an ablation of `base`, or go on with it, and write its table and figure.

    Args:
        prepared: prepared folder; arms are compared on its part `split`.
        base: settings of the reference; its seed is replaced by each of `seeds`.
        only: groups of arms (default: USUAL). Groups that an earlier call finished in `out` are shown too.
        lesions: the phantom's lesions.csv, for a comparison by lesion diameter.
    Raises ValueError where `out` was begun with other settings or films, and as `train` and `evaluate` do.
    """
    start, root, films = time.perf_counter(), Path(out), open_prepared(prepared)
    base = resolved(base.model_copy(update={"seed": 0}))
    progress = progress and first_process()
    groups = _possible(tuple(only) or USUAL, base, films, progress)
    table = None if lesions is None else read_lesions(lesions)
    _check(groups, films, split, table)
    if first_process():
        _claim(root, base)
    rows = _arms(base, groups, films)
    needed = runs(rows, base)
    looks: dict[str, list[ViewSet]] = {
        name: list(dict.fromkeys(["plain", *(arm.views for arm in rows if arm.folder == name)])) for name in needed
    }
    if progress:
        cost = ", ".join(f"{stage} {epochs}" for stage, epochs in stage_epochs(needed.values()).items())
        print(
            f"{len(needed)} runs a seed, {len(seeds)} seed{'s' * (len(seeds) > 1)}; epochs a seed: {cost}", flush=True
        )
    for seed in seeds:
        for name, settings in needed.items():
            seeded, views = settings.model_copy(update={"seed": seed}), looks[name]
            _run(root / f"seed{seed}", name, seeded, films, split, views, device, "budget" in groups, progress)
    wait_for_each_other()  # for the predictions of the last arm
    shown = [group for group in GROUPS if group in groups or _finished(root, group, base, films, seeds, split)]
    results = _compare(root, _arms(base, shown, films), base, films, seeds, split, table, (resamples, level), start)
    if first_process():
        write(results, root)
    if progress:
        _print(results, root)
    return Ablated(root, results)


def _check(groups: Sequence[Group], films: Prepared, split: str, lesions: pd.DataFrame | None) -> None:
    """Raises ValueError before hours of training, not after."""
    if lesions is not None:
        if not {"controls", "budget"} & set(groups):
            raise ValueError("the comparison by lesion size is with the controls; add `controls` to --only")
        here, labels = films.index[films.index["split"] == split], films.findings.labels
        images = here["image_id"].astype(str).tolist()
        bins(images, labels, here[list(labels)].to_numpy(), lesions, ranged_findings(lesions))
    if "budget" in groups:
        check(films, split)


def _print(results: Ablation, root: Path) -> None:
    figure = "figure.png" if any(arm.group != "budget" for arm in results.arms) else "budget.png"
    parts = [text(results), *([] if results.budget is None else [budget_tables.text(results.budget)])]
    print("", *parts, f"Report: {root / 'report.html'}\nFigure: {root / figure}", sep="\n\n")


def write(results: Ablation, root: Path) -> None:
    """results.json, the figures, table.md and report.html (which holds the figures), each whole or not at all."""
    atomic(root / ablation.RESULTS, lambda path: path.write_text(results.model_dump_json(indent=1) + "\n", "utf-8"))
    figures = {"figure": draw_arms(results)} if any(arm.group != "budget" for arm in results.arms) else {}
    if results.sizes is not None:
        figures["sizes"] = draw_sizes(results.sizes)
    if results.budget is not None:
        figures["budget"] = draw_budget(results.budget)
    for name, drawn in figures.items():
        for kind, content in drawn.items():
            atomic(root / f"{name}.{kind}", lambda path, content=content: path.write_bytes(content))  # type: ignore[misc]
    page = ablation_page(results, *([] if results.budget is None else [budget_tables.section(results.budget)]))
    atomic(root / "table.md", lambda path: path.write_text(to_markdown(page, root), "utf-8"))
    atomic(root / "report.html", lambda path: path.write_text(to_html(page, root), "utf-8"))


def _possible(groups: tuple[Group, ...], base: Train, films: Prepared, progress: bool) -> tuple[Group, ...]:
    """Leave out what cannot differ on these films, and say so."""
    side = films.images.shape[-1]
    if "crop-source" in groups and sharp_size(side, image_size=base.image_size, resize=base.resize) is None:
        if progress:
            print(f"Left out: crop-source; films prepared at {side} hold no more than the view at {base.resize} shows.")
        return tuple(group for group in groups if group != "crop-source")
    return groups


def _arms(base: Train, groups: Sequence[Group], films: Prepared) -> tuple[Arm, ...]:
    """The arms that these films can have: places are known of a phantom's alone."""
    return tuple(arm for arm in arms(base, groups) if arm.settings.local.look != "oracle" or films.places is not None)


def _claim(root: Path, base: Train) -> None:
    path = root / SETTINGS
    if path.is_file():
        if other := differences(resolved(configuration.from_yaml(path)), base):
            raise ValueError(
                f"{root} was begun with other settings: {'; '.join(other)}. Give those, or --out a new folder"
            )
        return
    if root.exists() and any(root.iterdir()):
        raise ValueError(f"{root} is not empty and holds no ablation; give --out a new or an empty folder")
    root.mkdir(parents=True, exist_ok=True)
    atomic(path, lambda beside: configuration.to_yaml(base, beside))


def _predictions(run: Path, split: str, views: ViewSet = "plain") -> Path:
    return run / f"predictions-{place_of(split, views)}.parquet"


def _finished(root: Path, group: Group, base: Train, films: Prepared, seeds: Sequence[int], split: str) -> bool:
    if group == "budget" and not (root / "budget.png").is_file():  # costs are counted to say what its arms are
        return False
    keys = {arm.key for arm in _arms(base, [group], films)}
    return all(
        _predictions(root / f"seed{seed}" / name, split, views).is_file() for seed in seeds for name, views in keys
    )


def _run(
    folder: Path,
    name: str,
    settings: Train,
    films: Prepared,
    split: str,
    views: Sequence[ViewSet],
    device: str | None,
    places: bool,
    progress: bool,
) -> None:
    """Train a run, as far as it is not there, and keep its predictions on every view that arms of it ask for; `places`:
    with where its crops and peaks lie."""
    run = RunFolder(folder / name)
    if not _predictions(run.root, split).is_file():
        if progress:
            print(f"\n{folder.name}, {name}", flush=True)
        others = sorted(path.parent for path in folder.glob("*/config.yaml") if path.parent != run.root)
        train(films.folder, settings, run.root, resume=run.root.exists(), reuse=others, progress=progress)
    if not first_process():  # started for its device: the first one keeps the folder
        return
    for path in run.root.glob("*/last.ckpt"):  # the stage is done: only its best weights are needed
        path.unlink()
    for viewset in views:
        _predict(run.root, settings, films, split, viewset, device, places and viewset == "plain", progress)


def _predict(
    run: Path,
    settings: Train,
    films: Prepared,
    split: str,
    views: ViewSet,
    device: str | None,
    places: bool,
    progress: bool,
) -> None:
    target = _predictions(run, split, views)
    if target.is_file() and not (places and LOOKS[0] not in pd.read_parquet(target)):
        return
    rows = np.flatnonzero((films.index["split"] == split).to_numpy())
    if not len(rows):
        raise ValueError(f"{films.folder} has no films in the part {split!r} to compare the arms on")
    if settings.local.look == "oracle":
        model = AGCNN.from_pretrained(run)
        check_films(model.card, films, rows, split, allow=split != "test")
        parts = [annotated_answers(model, settings, films, split)]
    else:
        engine, predictors = load_runs(run, device, views=views)
        check_films(predictors[0].model.card, films, rows, split, allow=split != "test")
        step = CHUNK if places else len(rows)  # maps take room
        parts = [
            engine.predict_arrays(films.images, rows[i : i + step], batch_size=32, details=places, progress=progress)
            for i in range(0, len(rows), step)
        ]
    frames, start = [], 0
    for answers in parts:
        some = rows[start : (start := start + len(answers))]
        frame = to_frame(films, some, answers)
        frames.append(pd.concat([frame, where_crops_lie(films, some, answers)], axis=1) if places else frame)
    atomic(target, lambda beside: pd.concat(frames, ignore_index=True).to_parquet(beside, index=False))


def _answers(run: Path, films: Prepared, split: str, views: ViewSet) -> pd.DataFrame:
    """What an arm said. Differences are paired film by film, so another set of films must not slip in."""
    path = _predictions(run, split, views)
    frame = pd.read_parquet(path)
    if frame["image_id"].tolist() != films.index.loc[films.index["split"] == split, "image_id"].astype(str).tolist():
        raise ValueError(
            f"{path} is not of the films of {films.folder}; give those it was made of, or --out a new folder"
        )
    return frame


def _compare(
    root: Path,
    rows: Sequence[Arm],
    base: Train,
    films: Prepared,
    seeds: Sequence[int],
    split: str,
    lesions: pd.DataFrame | None,
    how: tuple[int, float],
    start: float,
) -> Ablation:
    keys = dict.fromkeys([PLAIN, *(arm.key for arm in rows)])
    frames = {
        (name, views): [_answers(root / f"seed{seed}" / name, films, split, views) for seed in seeds]
        for name, views in keys
    }
    labels = tuple(
        label
        for label in films.findings.labels
        if all(f"fusion_{label}" in frame for each in frames.values() for frame in each)
    )
    scores = {name: [to_scores(frame, labels, films.findings) for frame in each] for name, each in frames.items()}
    draws = Draws(*how, seed=0)
    first = scores[PLAIN][0]
    used, left_out = ablation.usable(first)
    if not used:
        raise ValueError(f"no finding has films with and without it in the part {split!r}; more films are needed")
    sampled = {name: ablation.sample(each, used, draws) for name, each in scores.items()}
    study = None
    if lesions is not None and any(arm.group == "controls" for arm in rows):
        compared = {arm.name: scores[arm.key] for arm in rows if arm.group == "controls"} or {REFERENCE: scores[PLAIN]}
        study = size_study(frames[PLAIN][0]["image_id"].tolist(), lesions, compared, REFERENCE, draws)
    return Ablation(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        data=films.plan.source.name,
        collection=films.plan.source.collection,
        split=split,
        films=len(first.target_NK),
        patients=len(np.unique(first.patient_N)),
        seeds=tuple(seeds),
        findings=tuple(first.labels[k] for k in used),
        left_out=(*left_out, *(name for name in films.findings.names if name not in labels)),
        base=(root / SETTINGS).read_text(encoding="utf-8"),
        arms=tuple(_arm(arm, base, root, seeds, frames[arm.key], first, sampled, draws) for arm in rows),
        resampled=Resampled(
            resamples=how[0],
            level=how[1],
            seed=0,
            patients=len(np.unique(first.patient_N)),
            over_seeds=len(seeds) > 1,
        ),
        sizes=study,
        budget=_budget(
            [arm for arm in rows if arm.group == "budget"], root, base, seeds, frames, scores, films, lesions, draws
        ),
        machine=_machine(time.perf_counter() - start),
    )


def _budget(
    rows: Sequence[Arm],
    root: Path,
    base: Train,
    seeds: Sequence[int],
    frames: Mapping[tuple[str, ViewSet], list[pd.DataFrame]],
    scores: Mapping[tuple[str, ViewSet], list[Scores]],
    films: Prepared,
    lesions: pd.DataFrame | None,
    draws: Draws,
) -> BudgetStudy | None:
    """The group's own comparisons; None where it was not asked for."""
    if not rows:
        return None
    train_films = int((films.index["split"] == "train").sum())
    answers = [
        ArmAnswers(
            name=arm.name,
            folder=arm.folder,
            branch=arm.branch,
            changes=arm.changes(base),
            side=arm.settings.image_size,
            operations=film_cost(arm.settings, arm.branch, films.findings),
            steps=float(np.mean([_steps(arm, root / f"seed{seed}" / arm.folder, train_films) for seed in seeds])),
            frames=tuple(frames[arm.key]),
            scores=tuple(scores[arm.key]),
        )
        for arm in rows
    ]
    return budget_study(answers, films, lesions, draws)


def _steps(arm: Arm, run: Path, films: int) -> int:
    """Optimiser steps behind an answer, in all stages up to its branch's."""
    stages = arm.settings.stages
    last = next(i for i, stage in enumerate(stages) if arm.branch in parts_of(stage))
    done = {stage: json.loads((run / stage / "done.json").read_text("utf-8")) for stage in stages[: last + 1]}
    return sum(int(one["epochs"]) * -(-films // arm.settings.stage(stage).batch_size) for stage, one in done.items())


def _arm(
    arm: Arm,
    base: Train,
    root: Path,
    seeds: Sequence[int],
    frames: Sequence[pd.DataFrame],
    first: Scores,
    sampled: dict[tuple[str, ViewSet], Sampled],
    draws: Draws,
) -> ArmResult:
    sampled_arm = sampled[arm.key]
    crops = [crop_rows(frame, ())[0] for frame in frames]
    last = arm.settings.stages[-1]
    stages = [json.loads((root / f"seed{seed}" / arm.folder / last / "done.json").read_text("utf-8")) for seed in seeds]
    validation = [float("nan") if stage["val_auc"] is None else float(stage["val_auc"]) for stage in stages]
    return ArmResult(
        group=arm.group,
        name=arm.name,
        folder=arm.folder,
        reference=arm.reference,
        changes=arm.changes(base),
        branches=ablation.arm_branches(arm, first.branches, sampled_arm, sampled[PLAIN], draws),
        fusion_over_global=ablation.over_branch(first.branches.index("fusion"), 0, sampled_arm, draws),
        local_over_global=ablation.over_branch(first.branches.index("local"), 0, sampled_arm, draws),
        validation_auroc=float(np.mean(validation)),
        box_area=float(np.mean([crop.area_median for crop in crops])),
        fallbacks=float(np.mean([crop.fallback_share for crop in crops])),
    )


def _machine(seconds: float) -> MachineFacts:
    packages = tuple(f"{name} {number}" for name, number in versions(*PACKAGES).items())
    return MachineFacts(processor=hardware(), versions=packages, seconds=round(seconds, 1))
