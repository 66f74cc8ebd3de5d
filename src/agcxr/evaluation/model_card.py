"""The README beside a model: what it learnt from, how well it did, what it must not be used for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from agcxr import config as configuration
from agcxr.calibration import Calibration
from agcxr.data.collection_names import collections_in
from agcxr.data.prepared import Plan
from agcxr.data.synthetic import is_synthetic
from agcxr.evaluation.results import RESULTS, Results
from agcxr.evaluation.tables import counted, few_patients, measured, table, with_mean
from agcxr.models.agcnn import README
from agcxr.models.checkpoint import CARD_FILE, Card, read_card
from agcxr.notices import CITATION, HOME, RESEARCH_ONLY
from agcxr.table import Table, ends, number, percent, to_markdown, words
from agcxr.training.run_folder import atomic

FILE = "README.md"
MARK = "<!-- Written by agcxr, and written anew by its train, calibrate and evaluate while this line stands. -->"
METHOD = (
    "Guan Q, Huang Y, Zhong Z, Zheng Z, Zheng L, Yang Y. Diagnose like a Radiologist: Attention Guided Convolutional "
    "Neural Network for Thorax Disease Classification. arXiv:1801.09927, 2018."
)
SPLITS = {
    "official": "the collection's official lists",
    "patient": "drawn by patient, seed {seed}",
    "image": "drawn by image, seed {seed}: patients stand on both sides, so test numbers are too good",
    "test": "every film is a test film",
}


def write_model_card(run: str | Path) -> Path | None:
    """Write the README of a run's model anew, from what lies in the run: its card, config.yaml and plan.json, and the
    results.json of every part it was evaluated on (RUN/evaluation/PART). None where there is no RUN/model, or where a
    person wrote its README."""
    root = Path(run)
    if not (root / "model" / CARD_FILE).is_file():
        return None
    card = read_card(root / "model" / CARD_FILE)
    plan = root / "plan.json"
    text = model_card(
        root.resolve().name,
        card,
        Plan.model_validate_json(plan.read_bytes()) if plan.is_file() else None,
        configuration.from_yaml(root / "config.yaml") if (root / "config.yaml").is_file() else None,
        [Results.load(path.parent) for path in sorted(root.glob(f"evaluation/*/{RESULTS}"))],
    )
    path = root / "model" / FILE
    if path.is_file() and not {MARK, *README.splitlines()} & set(path.read_text(encoding="utf-8").splitlines()):
        return None
    atomic(path, lambda beside: beside.write_text(text, encoding="utf-8"))
    return path


def model_card(
    name: str, card: Card, plan: Plan | None, settings: configuration.Train | None, results: list[Results]
) -> str:
    """The README as Markdown, behind the metadata that the Hugging Face hub reads (with a model-index of `results`).
    What is not known is said to be so."""
    sections = {
        "What it learnt from": _data(card, plan),
        "How it was trained": _training(card, settings),
        "How well it does": _results(results),
        "Calibration": _calibration(card.calibration),
        "What it must not be used for": _limits(card, plan),
        "Licence": _licence(plan),
        "How to cite": [
            f"- agcxr {card.versions['agcxr']}.",
            f"- {METHOD}",
            *([f"- {CITATION}"] if "nih" in collections_in(_collection(card, plan)) else []),
        ],
    }
    head = [
        f"# {name}: AG-CNN for chest radiographs",
        f"**{RESEARCH_ONLY}**",
        f"It answers for {', '.join(map(words, card.labels))}, on frontal chest films. Load it with `agcxr`:",
        '```python\nfrom agcxr import Predictor\n\nfilm = Predictor.from_pretrained("PATH")("film.png")\n```',
    ]
    parts = [*head, *("\n".join([f"## {title}\n", *lines]) for title, lines in sections.items())]
    return f"---\n{_metadata(name, results)}\n---\n\n" + "\n\n".join([*parts, MARK]) + "\n"


def _metadata(name: str, results: list[Results]) -> str:
    rows = [row for result in results for row in _index_rows(result)]
    return ModelCardData(
        license="apache-2.0",
        library_name="agcxr",
        pipeline_tag="image-classification",
        tags=["chest-x-ray", "radiology"],
        model_name=name if rows else None,
        eval_results=rows or None,
    ).to_yaml()


def _index_rows(results: Results) -> Iterable[EvalResult]:
    """Mean AUROC first, then each finding's, of the last branch, with intervals in their names."""
    level = f"{100 * results.analysis.resampling.level:g} %"
    mean = results.analysis.mean
    named = [(f"mean of {len(mean.findings)} findings", mean.branches[-1])]
    named += [(words(result.finding), result.branches[-1]) for result in results.analysis.labels if result.defined]
    for what, branch in named:
        if branch.auroc.value != branch.auroc.value:
            continue
        span = ends(branch.auroc) or "none: too few patients"
        yield EvalResult(
            task_type="image-classification",
            task_name="Findings on frontal chest radiographs",
            dataset_type=(results.collection or "unknown").split(",")[0],
            dataset_name=results.collection or "a collection without a name",
            dataset_split=results.split,
            metric_type="roc_auc",
            metric_name=f"AUROC, {what}, {branch.branch} ({level} interval {span})",
            metric_value=round(branch.auroc.value, 4),
        )


def _collection(card: Card, plan: Plan | None) -> str | None:
    if plan is not None:
        return plan.source.collection
    return card.train_patients.whose if card.train_patients else None


def _data(card: Card, plan: Plan | None) -> list[str]:
    lines = [f"- Imported weights: {card.source}."] if card.source else []
    collection = _collection(card, plan)
    if any(map(is_synthetic, collections_in(collection))):
        lines.append("- **Synthetic films, drawn by a program. What it says of a real film means nothing.**")
    lines.append(f"- Collection: {collection or 'not known'}.")
    if plan is None:
        lines.append("- Films and split: not known here.")
    else:
        parts = ", ".join(
            f"{part.part} {part.images:,} films of {part.patients:,} patients" for part in plan.counts.parts
        )
        rule = SPLITS.get(plan.split.rule, plan.split.rule).format(seed=plan.split.seed)
        lines += [f"- Split: {rule}; {parts}.", f"- Between the parts: {plan.leak_check}."]
        lines += [
            f"- Label table: {Path(table.path).name}, SHA-256 {table.sha256[:16]}..." for table in plan.source.tables
        ]
    if card.taught:
        taught = ", ".join(f"{words(label)} {yes:,}/{no:,}" for label, (yes, no) in card.taught.items())
        lines.append(f"- Training films with and without each finding: {taught}.")
    else:
        lines.append("- How many films taught each finding: not known.")
    if card.train_patients:
        count = sum(len(group.hashes) for group in card.train_patients.groups)
        lines.append(
            f"- {count:,} training patients, in config.json as salted hashes. Whoever has "
            "the file can test whether a patient is among them."
        )
    return lines


def _training(card: Card, settings: configuration.Train | None) -> list[str]:
    model = card.model
    view = f"views of {model.image_size} px from films of {model.resize}"
    lines = [f"- Backbone {model.backbone}, two branches, {view}, {model.in_channels} channel(s)."]
    if settings is not None:
        epochs = f"{settings.global_.epochs}/{settings.local.epochs}/{settings.fusion.epochs}"
        lines.append(f"- First weights: {settings.weights}; loss {settings.loss}; epochs at most {epochs} (G/L/F).")
    look = model.attention
    evidence = {"cam": "evidence by the head", "learned": "learned evidence"}.get(look.statistic, "")
    where = look.where if look.window or look.crops > 1 else f"tau {look.threshold:g}"
    lines.append(f"- Attention: {evidence or f'{look.statistic} over channels'}, {where}.")
    lines.append(
        f"- Seed: {'not known' if card.seed is None else card.seed}. One training: another seed gives another model."
    )
    lines.append(f"- Versions: {', '.join(f'{name} {number}' for name, number in card.versions.items())}.")
    return lines


def _results(results: list[Results]) -> list[str]:
    if not results:
        return ["Not measured on any test film yet. `agcxr evaluate RUN --data PREPARED` writes the numbers here."]
    return [line for result in results for line in [*_table(result), ""]][:-1]


def _table(results: Results) -> list[str]:
    analysis = results.analysis
    how = analysis.resampling
    whose = results.collection or "a collection without a name"
    lines = [
        f"{results.split.capitalize()} part of {whose}: {analysis.films:,} films of {analysis.patients:,} patients; "
        f"{how.resamples:,} resamples of {how.unit}s, {100 * how.level:g} % intervals. Chance in training "
        "is not in them.",
        "",
    ]
    if results.leak.unchecked:
        lines += [
            f"Whether the model was trained on these patients could not be checked: {results.leak.unchecked}.",
            "",
        ]
    elif results.leak.shared_patients:
        lines += [f"**The model was trained on {results.leak.shared_patients:,} of these patients: too good.**", ""]
    shown = table(
        with_mean(analysis.stated, analysis.mean),
        (counted("Films with it", lambda result: f"{result.positives:,}"), *measured(analysis, title="AUROC, {}")),
        few_patients(analysis),
    )
    return [*lines, to_markdown(shown)]


def _calibration(calibration: Calibration | None) -> list[str]:
    if calibration is None:
        return [
            "None: its scores order films and are no probabilities. `agcxr calibrate RUN --data PREPARED` fits one."
        ]
    rare = [words(name) for name, finding in calibration.findings.items() if not finding.enough]
    lines = [f"Method: {calibration.method}, fitted on {calibration.words}."]
    if rare:
        lines.append(f"Not calibrated, as these films held too few: {', '.join(rare)}.")
    rows = tuple(
        (
            words(name),
            percent(finding.prevalence),
            *map(number, (point.threshold, point.sensitivity, point.specificity)),
        )
        for name, finding in calibration.findings.items()
        if finding.points and (point := finding.points.get("youden"))
    )
    if rows:
        head = ("Finding", "Share of these films", "Threshold (Youden)", "Sensitivity", "Specificity")
        caption = "Both are those of the films that the thresholds were chosen on."
        lines += ["", to_markdown(Table(head, rows, caption))]
    return lines


def _limits(card: Card, plan: Plan | None) -> list[str]:
    lines = [
        "- No diagnosis, no triage, no exclusion of anything.",
        "- Frontal chest films only. On films of another hospital, device or population, measure first.",
        "- Probabilities and calls hold for films like those it was calibrated on, where findings are as common.",
        "- The box is where the global branch responds most, which is often not where the finding is.",
    ]
    if "nih" in collections_in(_collection(card, plan)):
        lines.append("- Labels of ChestX-ray14 were read out of reports by a program: they are noisy.")
    silent = [words(label) for label in card.model.labels if label not in card.labels]
    if silent:
        lines.append(f"- It says nothing of {', '.join(silent)}, which its films did not teach.")
    return lines


def _licence(plan: Plan | None) -> list[str]:
    lines = [
        "Code, and weights as far as their makers may decide: Apache-2.0. First weights and films keep their own terms."
    ]
    if plan is not None and "nih" in collections_in(plan.source.collection):
        lines.append(f"Films: NIH Clinical Center, {HOME}.")
    return lines
