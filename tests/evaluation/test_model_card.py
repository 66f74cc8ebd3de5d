"""The README beside a model, and the report's section on reporting guidelines."""

import shutil
from pathlib import Path

import pytest
from evaluated import write_prepared, write_run
from huggingface_hub import ModelCard

from agcxr.evaluation.model_card import MARK, write_model_card
from agcxr.evaluation.report_items import CLAIM, TRIPOD, YOURS, items
from agcxr.evaluation.results import load_results
from agcxr.evaluation.study import study
from agcxr.experiments.calibrate import calibrate


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the NIH's films, calibrated and evaluated on its test part."""
    root = tmp_path_factory.mktemp("card")
    films, run = write_prepared(root / "films", collection="nih"), write_run(root / "run")
    shutil.copyfile(films / "plan.json", run / "plan.json")
    calibrate(run, films, progress=False)
    study(run, films, resamples=50, maps=False, probe=False, progress=False)
    return run


def test_the_card_has_data_split_results_calibration_limits_licence_and_sources(evaluated: Path):
    text = (evaluated / "model" / "README.md").read_text(encoding="utf-8")
    mean = load_results(evaluated / "evaluation" / "test").analysis.mean.branches[-1].auroc
    for words in (
        "Research use only. Not a medical device.",
        "- Split: drawn by patient, seed 0; train 6 films of 3 patients, val 24 films of 12 patients, test 48 films ",
        "- 3 training patients, in config.json as salted hashes.",
        "Test part of nih: 48 films of 24 patients; 50 resamples of patients, 95 % intervals.",
        f"| .{round(mean.value * 1000):03d} (.{round(mean.low * 1000):03d}–.{round(mean.high * 1000):03d}) |\n\n†",
        "| Hernia | 0 | – | – | – |",
        "fitted on the 24 validation films of its training.",
        "- Labels of ChestX-ray14 were read out of reports by a program: they are noisy.",
        "Apache-2.0",
        "arXiv:1801.09927",
        "ChestX-ray8: Hospital-scale",
    ):
        assert words in text, words


def test_the_hub_reads_the_results_from_the_card(evaluated: Path):
    data = ModelCard.load(evaluated / "model" / "README.md").data
    analysis = load_results(evaluated / "evaluation" / "test").analysis
    assert data.model_name == "run"
    assert data.library_name == "agcxr"
    first = data.eval_results[0]
    assert (first.dataset_type, first.dataset_split, first.metric_type) == ("nih", "test", "roc_auc")
    assert first.metric_value == round(analysis.mean.branches[-1].auroc.value, 4)
    assert first.metric_name.startswith("AUROC, mean of 13 findings, fusion (95 % interval ")
    assert len(data.eval_results) == 1 + sum(result.defined for result in analysis.labels)


def test_a_card_of_before_any_evaluation_says_so(tmp_path: Path):
    run = write_run(tmp_path / "run")
    path = write_model_card(run)
    assert path == run / "model" / "README.md"
    text = path.read_text(encoding="utf-8")
    assert "Not measured on any test film yet." in text
    assert "- Films and split: not known here." in text
    assert "None: its scores order films and are no probabilities." in text
    assert "model-index" not in text


def test_a_card_that_a_person_wrote_stays(tmp_path: Path):
    run = write_run(tmp_path / "run")
    card = run / "model" / "README.md"
    card.write_text("# Ours\n")
    assert write_model_card(run) is None
    assert card.read_text() == "# Ours\n"
    card.write_text(f"# Begun by hand\n{MARK}\n")
    assert write_model_card(run) == card
    assert write_model_card(tmp_path) is None  # no run


def test_both_guidelines_are_whole_and_what_is_unknown_is_said(evaluated: Path):
    folder = evaluated / "evaluation" / "test"
    tripod, claim = items(load_results(folder), folder).blocks[1:]
    assert [row[0] for row in claim.rows] == [str(number) for number in range(1, 45)]
    assert len(tripod.rows) == len({row[0] for row in tripod.rows}) == 52
    assert {int(row[0].rstrip("abcdefg")) for row in tripod.rows} == set(range(1, 28))
    for table, listed in ((tripod, TRIPOD), (claim, CLAIM)):
        assert len(table.rows) == listed.count("|") + listed.strip().count("\n") + 1
        stated = sum(row[2] != YOURS for row in table.rows)
        assert f"{stated} of {len(table.rows)} items are stated here" in table.folded
    here = {row[0]: row[2] for row in tripod.rows}
    assert here["17"] == here["18a"] == YOURS  # ethics, funding
    assert here["12a"] == "split rule: patient; between the parts: no patient is in two parts"
    assert "read out of reports by a program" in here["8a"]
