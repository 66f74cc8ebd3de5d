"""All that `agcxr evaluate` measures on a split, in order: scores, then where it looks, then the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agcxr.data.prepared import Prepared, open_prepared
from agcxr.evaluation import estimates
from agcxr.evaluation.calibration_report import CalibrationReport
from agcxr.evaluation.evaluate import EXAMPLES, RunEvaluation, evaluate
from agcxr.evaluation.interpret import interpret
from agcxr.evaluation.known import by_split, keep, known_before
from agcxr.evaluation.localization import Localization, crop_table
from agcxr.evaluation.localize import PICTURE, coverage, localize
from agcxr.evaluation.model_card import write_model_card
from agcxr.evaluation.page import Section
from agcxr.evaluation.probe import Probe
from agcxr.evaluation.report import Written, seeds_section, write_report
from agcxr.evaluation.report_looks import crops, looks
from agcxr.evaluation.report_scores import meaning_sections
from agcxr.evaluation.results import Results
from agcxr.inference.ensemble import all_runs
from agcxr.inference.maps import Rectify
from agcxr.inference.prediction import ViewSet
from agcxr.table import to_text
from agcxr.training.seeds import Seeds
from agcxr.uncertainty import RESAMPLES

NOT_GIVEN = (
    "holds no annotated boxes, so where the model looks is not scored. {0} lies beside its labels and was not given: "
    "prepare again with --boxes {0}"
)


@dataclass(frozen=True, eq=False)
class Study:
    """An evaluation and all that was measured from it. `localization`: None where the split has no boxes to measure
    by, or maps were not asked for."""

    evaluation: RunEvaluation
    meaning: CalibrationReport
    localization: Localization | None
    probe: Probe | None
    """What was known before training; None where it was not asked for, or has nothing to be measured on."""
    sections: tuple[Section, ...]
    """Of the report, beyond those that `results` makes."""
    report: Written

    @property
    def folder(self) -> Path:
        return self.evaluation.folder

    @property
    def results(self) -> Results:
        return self.evaluation.results

    def report_again(self, seeds: Seeds) -> Written:
        """The report once more, now that runs of other seeds are known, with a section on them."""
        sections = (*self.sections, seeds_section(seeds))
        return write_report(self.folder, self.results, self.evaluation.frame, self.probe, sections, seeds)


def study(
    run: str | Path,
    prepared: str | Path | Prepared,
    split: str = "test",
    *,
    out: str | Path | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    allow_leak: bool = False,
    device: str | None = None,
    maps: bool = True,
    pictures: bool = True,
    rectify: Rectify = "minmax",
    others: Sequence[str] = (),
    views: ViewSet = "plain",
    probe: bool = True,
    progress: bool = True,
) -> Study:
    """Evaluate a run on a split of a prepared folder and write its report; see `evaluate` for the arguments.

    maps: also score Grad-CAM maps of every finding against the boxes, the slowest part; the crops always are.
    pictures: show films in the report; without, nothing of a film is in the results folder but its name and numbers.
    others, views: what to average over. Where it looks is then scored of the first model on the plain view.
    rectify: how signed Grad-CAM maps become maps of 0 or more; see `FindingMaps.on_film`.
    probe: also measure what was known before training, and shortcuts, into probe.json; see `known_before`.
    """
    films = prepared if isinstance(prepared, Prepared) else open_prepared(prepared)
    options: dict[str, Any] = {"resamples": resamples, "seed": seed, "allow_leak": allow_leak}
    options |= {"device": device, "progress": progress}
    several: dict[str, Any] = {"others": others, "views": views}
    evaluation = evaluate(run, films, split, out=out, examples=EXAMPLES if pictures else 0, **several, **options)
    first = all_runs(run, others)[0]
    probe_result = _known(first, evaluation, device, progress) if probe else None
    keep(evaluation.folder, probe_result, progress=progress)
    own = evaluation.engine.own
    averaged = evaluation.engine.calibrated and own is None  # no one calibration makes the probabilities
    meaning = interpret(evaluation.frame, evaluation.results, own, as_predicted=averaged)
    meaning.save(evaluation.folder)
    whose: dict[str, Any] = {"name": Path(first).name, "picture": pictures, "rectify": rectify}
    localization, sections = _where_it_looks(evaluation, maps, whose, options)
    sections += meaning_sections(meaning)
    estimates.save(evaluation.folder, results=evaluation.analysis, scores=meaning, localization=localization)
    report = write_report(evaluation.folder, evaluation.results, evaluation.frame, probe_result, sections)
    if not others and views == "plain":
        write_model_card(run)
    return Study(evaluation, meaning, localization, probe_result, sections, report)


def _where_it_looks(
    evaluation: RunEvaluation, maps: bool, whose: dict[str, Any], options: dict[str, Any]
) -> tuple[Localization | None, tuple[Section, ...]]:
    """What the crops show and, with `maps`, where the maps look, where the films have boxes; with the report's sections
    on them. whose, options: for `localize`."""
    films, folder, progress = evaluation.films, evaluation.folder, options["progress"]
    if not evaluation.has_boxes:
        if progress and (path := boxes_beside(films)):
            print(f"\n{films.folder} {NOT_GIVEN.format(path)}")
        return None, ()
    window, how = np.array(evaluation.engine.window), {name: options[name] for name in ("resamples", "seed")}
    shown = coverage(evaluation.frame, evaluation.boxes, window, **how)
    shown.save(folder)
    if progress:
        print(f"\nWhat the crop shows\n\n{to_text(crop_table(shown))}\n")
    if not maps:
        return None, (crops(shown),)
    localization = localize(evaluation.predictor, films, evaluation.split, out=folder, **whose, **options)
    if progress:
        print(f"\n{localization}")
    return localization, (crops(shown), looks(localization, PICTURE if whose["picture"] else None))


def _known(run: str, evaluation: RunEvaluation, device: str | None, progress: bool) -> Probe | None:
    """None where the films are of one patient, or no finding has both classes."""
    results, design = evaluation.results, by_split(evaluation.films, evaluation.row_N, evaluation.split)
    if design is None:
        return None
    options: dict[str, Any] = {"name": results.run, "device": device, "progress": progress}
    return known_before(
        Path(run), evaluation.films, evaluation.frame, results.analysis, design, evaluation.feature_ND, **options
    )


def boxes_beside(films: Prepared) -> Path | None:
    """A list of boxes beside the tables that a folder without any was prepared from; None too where these are not on
    this machine."""
    if len(films.boxes):
        return None
    folders = {Path(table.path).parent for table in films.plan.source.tables}
    return next((path for folder in sorted(folders) for path in sorted(folder.glob("BBox_List*.csv*"))), None)
