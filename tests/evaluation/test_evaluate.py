"""A run on a split: the predictor's numbers, refused leaks, telemetry, and the report that is made of them."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from evaluated import PARTS, SIZE, write_prepared, write_run

from agcxr import config
from agcxr.data.download import TERMS
from agcxr.data.prepared import Source, SourceFile, open_prepared
from agcxr.demo import Demo, closing
from agcxr.evaluation.evaluate import RunEvaluation, crop_rows, evaluate
from agcxr.evaluation.examples import Candidate, candidates, choose
from agcxr.evaluation.leak import PatientLeak, check_leak
from agcxr.evaluation.page import Number, to_html, to_markdown
from agcxr.evaluation.probe import probe
from agcxr.evaluation.report import _crop_tile, compose, conclusion, report
from agcxr.evaluation.results import BranchResult, CropRow, Results, load_results
from agcxr.evaluation.study import boxes_beside, study
from agcxr.evaluation.tables import gap_of
from agcxr.experiments.calibrate import calibrate
from agcxr.inference.predictor import Predictor
from agcxr.labels import FINDINGS, LABELS
from agcxr.metrics import auroc
from agcxr.models.agcnn import AGCNN
from agcxr.models.checkpoint import CARD_FILE, Card, ModelArguments, Patients, read_card
from agcxr.notices import CITATION, HOME
from agcxr.table import difference, ends, number, signed
from agcxr.uncertainty import Estimate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluation")
    write_prepared(root / "prepared")
    write_run(root / "run")
    return root


@pytest.fixture(scope="module")
def done(folder: Path) -> RunEvaluation:
    return evaluate(folder / "run", folder / "prepared", resamples=50, examples=2, device="cpu", progress=False)


@pytest.fixture(scope="module")
def html(done: RunEvaluation) -> str:
    return report(done.folder).html.read_text(encoding="utf-8")


def test_predictions_are_the_predictors(done: RunEvaluation, folder: Path) -> None:
    frame = pd.read_parquet(done.folder / "predictions.parquet")
    prepared = open_prepared(folder / "prepared")
    assert frame["row"].tolist() == list(range(30, 78))
    answer = Predictor.from_pretrained(folder / "run", device="cpu")(np.asarray(prepared.images[40]))
    row = frame[frame["row"] == 40].iloc[0]
    for branch in ("global", "local", "fusion"):
        np.testing.assert_allclose(
            row[[f"{branch}_{name}" for name in LABELS]].astype(float), answer.branch(branch), atol=1e-5
        )
    np.testing.assert_allclose(
        row[["box_x0", "box_y0", "box_x1", "box_y1"]].astype(float) * SIZE, answer.box, atol=1e-3
    )
    np.testing.assert_array_equal(frame["label_Mass"].isna().to_numpy(), [True] + [False] * 47)


def test_results_are_written_and_read(done: RunEvaluation) -> None:
    assert done.folder.parts[-3:] == ("run", "evaluation", "test")
    again = load_results(done.folder)
    assert again.model_dump_json() == done.results.model_dump_json()
    frame = pd.read_parquet(done.folder / "predictions.parquet")
    edema = again.analysis.label("Edema")
    assert edema.branches[2].auroc.value == pytest.approx(auroc(frame["label_Edema"], frame["fusion_Edema"]))
    assert again.analysis.mean.left_out == ("Hernia",)
    assert again.analysis.resampling.clusters == PARTS["test"] // 2
    assert again.points_from == "the 24 validation films"
    effusion = again.analysis.label("Effusion")
    assert not math.isnan(effusion.branches[0].points[0].sensitivity.value)
    assert effusion.chosen_on == 10
    assert math.isnan(edema.branches[0].points[0].threshold)  # 5 positive validation films
    assert again.leak.checked
    assert again.leak.shared_patients == 0


def test_a_leak_is_refused_with_its_count(folder: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", trained_on=("p15", "p16", "p0"))
    with pytest.raises(PatientLeak, match=r"2 of the 24 patients of 'test' \(4 of 48 films\).*pass --allow-leak"):
        evaluate(run, folder / "prepared", device="cpu", progress=False)
    out = evaluate(
        run,
        folder / "prepared",
        allow_leak=True,
        resamples=5,
        examples=0,
        out=tmp_path / "out",
        device="cpu",
        progress=False,
    )
    assert (out.results.leak.shared_patients, out.results.leak.shared_films) == (2, 4)
    written = report(out.folder)
    for path in (written.html, written.markdown):
        assert "Leak: 2 patients (4 films) of this split were seen in training" in path.read_text(encoding="utf-8")


def test_the_same_number_in_another_collection_is_another_patient() -> None:
    patients = pd.Series(["27", "27", "30"])

    def card(collection: str | None) -> Card:
        return Card(
            model=ModelArguments(backbone="resnet18"), train_patients=Patients.of(["27"], collection=collection)
        )

    other = check_leak(card("phantom, seed 0"), patients, "test", collection="nih", allow=False)
    assert (other.checked, other.shared_patients, other.shared_films) == (True, 0, 0)
    same = check_leak(card("nih"), patients, "test", collection="nih", allow=True)
    assert (same.shared_patients, same.shared_films) == (1, 2)
    with pytest.raises(PatientLeak, match=r"1 of the 2 patients of 'test' \(2 of 3 films\).*report say so$"):
        check_leak(card("nih"), patients, "test", collection="nih", allow=False)
    with pytest.raises(PatientLeak, match=r"number alone, as the model does not say of which .* if not of nih, they"):
        check_leak(card(None), patients, "test", collection="nih", allow=False)
    with pytest.raises(PatientLeak, match=r"number alone, as these films do not say of which .* if not of nih, they"):
        check_leak(card("nih"), patients, "test", collection=None, allow=False)


@pytest.mark.parametrize(
    ("trained", "films", "why"),
    [
        ("nih", "rsna", "rsna holds films of nih under names of its own, as nih does"),
        ("siim", "nih", "siim holds films of nih under names of its own"),
        ("rsna", "siim", "siim holds films of nih under names of its own"),
        (None, "siim", "siim holds films of nih under names of its own, and the model does not say of which"),
        ("rsna", None, "rsna holds films of nih under names of its own, and these films do not say of which"),
        ("rsna", "rsna", ""),
        ("chexpert", "rsna", ""),
        ("phantom, seed 0", "rsna", ""),
    ],
)
def test_collections_of_the_same_films_cannot_be_checked(trained: str | None, films: str | None, why: str) -> None:
    card = Card(model=ModelArguments(backbone="resnet18"), train_patients=Patients.of(["1"], collection=trained))
    found = check_leak(card, pd.Series(["2", "3"]), "test", collection=films, allow=False)
    assert (found.checked, found.shared_patients) == (not why, 0)
    assert found.unchecked.startswith(why) if why else found.unchecked == ""


def test_the_report_of_nih_films_names_them_and_their_provider(done: RunEvaluation) -> None:
    """As `agcxr download nih` prints that the NIH asks."""
    assert CITATION in " ".join(TERMS.split())
    for collection, said in (
        ("nih", "ChestX-ray14: https"),
        ("rsna", "ChestX-ray14, under names given by rsna: https"),
    ):
        results = done.results.model_copy(update={"collection": collection})
        page = compose(results, done.frame, None, done.folder)
        for text in (to_html(page, done.folder), to_markdown(page, done.folder)):
            assert CITATION in text
            assert said in text
            assert HOME in text
            assert "The NIH Clinical Center is the data provider." in text
    for collection in (None, "chexpert", "phantom, seed 0"):
        page = compose(done.results.model_copy(update={"collection": collection}), done.frame, None, done.folder)
        assert "Clinical Center" not in to_html(page, done.folder)


def test_a_gap_without_an_interval_claims_nothing(done: RunEvaluation, tmp_path: Path) -> None:
    mean = done.results.analysis.mean
    bare = tuple(gap.model_copy(update={"low": math.nan, "high": math.nan, "p": math.nan}) for gap in mean.gaps)
    branches = tuple(
        one.model_copy(update={"auroc": one.auroc.model_copy(update={"low": math.nan, "high": math.nan})})
        for one in mean.branches
    )
    analysis = done.results.analysis.model_copy(
        update={"mean": mean.model_copy(update={"gaps": bare, "branches": branches})}
    )
    page = compose(done.results.model_copy(update={"analysis": analysis}), done.frame, None, done.folder)
    shown = to_html(page, done.folder)
    assert "without an interval: too few patients for any claim." in shown
    assert "no interval: too few patients" in shown
    assert "(interval )" not in shown
    assert "the interval includes 0" not in shown
    assert "95 % interval <" not in shown


def test_a_card_without_patients_is_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", trained_on=None)
    out = evaluate(run, folder / "prepared", split="val", resamples=5, examples=0, device="cpu")
    assert not out.results.leak.checked
    assert "Leakage could not be checked" in report(out.folder).html.read_text(encoding="utf-8")
    shown = capsys.readouterr()
    assert "Leakage could not be checked: the checkpoint does not name its training patients." in shown.out
    assert re.search(r"^Finding +Positives +Global +Local +Fusion +Fusion − global +p$", shown.out, re.M)
    assert re.search(r"^Mean of 13 ", shown.out, re.M)
    assert "films/s" in shown.err
    assert out.results.points_from.startswith("nowhere")


def test_missing_parts_and_folders_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no films in the part 'holdout'; it has: test 48, val 24, train 6"):
        evaluate(folder / "run", folder / "prepared", split="holdout", progress=False)
    with pytest.raises(ValueError, match=r"there is no results.json in .*; make it with `agcxr evaluate RUN"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text('{"format": 7}')
    with pytest.raises(
        ValueError, match=r"is not a results file of this version \(format: .*run `agcxr evaluate` again"
    ):
        report(tmp_path)


def test_crop_rows_by_hand() -> None:
    frame = pd.DataFrame({f"label_{name}": [0.0, 0.0, 0.0] for name in LABELS})
    frame["label_Mass"] = [1.0, np.nan, 1.0]
    boxes = {"box_x0": [0, 0, 0.5], "box_y0": [0, 0, 0.5], "box_x1": [1, 0.5, 1], "box_y1": [1, 0.2, 1]}
    frame = frame.assign(**boxes, fallback=[True, False, False])
    rows = {row.group: row for row in crop_rows(frame, LABELS)}
    assert (rows["All films"].films, rows["All films"].fallbacks) == (3, 1)
    assert rows["All films"].area_median == pytest.approx(0.25)
    assert (rows["Mass"].films, rows["Mass"].fallback_share, rows["Mass"].area_median) == (2, 0.5, 0.625)
    assert math.isnan(rows["Edema"].fallback_share)


def test_examples_are_best_median_and_worst(done: RunEvaluation) -> None:
    shown = done.results.examples
    assert [one.kind for one in shown] == ["best"] * 2 + ["median"] * 2 + ["worst"] * 2
    merit = [one.iou for one in shown]
    assert merit == sorted(merit, reverse=True)
    assert all((done.folder / path).is_file() for one in shown for path in (one.film, one.attention, one.crop))
    assert all(one.finding in one.truth for one in shown if one.finding in FINDINGS)


def test_choice_of_films_by_hand() -> None:
    found = [Candidate(n, "Mass", merit) for n, merit in enumerate([0.1, 0.9, 0.5, 0.3, 0.7])]
    assert [(kind, one.row) for kind, one in choose(found, 1)] == [("best", 1), ("median", 2), ("worst", 0)]
    large = [Candidate(n, "Emphysema", 0.9 - n / 100) for n in range(5)]
    small = [Candidate(10 + n, ("Mass", "Nodule", "Hernia")[n % 3], 0.5 - n / 100) for n in range(9)]
    shown = choose([*large, *small], 3)
    for kind in ("best", "median", "worst"):  # each of another finding, though large ones hit best
        assert len({one.finding for which, one in shown if which == kind}) == 3
    assert [one.row for kind, one in shown if kind == "best"] == [0, 10, 11]
    assert len({one.row for _, one in shown}) == 9
    alike = [Candidate(n, "Pneumonia", n / 10) for n in range(9)]
    assert [one.row for _, one in choose(alike, 3)] == [8, 7, 6, 5, 4, 3, 2, 1, 0]  # one finding only: more films of it
    assert [one.row for _, one in choose(found[:1], 3)] == [0]
    assert choose([], 3) == []


def test_without_boxes_the_true_findings_probability_decides() -> None:
    frame = pd.DataFrame({f"{kind}_{name}": [0.0, 0.0] for name in LABELS for kind in ("label", "fusion")})
    frame = frame.assign(row=[7, 8], label_Mass=[1.0, 0.0], label_Edema=[1.0, 0.0], fusion_Mass=0.4, fusion_Edema=0.6)
    assert candidates(frame, pd.DataFrame({"row": [3], "finding": ["Mass"]})) == [Candidate(7, "Edema", 0.6)]


class Checker(HTMLParser):
    """Every element is closed; nothing is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name == "src":
                self.sources.append(value or "")
            elif name == "id":
                self.ids.append(value or "")
            elif name == "href":
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """`<path/>` opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_one_closed_page_that_fetches_nothing(html: str) -> None:
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert len(checker.sources) == 18
    assert all(source.startswith("data:image/jpeg;base64,") for source in checker.sources)
    assert checker.links
    assert set(checker.links) <= {f"#{name}" for name in checker.ids}
    assert not re.search(r"https?://|@import|url\(", html)
    assert "prefers-color-scheme:dark" in html
    assert "Not a medical device" in html
    assert "film &lt;" in html
    assert "film <" not in html
    assert "nan" not in re.sub(r"base64,[^\"]+", "", html)


@pytest.mark.parametrize(
    ("fallbacks", "near", "detail"),
    [
        (0, 0, ""),
        (0, None, ""),
        (3, 0, "30.0 % of films: no region stood out"),
        (3, 5, "30.0 % of films: no region stood out; 50 % of crops nearly the whole view"),
    ],
)
def test_the_tile_of_crops_counts_what_there_is(fallbacks, near, detail) -> None:
    row = CropRow.model_construct(films=10, fallbacks=fallbacks, near_whole=near, area_median=0.21)
    assert _crop_tile(row) == Number("21 %", "Median box, share of the film", detail)


def test_boxes_that_were_not_given_are_named(tmp_path) -> None:
    table = SourceFile(path=str(tmp_path / "labels.csv"), bytes=0, sha256="")
    films = SimpleNamespace(boxes=pd.DataFrame(), plan=SimpleNamespace(source=Source(name="nih", tables=(table,))))
    assert boxes_beside(films) is None
    beside = tmp_path / "BBox_List_2017.csv"
    beside.touch()
    assert boxes_beside(films) == beside
    films.boxes = pd.DataFrame({"row": [0]})
    assert boxes_beside(films) is None


def test_the_demo_ends_with_a_verdict_and_the_next_command(done: RunEvaluation) -> None:
    written = SimpleNamespace(html=Path("results/report.html"))
    made = Demo(SimpleNamespace(results=done.results, report=written), (Path("a.png"),), 90.0)
    said = closing(made, Path("demo/run"))
    assert said.startswith(f"Done in 1.5 minutes. {conclusion(done.results)} It learnt on synthetic films only: ")
    assert "\n  results/report.html\n  a.png\n" in said
    assert said.splitlines()[-1].startswith("Next: agcxr serve demo/run  ")
    assert re.search(r"the fusion (ranks films (better|worse) than|differs from) the global branch", said)


def test_html_says_what_must_be_said(html: str, done: RunEvaluation) -> None:
    for heading in (
        "Per finding",
        "What fusion adds",
        "ROC curves",
        "Operating points",
        "Where it looked",
        "Training",
        "Beside published numbers",
        "Data, configuration, hardware",
        "How to read this",
    ):
        assert f"<h2>{heading}</h2>" in html, heading
    assert html.index("<h2>How to read this</h2>") < html.index("<h2>Per finding</h2>")
    assert html.count('<a href="#how-to-read-this">') == 2  # beside the text, and folded above it
    assert "Left out for want of a class: Hernia." in html
    assert "Only 24 patients: read the intervals before the values." in html
    assert html.count('aria-label="ROC of') == 14
    assert "backbone: resnet" in html
    assert "by patient, seed 0: train 6 films of 3 patients" in html
    mean = done.results.analysis.mean.branches[2].auroc.value
    assert f"<b>{mean:.3f}</b>".replace("0.", ".") in html


def test_charts_are_well_formed_and_finite(html: str) -> None:
    charts = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(charts) > 20
    for chart in charts:
        ElementTree.fromstring(chart)
        assert "nan" not in chart


def test_markdown_has_the_same_and_its_pictures_exist(done: RunEvaluation) -> None:
    text = report(done.folder).markdown.read_text(encoding="utf-8")
    for heading in ("Per finding", "What fusion adds", "ROC curves", "Training", "How to read this"):
        assert f"\n## {heading}\n" in text
    pictures = re.findall(r"\]\((pictures/[^)]+)\)|src=\"([^\"]+)\"", text)
    assert len(pictures) == 4 + 18
    for one in ("".join(pair) for pair in pictures):
        path = done.folder / one
        assert path.is_file(), one
        if path.suffix == ".svg":
            ElementTree.fromstring(path.read_text(encoding="utf-8"))
    rows = [line for line in text.splitlines() if line.startswith("| Edema")]
    assert len({row.count("|") for row in rows}) >= 1
    assert "film \\<" in text
    assert "| Film, attended box and annotated box | Attention on it | Crop, as the local branch saw it |" in text
    assert "| Hernia | 0 | – | – | – |" in text
    assert "<summary>Fusion minus local, finding by finding</summary>" in text


def test_synthetic_films_are_called_so(tmp_path: Path) -> None:
    films = write_prepared(tmp_path / "prepared", collection="phantom, seed 3")
    done = evaluate(write_run(tmp_path / "run"), films, resamples=5, examples=0, progress=False)
    assert done.results.synthetic
    text = report(done.folder).markdown.read_text(encoding="utf-8")
    assert "test split of phantom, seed 3: 48 films of 24 patients" in text
    assert "Synthetic films (phantom, seed 3): a program drew them." in text
    assert "- Source: phantom, seed 3, in the layout of noise" in text
    assert "Fusion − global | p |\n" in text
    for said in ("Lite", "Guan", "read from reports by programs", "Beside published numbers"):
        assert said not in text


def test_a_partly_labelled_collection_end_to_end(tmp_path: Path) -> None:
    """As RSNA's: Pneumonia alone is stated, with its boxes."""
    films = write_prepared(tmp_path / "prepared", collection="rsna", stated=("Pneumonia",))
    done = study(write_run(tmp_path / "run"), films, resamples=20, progress=False)
    analysis = done.results.analysis
    assert [one.finding for one in analysis.stated] == ["Pneumonia"]
    text = done.report.markdown.read_text(encoding="utf-8")
    assert text.count("Not stated on these films, and so left out: Atelectasis, Cardiomegaly,") == 1
    assert f"**{number(analysis.mean.branches[2].auroc.value)}** AUROC of Pneumonia, fusion" in text
    gap = gap_of(analysis.mean, "global")
    assert gap is not None
    assert f"On Pneumonia the fusion differs from the global branch by {signed(gap.value)} (interval" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert not [row for row in rows if re.match(r"\| (Edema|Hernia|No Finding) ", row)]
    for said in (
        "Mean of 1",
        "ean over findings",
        "1 findings",
        "Left out for want",
        "nan",
        "By findings on the film",
        "| .868 |",
    ):
        assert said not in text
    assert re.search(r"^\| Guan 2018, ResNet-50 \| fusion \| \.776 \| \.776 \|$", text, re.M)
    assert "Not known of" not in text.split("## Subgroups")[0]


def own(folder: Path, **changes: Any) -> Path:
    """A run whose network is another one than `write_run` makes."""
    run = write_run(folder)
    torch.manual_seed(0)
    model = AGCNN(**({"backbone": "resnet10t", "weights": "none", "image_size": 64, "resize": SIZE} | changes))
    if model.backbone_name == "tf_efficientnet_lite0":
        with torch.no_grad():
            model.global_branch.backbone.net.bn2.weight.mul_(3)  # so that most cells reach ReLU6's clip
    model.save_pretrained(run / "model", card=model.new_card(prepared_size=SIZE))
    return run


def test_labels_of_the_model_s_own_are_compared_where_the_folder_states_them(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films = folder / "prepared"
    labels = ("Nodule", "Fracture", "pleural effusion")
    done = evaluate(own(tmp_path / "run", labels=labels), films, resamples=20, examples=0)
    assert [one.finding for one in done.results.analysis.stated] == ["Nodule", "pleural effusion"]
    assert done.results.analysis.mean.findings == ("Nodule", "pleural effusion")
    said = "Labels of the model's own, which the folder does not state, and so left out: Fracture."
    assert said in capsys.readouterr().out
    frame = pd.read_parquet(done.folder / "predictions.parquet")
    index = open_prepared(films).index
    np.testing.assert_array_equal(frame["label_pleural effusion"], index["Effusion"].iloc[frame["row"]])
    assert frame["label_Fracture"].isna().all()
    text = report(done.folder).markdown.read_text(encoding="utf-8")
    assert "Not stated on these films, and so left out: Fracture." in text


def test_labels_none_of_which_the_folder_states_are_refused(folder: Path, tmp_path: Path) -> None:
    run = own(tmp_path / "run", labels=("Fracture", "Tube"))
    words = r"states none of the model's labels, Fracture, Tube, so there is nothing to compare; a folder states Atelec"
    with pytest.raises(ValueError, match=words):
        evaluate(run, folder / "prepared", resamples=20, progress=False)
    with pytest.raises(ValueError, match=words):
        calibrate(run, folder / "prepared", progress=False)


def test_a_backbone_that_ends_in_relu6_is_warned_of_in_every_report(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes: dict[str, Any] = {"backbone": "tf_efficientnet_lite0", "attention": config.Attention(min_side=8)}
    done = evaluate(own(tmp_path / "max", **changes), folder / "prepared", resamples=20, examples=0)
    whole = done.results.crops[0]
    assert whole.plateaus is not None
    assert whole.plateaus > 0.5 * whole.films
    frame = pd.read_parquet(done.folder / "predictions.parquet")
    assert whole.near_whole == int((frame["view_share"] >= 0.9).sum()) > 0
    warning = done.results.attention
    assert warning.startswith("Attention hardly chooses a place: in ")
    assert warning.endswith(". Train with --local.statistic l2 or l1")
    assert warning in capsys.readouterr().out
    stored = json.loads((done.folder / "results.json").read_text(encoding="utf-8"))
    assert stored["attention"] == warning
    assert stored["crops"][0]["near_whole"] == whole.near_whole
    written = report(done.folder)
    share = f"{100 * whole.near_whole / whole.films:.1f} %"
    for text in (written.markdown.read_text(encoding="utf-8"), unescape(written.html.read_text(encoding="utf-8"))):
        assert warning in text
        assert "Nearly whole" in text
        assert share in text
        assert f"{100 * whole.near_whole / whole.films:.0f} % of crops nearly the whole view" in text
    l2 = own(tmp_path / "l2", backbone="tf_efficientnet_lite0", attention=config.Attention(statistic="l2", min_side=8))
    assert evaluate(l2, folder / "prepared", resamples=20, examples=0, progress=False).results.attention == ""
    seen = own(tmp_path / "whole", look="whole", **changes)  # a control that is meant to see the whole view
    found = evaluate(seen, folder / "prepared", resamples=20, examples=0, progress=False).results
    assert (found.attention, found.crops[0].near_whole) == ("", whole.films)


def test_results_of_before_near_whole_crops_were_counted_are_shown(done: RunEvaluation, tmp_path: Path) -> None:
    old = json.loads(done.results.model_dump_json())
    del old["attention"]
    for row in old["crops"]:
        del row["near_whole"], row["plateaus"]
    found = Results.model_validate(old)
    text = to_markdown(compose(found, done.frame, None, done.folder), tmp_path)
    assert "of crops nearly the whole view" not in text
    assert "Attention hardly" not in text


def test_the_verdict_has_signs(done: RunEvaluation) -> None:
    mean = done.results.analysis.mean
    gaps = tuple(gap.model_copy(update={"value": -0.109, "low": -0.256, "high": 0.018}) for gap in mean.gaps)
    analysis = done.results.analysis.model_copy(update={"mean": mean.model_copy(update={"gaps": gaps})})
    shown = to_html(
        compose(done.results.model_copy(update={"analysis": analysis}), done.frame, None, done.folder), done.folder
    )
    assert "differs from the global branch by −.109 (interval −.256 to +.018): the interval includes 0" in shown


def test_a_model_that_guesses_is_called_so_and_its_gains_are_not_bold(done: RunEvaluation) -> None:
    def at(branches: tuple[BranchResult, ...], values: tuple[float, ...], half: float) -> tuple[BranchResult, ...]:
        return tuple(
            branch.model_copy(
                update={"auroc": branch.auroc.model_copy(update={"value": v, "low": v - half, "high": v + half})}
            )
            for branch, v in zip(branches, values, strict=True)
        )

    analysis = done.results.analysis

    def shown(values: tuple[float, ...], half: float) -> str:
        gaps = tuple(gap.model_copy(update={"value": 0.03, "low": 0.01, "high": 0.05}) for gap in analysis.mean.gaps)
        mean = analysis.mean.model_copy(update={"gaps": gaps, "branches": at(analysis.mean.branches, values, half)})
        changed = done.results.model_copy(update={"analysis": analysis.model_copy(update={"mean": mean})})
        return to_markdown(compose(changed, done.frame, None, done.folder), done.folder)

    guess = "No branch is told from guessing: the mean AUROC of the fusion is .490 (.470–.510), and guessing gives"
    assert guess in shown((0.46, 0.47, 0.49), 0.02)
    assert "told from guessing" not in shown((0.46, 0.47, 0.53), 0.02)
    row = next(line for line in shown((0.46, 0.47, 0.49), 0.02).splitlines() if line.startswith("| Mean of"))
    assert "**+.030**" not in row
    assert "+.030" in row
    assert "**+.030**" in shown((0.46, 0.47, 0.53), 0.02)


def apart(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high)


def test_what_is_worse_is_marked() -> None:
    better, worse, same = (
        difference(apart(0.1, 0.05, 0.2)),
        difference(apart(-0.1, -0.2, -0.05)),
        difference(apart(-0.1, -0.2, 0.05)),
    )
    assert (better.text, better.strong, better.worse) == ("+.100", True, False)
    assert (worse.marked, worse.strong, worse.worse) == ("▾ −.100", True, True)
    assert (same.text, same.strong, same.worse) == ("−.100", False, False)
    assert not difference(apart(-0.1, -0.2, -0.05), lower_is_better=True).worse
    assert difference(apart(0.1, math.nan, math.nan)).soft == ""


def test_branches_compare_at_points_where_validation_is_the_checkpoints_own(folder: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    calibrate(run, folder / "prepared", progress=False)
    own = evaluate(run, folder / "prepared", resamples=20, examples=0, progress=False).results
    assert own.points_from == (
        "the 24 validation films of its training, and those of the fusion are kept in the checkpoint"
    )
    assert not own.points_fitted_here
    effusion = own.analysis.label("Effusion")
    assert {gap.point for gap in effusion.gaps} >= {"", "youden", "sensitivity95"}  # noise may not reach the third
    kept = read_card(run / "model" / CARD_FILE).calibration
    assert kept is not None
    assert effusion.branches[2].points[0].threshold == kept.findings["Effusion"].points["youden"].threshold
    text = report(run / "evaluation" / "test").markdown.read_text(encoding="utf-8")
    assert "Fusion minus global at these points, finding by finding" in text
    assert re.search(r"^\| Effusion† \| 10 \| ", text, re.M)
    assert "lands elsewhere here is shift and chance" in text
    other = open_prepared(folder / "prepared")
    other.index.loc[other.index["split"] == "val", "Effusion"] = 1 - other.index["Effusion"]
    elsewhere = evaluate(run, other, resamples=20, examples=0, out=tmp_path / "out", progress=False).results
    assert elsewhere.points_from == "the 24 validation films of its training, and are kept in the checkpoint"
    assert {gap.point for gap in elsewhere.analysis.label("Effusion").gaps} == {""}
    assert elsewhere.analysis.label("Effusion").chosen_on == 10


def test_report_needs_the_predictions(done: RunEvaluation, tmp_path: Path) -> None:
    Results.model_validate_json((done.folder / "results.json").read_text()).save(tmp_path)
    with pytest.raises(ValueError, match=r"there is no predictions.parquet beside the results"):
        report(tmp_path)


def test_an_evaluation_is_one_and_a_half_passes_of_the_network_at_most(folder, tmp_path, monkeypatch):
    """Over its films: one for the scores, and one over those with boxes, a quarter here, for where it looks. Beside it
    the validation films, for the thresholds, and a few films that are shown, however many there are."""
    seen, forward = [], AGCNN.forward

    def counted(self, view, sharp=None):
        seen.append(len(view))
        return forward(self, view, sharp)

    monkeypatch.setattr(AGCNN, "forward", counted)
    run = write_run(tmp_path / "run")
    done = study(run, folder / "prepared", resamples=10, device="cpu", progress=False)
    assert done.localization is not None
    shown = 20
    assert PARTS["test"] * 1.25 + PARTS["val"] <= sum(seen) <= PARTS["test"] * 1.25 + PARTS["val"] + shown


def test_training_curves_of_another_strategy_are_shown_in_order(tmp_path):
    prepared = write_prepared(tmp_path / "prepared")
    run = write_run(tmp_path / "run")
    (run / "fusion").rename(run / "local+fusion")
    (run / "local").rename(run / "notes")  # no stage
    done = evaluate(run, prepared, resamples=10, examples=0, progress=False)
    page = report(done.folder).html.read_text(encoding="utf-8")
    assert page.index("validation AUROC, global stage") < page.index("validation AUROC, local+fusion stage")
    assert "notes stage" not in page


def test_a_report_without_pictures_shows_no_film(tmp_path: Path) -> None:
    films = write_prepared(tmp_path / "prepared")
    done = study(write_run(tmp_path / "run"), films, resamples=20, pictures=False, progress=False)
    assert done.localization is not None
    assert "Where it looks, measured" in done.report.markdown.read_text("utf-8")
    assert done.results.examples == ()
    assert {path.suffix for path in done.folder.rglob("*") if path.suffix in (".png", ".jpg", ".svg")} == {".svg"}
    assert "data:image/jpeg" not in done.report.html.read_text("utf-8")
    assert "data:image/png" not in done.report.html.read_text("utf-8")


def test_the_report_shows_what_is_known_without_training(tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path / "prepared", boxed=False)
    index = pd.read_parquet(prepared / "index.parquet")
    index.assign(view=np.where(np.arange(len(index)) % 3, "PA", "AP")).to_parquet(prepared / "index.parquet")
    run = write_run(tmp_path / "run")
    films = open_prepared(prepared)
    features = np.random.default_rng(0).normal(size=(len(index), 3))
    known = probe(films, features, "three numbers by chance", resamples=20)
    known.save(run)
    done = evaluate(run, films, resamples=20, examples=0, device="cpu", progress=False)
    text = report(done.folder).markdown.read_text(encoding="utf-8")
    assert text.index("## What is known without training") < text.index("## Per finding")
    rows = ("Metadata alone", "Frozen features alone", "This run, global", "This run, local", "This run, fusion")
    assert [name for name in rows if f"{name}" in text] == list(rows)
    plain, same = done.results.analysis.mean.branches[-1].auroc, done.results.same_view[-1]
    row = f"{number(plain.value)} ({ends(plain)}) | {number(same.value)} ({ends(same)}) |"
    assert f"| **This run, fusion** | {row}" in text
    assert f"| Metadata alone | {number(known.mean[0].value)} ({ends(known.mean[0])}) |" in text
    assert "a ridge on three numbers by chance" in text
    (done.folder / "facts" / "probe.json").unlink()
    assert "Metadata alone" not in (again := report(done.folder).markdown.read_text(encoding="utf-8"))
    assert "| This run, global |" in again


def test_films_of_one_view_without_a_probe_have_no_such_section(done: RunEvaluation) -> None:
    assert done.results.same_view == ()
    assert "What is known without training" not in report(done.folder).markdown.read_text(encoding="utf-8")


def test_an_evaluation_loads_once_predicts_once_and_reads_nothing_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, predicted, read, out = [], [], [], tmp_path / "out"

    def counted(owner: type, name: str, seen: list, what: Callable[..., object]) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            seen.append(what(*args))
            return real(*args, **options)

        monkeypatch.setattr(owner, name, call)

    counted(AGCNN, "from_pretrained", loaded, lambda source, *_: source)
    counted(Predictor, "predict_arrays", predicted, lambda _, images, rows: len(rows))
    for method in ("read_bytes", "read_text"):
        counted(Path, method, read, lambda path: path)
    counted(pd, "read_parquet", read, lambda path: path)  # type: ignore[arg-type]
    study(write_run(tmp_path / "run"), folder / "prepared", out=out, resamples=10, device="cpu", progress=False)
    assert len(loaded) == 1
    assert predicted == [48, 24, 9], "test films; validation films, for the thresholds; those shown, for their heatmaps"
    tables = [path.name for path in map(Path, read) if path.parent == out and path.suffix != ".png"]
    assert tables == [], "what is in memory is not read back, but for pictures, which the page embeds"
