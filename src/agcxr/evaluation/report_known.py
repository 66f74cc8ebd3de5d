"""Sections of the report on what is known without training, and on shortcuts: the first that a reader should see."""

from __future__ import annotations

from pathlib import Path

from agcxr.evaluation.page import Number, Section, Text
from agcxr.evaluation.probe import FEATURES, IN_WORDS, METADATA, MODEL, PROBE, Probe
from agcxr.evaluation.results import Results
from agcxr.evaluation.shortcuts import Balanced, Shortcut, not_tested
from agcxr.table import BOLD, NONE, Cell, Table, cell, difference, ends, number, signed
from agcxr.uncertainty import Estimate

KNOWN_BEFORE = "What is known without training"
SHORTCUTS = "Shortcuts"
NETWORKS = {FEATURES: "Told by frozen features", MODEL: "Told by this run"}


def with_runs_probe(probe: Probe | None, folder: Path) -> tuple[Probe, ...]:
    """That of the evaluation, and one that `agcxr probe` left with the run, where it asked other features."""
    runs_own = [Probe.load(folder / "facts")] if (folder / "facts" / PROBE).is_file() else []
    both = [probe, *runs_own] if probe else runs_own
    return tuple(probe for probe in both if probe is both[0] or probe.source not in ("", both[0].source))


def known_section(results: Results, probes: tuple[Probe, ...]) -> Section:
    """The rows of the probes, and each branch of the run over the same films, plain and among films of one view; then
    how far the run is above each row. No section where there is neither a probe nor films of two views."""
    last = results.analysis.branches[-1]
    gaps = {gap.against: gap for gap in probes[0].gaps} if probes else {}

    def row(
        name: str, against: str, plain: Estimate, matched: Estimate | None, *, strong: bool = False
    ) -> tuple[Cell, ...]:
        gap = gaps.get(against)
        apart = [difference(gap) if gap else Cell("")] * bool(gaps)
        return (Cell(name, strong=strong), cell(plain), cell(matched), *apart)

    rows = []
    for probe in probes:
        first = probe is probes[0]
        for name, plain, matched in zip(probe.rows, probe.mean, probe.matched_mean, strict=True):
            if first or name not in probes[0].rows:
                rows.append(row(IN_WORDS.get(name, name).capitalize(), name if first else "", plain, matched))
            elif name == FEATURES:
                rows.append(row("Features of the run's own probe", "", plain, matched))
    branches = results.analysis.mean.branches
    if branches and (rows or results.same_view):
        same: tuple[Estimate | None, ...] = results.same_view or (None,) * len(branches)
        rows += [
            row(f"This run, {b.branch}", "", b.auroc, matched, strong=b is branches[-1])
            for b, matched in zip(branches, same, strict=True)
        ]
    if not rows:
        return Section(KNOWN_BEFORE, ())
    head = ("Scores", "Mean AUROC", "Same view", *([f"{last.capitalize()} − this"] if gaps else []))
    verdict = [Text(probes[0].verdict)] if gaps else []
    absent = [Text(" ".join(probes[0].absent))] if probes and probes[0].absent else []
    return Section(KNOWN_BEFORE, (*verdict, Table(head, tuple(rows), _caption(results, probes)), *absent))


def above_known(results: Results, probes: tuple[Probe, ...]) -> tuple[Number, ...]:
    """How far the run is above the row that knows most, as a headline number; none where there is no row."""
    if not probes or not probes[0].gaps:
        return ()
    gap = min(probes[0].gaps, key=lambda gap: gap.value)
    level = f"{100 * results.analysis.resampling.level:g} %"
    span = f"{level} interval {ends(gap, sign=True)}" if ends(gap) else "no interval: too few patients"
    what = IN_WORDS.get(gap.against, gap.against).removesuffix(" alone")
    return (Number(signed(gap.value), f"{gap.branch.capitalize()} minus {what}", span),)


def _caption(results: Results, probes: tuple[Probe, ...]) -> str:
    caption = (
        "Mean AUROC. Same view: only pairs of films of one view position count, for the view alone tells something of "
        "most findings. A run that is not clearly above the rows over it has learnt little of the films."
    )
    for probe in probes:
        if FEATURES in probe.rows:
            caption += f" Frozen features: a ridge on {probe.source}, {probe.films}."
    if probes and probes[0].rows and FEATURES not in probes[0].rows:
        caption += f" Metadata: {probes[0].films}."
    if probes and METADATA in probes[0].rows:
        caption += f" Metadata: a ridge on {', '.join(probes[0].metadata)}."
    if probes and probes[0].rows:
        caption += " Penalties are chosen by folds of the patients fitted on."
        if len(probes[0].findings) != (own := len(results.analysis.mean.findings)):
            caption += f" Mean of {len(probes[0].findings)} findings, this run's of {own}."
    return caption + f" {BOLD}" * any(probe.gaps for probe in probes)


def shortcuts_section(probes: tuple[Probe, ...]) -> Section:
    """Which properties of the films the networks can tell, and what balancing each away does to the mean AUROC."""
    probe = next((probe for probe in probes if probe.shortcuts), None)
    if probe is None:
        return Section(SHORTCUTS, ())
    tested = [shortcut for shortcut in probe.shortcuts if not shortcut.untested]
    left = not_tested(probe.shortcuts)
    untested = [Text(f"Not tested: {left}.")] if left else []
    if not tested:
        return Section(SHORTCUTS, tuple(untested))
    networks = [name for name in NETWORKS if any(network.features == name for network in tested[0].told)]
    scores = [shortcut.balanced[-1].scores for shortcut in tested if shortcut.balanced]
    whose = (scores or [MODEL])[0].capitalize()
    head = ("Property", *(NETWORKS[name] for name in networks), f"{whose}, mean AUROC", "Balanced", "Change")
    table = Table(head, tuple(_property(shortcut, networks) for shortcut in tested), _HOW)
    return Section(SHORTCUTS, (*(Text(_meaning(shortcut)) for shortcut in tested), table, *untested))


_HOW = (
    "Told: AUROC of a ridge on pooled features that is asked for the property, not for a finding, in folds by patient "
    "of these films; .5 is guessing. Of several values, the mean of each against all others. Balanced: films without a "
    "finding are weighted so that each value has the same share among them as among films with it; whatever the "
    "property alone tells of findings is then worth nothing. Films that do not state it are a group of their own."
)


def _property(shortcut: Shortcut, networks: list[str]) -> tuple[Cell, ...]:
    aurocs = {each.features: each.auroc for each in shortcut.told}
    cells = [cell(aurocs.get(name)) for name in networks]
    counts = ", ".join(f"{value} {count:,}" for value, count in zip(shortcut.values, shortcut.films, strict=True))
    name = Cell(shortcut.name.capitalize(), counts)
    if not shortcut.balanced:
        return (name, *cells, Cell(NONE), Cell(NONE), Cell(NONE))
    last = shortcut.balanced[-1]
    return (name, *cells, cell(last.auroc), cell(last.balanced), difference(last.difference))


def _meaning(shortcut: Shortcut) -> str:
    """What was found of a property, no stronger than the interval."""
    name = shortcut.name.capitalize()
    by = {FEATURES: "the frozen features tell", MODEL: "this run tells"}
    tells = " and ".join(
        f"{by[network.features]} it with AUROC {number(network.auroc.value)}" for network in shortcut.told
    )
    sentence = f"{name}: {tells}." if tells else f"{name}:"
    if not shortcut.balanced:
        return f"{sentence} No finding can be balanced for it on these films."
    return f"{sentence} {_lost(shortcut.balanced[-1], shortcut.name)}"


def _lost(last: Balanced, name: str) -> str:
    if last.change_high < 0:
        end = f": so much of it can come from the {name} alone, and need not hold where that is distributed otherwise."
    elif last.change_low > 0:
        end = f": the {name} hid some of what it ranks by."
    else:
        end = f": the interval includes 0, so these films do not show that the {name} helps it."
    return f"With the {name} balanced away, {last}{end}"
