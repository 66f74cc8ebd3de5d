"""The report's section on reporting guidelines: each item of TRIPOD+AI and CLAIM 2024, and what this report says of it.

Items are named in short words of our own; the guidelines have the full ones.
"""

from __future__ import annotations

from pathlib import Path

from agcxr import config as configuration
from agcxr.data.collection_names import collections_in
from agcxr.data.prepared import Plan
from agcxr.evaluation.page import Section, Text
from agcxr.evaluation.results import Results
from agcxr.table import Cell, Table

YOURS = Cell("", soft="not known to this program: yours to state")
TRIPOD = """
1 Title|2 Abstract|3a Healthcare context|3b Target population, intended use|3c Known health inequalities|4 Objectives
5a Sources of data|5b Dates of the data|6a Setting, number of centres|6b Eligibility|6c Treatments received
7 Preparation of the data|8a Outcome|8b Who assessed the outcome|8c Blinding of the outcome|9a Choice of predictors
9b Definition of predictors|9c Who assessed predictors|10 Sample size|11 Missing data|12a Use of the data, partitions
12b Handling of predictors|12c Model and its building|12d Heterogeneity between clusters|12e Measures of performance
12f Updating|12g How predictions were computed|13 Class imbalance|14 Fairness|15 Output and thresholds
16 Training against evaluation|17 Ethical approval|18a Funding|18b Conflicts of interest|18c Protocol|18d Registration
18e Availability of data|18f Availability of code|19 Involvement of patients and public|20a Flow of participants
20b Characteristics|20c Development against evaluation|21 Participants and events in each analysis|22 The full model
23a Performance with intervals|23b Heterogeneity of performance|24 Results of updating|25 Interpretation|26 Limitations
27a Input of poor quality|27b Who must interact, and with what skill|27c Next steps
"""
CLAIM = """
1 Title names the AI method|2 Abstract|3 Background, intended use|4 Aims and hypotheses|5 Prospective or retrospective
6 Goal of the study|7 Data sources|8 Inclusion and exclusion|9 Preprocessing|10 Selection of subsets
11 De-identification
12 Missing data|13 Acquisition protocol|14 How the reference standard was obtained|15 Why this reference standard
16 Who annotated|17 Annotation of the test set|18 Variability between and within raters|19 Assignment to partitions
20 Level at which partitions are disjoint|21 Intended sample size|22 The model|23 Software|24 First weights
25 Training|26 Selection of the final model|27 Ensembling|28 Measures of performance|29 Significance and uncertainty
30 Robustness and sensitivity|31 Explainability|32 Evaluation on internal data|33 Testing on external data
34 Registration|35 Numbers included and excluded|36 Characteristics of each partition|37 Performance with uncertainty
38 Diagnostic performance and its precision|39 Failure analysis|40 Limitations|41 Implications for practice
42 Protocol or further details|43 Availability of software, model, data|44 Funding
"""
SAME = {  # items of CLAIM that ask what an item of TRIPOD+AI asks
    "7": "5a", "9": "7", "12": "11", "14": "8a", "19": "12a", "22": "12c", "28": "12e", "35": "20a", "37": "23a",
    "42": "18c", "43": "18f",
}  # fmt: skip


def items(results: Results, folder: Path) -> Section:
    """Both lists, folded away. What the program cannot know it leaves to the reader, item by item."""
    plan, settings = _plan(folder), _settings(folder)
    tripod = _tripod(results, plan, settings)
    claim = {item: tripod[other] for item, other in SAME.items() if other in tripod}
    claim |= _claim(results, plan, settings)
    words = (
        "Two guidelines for papers on such models, TRIPOD+AI (Collins et al., BMJ 2024;385:e078378) and CLAIM 2024 "
        "(Tejani et al., Radiology: AI 2024;6:e240300). What stands in this report, and what only its authors know:"
    )
    return Section(
        "Reporting guidelines", (Text(words), _table("TRIPOD+AI", TRIPOD, tripod), _table("CLAIM 2024", CLAIM, claim))
    )


def _table(title: str, listed: str, answers: dict[str, str]) -> Table:
    named = [line.split(" ", 1) for line in listed.strip().replace("\n", "|").split("|")]
    rows = tuple((item, asks, answers.get(item, YOURS)) for item, asks in named)
    stated = sum(item in answers for item, _ in named)
    folded = f"{title}: {stated} of {len(rows)} items are stated here, at least in part"
    return Table(("Item", "Asks for", "Here"), rows, texts=(0, 1, 2), folded=folded)


def _plan(folder: Path) -> Plan | None:
    path = folder / "facts" / "plan.json"
    return Plan.model_validate_json(path.read_bytes()) if path.is_file() else None


def _settings(folder: Path) -> configuration.Train | None:
    path = folder / "facts" / "config.yaml"
    return configuration.from_yaml(path) if path.is_file() else None


def _tripod(results: Results, plan: Plan | None, settings: configuration.Train | None) -> dict[str, str]:
    analysis = results.analysis
    whose = results.collection or "a collection without a name"
    answers = {
        "5a": f"films of {whose}; their tables by SHA-256 under Data, configuration, hardware",
        "8a": "labels as the collection's tables state them, film by film"
        + ("; read out of reports by a program" if "nih" in collections_in(results.collection) else ""),
        "11": "an unknown label leaves its film out of that finding alone; counts are under Per finding",
        "12e": "AUROC, average precision, Brier score, ECE, sensitivity, specificity; overlap with boxes, if any",
        "12g": "by the stored model, one pass a film; Data, configuration, hardware has device and precision",
        "14": "AUROC and calibration by sex, age and view, under Subgroups; nothing was done to make them equal",
        "15": f"score, calibrated probability and call of each finding; thresholds chosen on {results.points_from}",
        "16": f"leak check: {_leak(results)}",
        "18f": "the package agcxr, Apache-2.0; the configuration stands in this report",
        "20a": f"{analysis.films:,} films of {analysis.patients:,} patients measured",
        "21": "positives of every finding, under Per finding",
        "22": "the weights and config.json of the run",
        "23a": f"under Per finding, {100 * analysis.resampling.level:g} % intervals over {analysis.resampling.unit}s",
        "23b": "under Subgroups",
        "26": "research use only; chance in training is in the intervals only where several seeds were evaluated",
        "27a": "intake refuses or warns of what is no upright, whole, frontal film, with a reason",
    }
    if plan is not None:
        answers["7"] = f"every film to {plan.size} x {plan.size} pixels, {plan.resize_rule}"
        answers["12a"] = f"split rule: {plan.split.rule}; between the parts: {plan.leak_check}"
        answers["20a"] += f"; {plan.counts.rejected:,} of {plan.counts.drawn:,} films could not be read"
    if settings is not None:
        stages = f"{settings.global_.epochs}, {settings.local.epochs} and {settings.fusion.epochs} epochs at most"
        answers["12c"] = (
            f"{settings.backbone}, strategy {settings.strategy}, {stages}; all settings stand in the report"
        )
        answers["13"] = f"loss {settings.loss}; thresholds of each finding are its own"
    return answers


def _claim(results: Results, plan: Plan | None, settings: configuration.Train | None) -> dict[str, str]:
    how = results.analysis.resampling
    answers = {
        "5": "retrospective: the films existed before the model",
        "6": "development and evaluation of a model",
        "23": ", ".join((f"Python {results.environment.python}", *results.environment.versions)),
        "26": "after each stage the weights with the best validation AUROC are kept",
        "29": f"{how.resamples:,} resamples of {how.clusters:,} {how.unit}s, "
        "paired between branches; Holm and Benjamini-Hochberg over findings",
        "30": "subgroups, and AUROC among films of one view",
        "31": "the attention box and Grad-CAM, measured against annotated boxes where the split has any",
        "32": f"the {results.split} part of {results.collection or 'a collection without a name'}",
        "36": "sex, age and view under Subgroups, as far as the films state them; of the evaluated part alone",
        "38": "sensitivity and specificity at each threshold, under Operating points",
        "39": "best and worst cases, under Where it looked",
        "40": "under How to read this",
    }
    if plan is not None:
        answers["20"] = f"patients; {plan.leak_check}"
    if settings is not None:
        answers["24"] = settings.weights
        answers["25"] = f"seed {settings.seed}; all settings stand in the report (config.yaml)"
    return answers


def _leak(results: Results) -> str:
    if results.leak.unchecked:
        return f"not possible, {results.leak.unchecked}"
    shared = results.leak.shared_patients
    return f"{shared:,} patients shared with training" if shared else "no patient of this split was trained on"
