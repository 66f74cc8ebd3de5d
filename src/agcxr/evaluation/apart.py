"""Films of several collections: each measured apart, beside all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from agcxr.evaluation.analysis import Scores, analyse
from agcxr.evaluation.page import Section, Text
from agcxr.evaluation.results import Analysis, CollectionResult, FindingResult, Results
from agcxr.evaluation.tables import few_patients, gap_of
from agcxr.table import BOLD, NONE, Cell, Table, cell, difference, interval, number, to_text, words

TOGETHER = "Together"
WARNING = (
    "An AUROC over several collections also counts pairs of films of two of them. Where a finding is commoner in one, "
    "a network that tells the collections apart, by their scanners or margins, ranks such pairs without seeing the "
    "finding: read each collection apart first."
)


def apart(scores: Scores, collection_N: pd.Series, **options: Any) -> tuple[CollectionResult, ...]:
    """The measures on the films of each collection, in the order of the films. options: of `analyse`."""
    found = []
    for name in collection_N.unique():
        analysis = analyse(scores.subset((collection_N == name).to_numpy(bool)), **options)
        found.append(
            CollectionResult(
                collection=str(name),
                films=analysis.films,
                patients=analysis.patients,
                labels=analysis.labels,
                mean=analysis.mean,
            )
        )
    return tuple(found)


def text(results: Results) -> str:
    """AUROC of the last branch a finding, together and in each collection, for a terminal; empty for one collection."""
    analysis = results.analysis
    if not results.collections:
        return ""
    last = analysis.branches[-1]
    every: tuple[Analysis | CollectionResult, ...] = (analysis, *results.collections)
    rows: list[tuple[Cell | str, ...]] = [("Films", *(f"{measured.films:,}" for measured in every))]
    rows += [
        (words(result.finding), *(cell(own.branches[-1].auroc) for own in _results(results, result)))
        for result in analysis.stated
    ]
    means = (f"{interval(each.mean.branches[-1].auroc)} of {len(each.mean.findings)}" for each in every)
    rows.append(("Mean of findings", *means))
    head = (f"AUROC, {last}", TOGETHER, *(result.collection for result in results.collections))
    return to_text(Table(head, tuple(rows), "\n".join(_same(results)), summary=True))


def section(results: Results) -> Section:
    """The branches over each collection, then the last branch finding by finding; empty for one collection."""
    if not results.collections:
        return Section("Each collection", ())
    texts = map(Text, (WARNING, *_same(results)))
    return Section("Each collection", (_means(results), _findings(results), *texts))


def _results(results: Results, finding: FindingResult) -> tuple[FindingResult, ...]:
    """Of one finding: together, then in each collection."""
    place = [one.finding for one in results.analysis.labels].index(finding.finding)
    return (finding, *(one.labels[place] for one in results.collections))


def _means(results: Results) -> Table:
    analysis = results.analysis
    first, last = analysis.branches[0], analysis.branches[-1]
    head = ("Collection", "Films", "Patients", "Findings", *(name.capitalize() for name in analysis.branches))

    def row(name: str, one: Analysis | CollectionResult) -> tuple[Cell, ...]:
        counts = (one.films, one.patients, len(one.mean.findings))
        found = [cell(branch.auroc, strong=branch.branch == last) for branch in one.mean.branches]
        return (Cell(name), *(Cell(f"{count:,}") for count in counts), *found, difference(gap_of(one.mean, first)))

    rows = tuple(row(one.collection, one) for one in results.collections)
    caption = (
        "Mean AUROC over the findings that have films with and without them there: means of other numbers of findings "
        f"are of other findings, and do not compare. {BOLD} {few_patients(analysis)}"
    ).strip()
    together = row(TOGETHER, analysis)
    return Table((*head, f"{last.capitalize()} − {first}"), (*rows, together), caption, summary=True)


def _findings(results: Results) -> Table:
    names = [one.collection for one in results.collections]
    last = results.analysis.branches[-1]
    groups = ("", *(name for name in (TOGETHER, *names) for _ in range(2)))
    head = ("Finding", *(title for _ in groups[1::2] for title in ("With", "AUROC")))

    def cells(one: FindingResult) -> tuple[Cell, ...]:
        return Cell(f"{one.positives:,}" if one.stated else NONE), cell(one.branches[-1].auroc)

    rows = tuple(
        (Cell(words(result.finding)), *(part for one in _results(results, result) for part in cells(one)))
        for result in results.analysis.stated
    )
    caption = f"AUROC of the {last}, and films with the finding. {NONE}: not stated there, or all have it or none."
    return Table(head, rows, caption, groups=groups)


def _same(results: Results) -> Sequence[str]:
    """The mean AUROC where collections cannot help, beside the plain one."""
    if not results.same_collection:
        return ()
    found, plain = results.same_collection[-1], results.analysis.mean.branches[-1].auroc
    return (
        f"Over pairs of films of one collection the mean AUROC of the {results.analysis.branches[-1]} is "
        f"{interval(found)}, over all pairs {number(plain.value)}.",
    )
