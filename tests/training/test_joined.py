"""Folders of several collections trained on as one, by the commands: whose patients they are, and each apart."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import short, write_prepared

from agcxr.cli import main
from agcxr.config import to_yaml
from agcxr.data.join import join, write_joined
from agcxr.data.prepared import Source, open_prepared, read_plan
from agcxr.evaluation.leak import PatientLeak, check_films
from agcxr.evaluation.results import Results, load_results
from agcxr.findings import Findings
from agcxr.labels import LABELS
from agcxr.models.checkpoint import CARD_FILE, read_card
from agcxr.training.folds import read_folds
from agcxr.training.stages import train

OWN = Findings.of(["Fracture", "Pleural Effusion", "Normal"])
PARTS = {"train": 24, "val": 10, "test": 12}


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, Path]:
    """`nih` with the fifteen, and `clinic`, a table's folder with three findings of its own; equal names of patients,
    whole patients in every part."""
    root = tmp_path_factory.mktemp("two")
    nih, clinic = (write_prepared(root / name, parts=PARTS) for name in ("nih", "clinic"))
    for folder, seed in ((nih, 0), (clinic, 1)):
        index = pd.read_parquet(folder / "index.parquet")
        parts = np.random.default_rng(seed).permutation(
            [part for part, count in PARTS.items() for _ in range(count // 2)]
        )
        index["split"] = np.repeat(parts, 2)
        if folder == clinic:
            labels = dict(zip(OWN.labels, ("Mass", "Effusion", "No Finding"), strict=True))
            columns = {name: index[label] for name, label in labels.items()}
            index = pd.concat([index.drop(columns=list(LABELS)), pd.DataFrame(columns)], axis=1)
        index.to_parquet(folder / "index.parquet")
    change(nih, source=Source(name="nih", collection="nih"), fingerprint="1" * 16)
    change(clinic, source=Source(name="table"), fingerprint="2" * 16, findings=OWN, labels=OWN.labels)
    to_yaml(short(), root / "config.yaml")
    return nih, clinic


def change(folder: Path, **fields: object) -> None:
    plan = read_plan(folder).model_copy(update=fields)
    (folder / "plan.json").write_text(plan.model_dump_json())


def command(two: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    settings = ["--config", str(two[0].parent / "config.yaml"), "--out", str(out)]
    return ["train", "--data", *map(str, two), *settings, *more]


@pytest.fixture(scope="module")
def run(two, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(command(two, out)) == 0
    return out


def test_the_model_answers_for_what_any_of_them_states(two, run):
    card = read_card(run / "model" / CARD_FILE)
    assert card.model.labels == (*LABELS, "Fracture")
    mass, fracture, effusion = (card.taught[name] for name in ("Mass", "Fracture", "Effusion"))
    assert (sum(mass), sum(fracture), sum(effusion)) == (24, 24, 48)
    assert not (run / "films" / "images.npy").exists()
    assert json.loads((run / "films" / "members.json").read_text()) == [str(folder) for folder in two]


def test_patients_are_known_by_collection(two, run):
    """Both have patients p0 to p22, in other parts."""
    card = read_card(run / "model" / CARD_FILE)
    assert [group.collection for group in card.train_patients.groups] == ["nih", None]
    assert [len(group.hashes) for group in card.train_patients.groups] == [12, 12]
    films = open_prepared(run / "films")
    rows = np.flatnonzero((films.index["split"] == "test").to_numpy())
    found = check_films(card, films, rows, "test", allow=False)
    assert (found.checked, found.shared_patients) == (True, 0)
    for folder in two:
        alone = open_prepared(folder)
        parts = {part: np.flatnonzero((alone.index["split"] == part).to_numpy()) for part in PARTS}
        assert check_films(card, alone, parts["test"], "test", allow=False).shared_patients == 0
        with pytest.raises(PatientLeak, match=r"was trained on 12 of the 12 patients of 'train' \(24 of 24 films\)"):
            check_films(card, alone, parts["train"], "train", allow=False)
    card_of_nih = card.model_copy(update={"train_patients": card.train_patients.model_copy(update={"others": ()})})
    leak = check_films(card_of_nih, films, rows, "test", allow=True)
    assert leak.shared_patients > 0  # the other collection says no name, so equal ids may be the same people
    assert card.calibration.fitted_on.of_training
    assert card.calibration.fitted_on.collection == "nih and clinic"


def evaluated(out: Path, *words: object) -> Results:
    assert main(["evaluate", *map(str, words), "--resamples", "50", "--no-probe", "--out", str(out)]) == 0
    return load_results(out)


def test_each_collection_is_measured_apart_and_together(two, run, tmp_path):
    results = evaluated(tmp_path / "own", run)
    counts = [(one.collection, one.films, one.patients) for one in results.collections]
    assert counts == [("nih", 12, 6), ("clinic", 12, 6)]
    assert (results.analysis.films, results.analysis.patients) == (24, 12)
    nih, clinic = results.collections
    assert {one.finding for one in clinic.labels if one.stated} == {"Effusion", "Fracture", "No Finding"}
    assert not next(one for one in nih.labels if one.finding == "Fracture").stated
    assert len(results.same_collection) == 3
    frame = pd.read_parquet(tmp_path / "own" / "predictions.parquet")
    assert frame["collection"].value_counts().to_dict() == {"nih": 12, "clinic": 12}
    page = (tmp_path / "own" / "report.html").read_text(encoding="utf-8")
    assert "Each collection" in page
    assert "Some of the films are of the NIH" in page

    again = evaluated(tmp_path / "again", run, "--data", *two)
    left_out = {"analysis": {"resampling"}, "made": True, "environment": True, "examples": True}
    assert again.model_dump_json(exclude=left_out) == results.model_dump_json(exclude=left_out)
    alone = evaluated(tmp_path / "alone", "--data", two[1], run)
    assert alone.collections == ()
    assert "collections" not in json.loads((tmp_path / "alone" / "results.json").read_text())
    here, there = (one.branches for one in (alone.analysis.label("Fracture"), clinic.labels[-1]))
    assert [one.auroc.value for one in here] == pytest.approx([one.auroc.value for one in there], abs=1e-9)


def test_a_run_goes_on_and_other_films_are_refused(two, run, capsys):
    before = (run / "model" / "model.safetensors").read_bytes()
    assert main(command(two, run, "--resume")) == 0
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert (run / "model" / "model.safetensors").read_bytes() == before
    assert main(command(two, run, "--resume", "--findings", "intersection")) == 2
    assert "joins other films, or other findings of theirs" in capsys.readouterr().err
    other = run.parent / "other"
    other.mkdir()
    (other / "letter.txt").touch()
    assert main(command(two, other)) == 2
    assert "is not empty, and was not begun on several folders" in capsys.readouterr().err
    assert [entry.name for entry in other.iterdir()] == ["letter.txt"]
    assert main(["train", "--data", str(two[0]), "--findings", "union", "--out", str(run)]) == 2
    assert "--findings is about several folders" in capsys.readouterr().err


@pytest.mark.slow
def test_folds_and_seeds_of_joined_films(two, tmp_path):
    out = tmp_path / "folds"
    assert main(command(two, out, "--folds", "2", "--findings", "intersection")) == 0
    folds = read_folds(out)
    tested = []
    for films in folds.films(out):
        part = open_prepared(films)
        assert part.findings.labels == ("Effusion", "No Finding")
        assert part.plan.leak_check.clean
        tested += part.index.loc[part.index["split"] == "test", "image_id"].tolist()
    assert sorted(tested) == sorted(f"{name}/{n}.png" for name in ("nih", "clinic") for n in range(46))
    assert main(["evaluate", str(out), "--resamples", "50", "--no-probe"]) == 0
    results = load_results(out / "evaluation" / "test")
    assert [(one.collection, one.films) for one in results.collections] == [("nih", 46), ("clinic", 46)]
    seeds = tmp_path / "seeds"
    assert main(command(two, seeds, "--seeds", "2")) == 0
    assert main(command(two, seeds, "--seeds", "2", "--resume")) == 0
    assert main(["evaluate", str(seeds), "--resamples", "50", "--no-probe"]) == 0
    assert len(load_results(seeds / "seed1" / "evaluation" / "test").collections) == 2


def test_a_label_that_one_collection_states_is_taught_by_it_alone(two, tmp_path):
    films = write_joined(join(two, Findings.of(["Fracture", "Gout"])), tmp_path / "films")
    summary = train(films, short(), tmp_path / "run", progress=False)
    taught = read_card(summary.model / CARD_FILE).taught
    assert {label: sum(counts) for label, counts in taught.items()} == {"Fracture": 24}
