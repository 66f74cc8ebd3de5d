"""Which labels training films teach, and that it is written in the card whatever way the run came about."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import short, write_prepared

from agcxr.data.dataset import Films
from agcxr.inference.predictor import Predictor
from agcxr.labels import FINDINGS, LABELS
from agcxr.models.agcnn import AGCNN
from agcxr.models.checkpoint import CARD_FILE, Card, read_card
from agcxr.training.run_folder import RunFolder
from agcxr.training.seeds import train_seeds
from agcxr.training.stages import train
from agcxr.training.tasks import Data, Validation, absent, both_classes

torch.set_num_threads(1)

STATED = ("Mass", "Edema", "Hernia", "Fibrosis", "No Finding")


def films(columns: dict[str, list[float]]) -> Films:
    count = len(next(iter(columns.values())))
    label_NK = np.full((count, len(LABELS)), np.nan, np.float32)
    for label, values in columns.items():
        label_NK[:, LABELS.index(label)] = values
    return Films(np.zeros((count, 8, 8), np.uint8), np.arange(count), label_NK, np.arange(count).astype(str))


def test_a_label_is_taught_by_films_of_both_classes():
    nan = np.nan
    part = films(
        {
            "No Finding": [0, 0, 1, nan],
            "Mass": [1, nan, 0, 1],
            "Edema": [1, 1, nan, 1],  # every known film has it
            "Hernia": [0, 0, 0, nan],  # none has it
            "Nodule": [nan, nan, nan, nan],
        }
    )
    assert list(both_classes(part).items()) == [("Mass", (2, 1)), ("No Finding", (1, 2))]


def test_a_mean_is_over_findings_that_both_parts_know_in_both_classes():
    train_films = films({"Mass": [1, 0], "Edema": [1, 1], "Nodule": [0, 1]})
    val_films = films({"Mass": [1, 0], "Edema": [0, 1], "Nodule": [0, 0]})
    assert set(FINDINGS) - set(absent(Data(train_films, val_films))) == {"Mass"}
    nan = float("nan")
    assert Validation(0.5, (nan, 0.6, 0.8, *[nan] * 11, 0.1)).mean_auc == pytest.approx(0.7)


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """Mass, Fibrosis and No Finding in both classes; Edema is 1 or unknown, Hernia 0 or unknown in training alone."""
    folder = write_prepared(tmp_path_factory.mktemp("partial") / "prepared")
    index = pd.read_parquet(folder / "index.parquet")
    index[[label for label in LABELS if label not in STATED]] = np.nan
    training = index["split"] == "train"
    index.loc[training & (index["Edema"] == 0), "Edema"] = np.nan
    index.loc[:, "Hernia"] = np.where(training, 0.0, np.arange(len(index)) % 2)
    index.to_parquet(folder / "index.parquet")
    return folder


@pytest.fixture(scope="module")
def first(partial, tmp_path_factory):
    return train(partial, short(), tmp_path_factory.mktemp("run") / "first", progress=False)


def card_of(run) -> Card:
    return read_card(run / "model" / CARD_FILE)


def test_what_met_one_class_is_not_taught(first, partial):
    card, index = card_of(first.folder), pd.read_parquet(partial / "index.parquet")
    known = index[index["split"] == "train"]
    assert card.labels == ("Mass", "Fibrosis", "No Finding")
    assert card.taught == {name: (int((known[name] == 1).sum()), int((known[name] == 0).sum())) for name in card.labels}
    assert Predictor.from_pretrained(first.folder, device="cpu").labels == card.labels


def test_validation_leaves_it_out_of_the_mean(first):
    """Edema and Hernia have both classes in validation, and an AUROC that means nothing."""
    for stage in first.stages:
        defined = {name: auc for name, auc in stage.val_auc_per_finding.items() if not np.isnan(auc)}
        assert list(defined) == ["Mass", "Fibrosis"]
        assert stage.val_auc == pytest.approx(np.mean(list(defined.values())))
        assert {"Edema", "Hernia"} < set(stage.absent)
    header, *rows = (first.folder / "fusion" / "metrics.csv").read_text().splitlines()
    place = header.split(",").index("auc_Hernia")
    assert [row.split(",")[place] for row in rows] == [""]


def test_it_is_said_when_training_begins(partial, tmp_path, capsys):
    train(partial, short(), tmp_path / "run")
    others = ", ".join(label for label in LABELS if label not in ("Mass", "Fibrosis", "No Finding"))
    said = capsys.readouterr().out
    assert f"Training lacks a positive or a negative film of {others}: the model will not answer for them.\n" in said
    validation = ", ".join(finding for finding in FINDINGS if finding not in STATED)
    assert f"Validation lacks a positive or a negative film of {validation}: left out of the mean AUROC.\n" in said


def test_nothing_taught_is_no_run(tmp_path):
    folder = write_prepared(tmp_path / "prepared")
    index = pd.read_parquet(folder / "index.parquet")
    index[list(LABELS)] = index[list(LABELS)].where(index[list(LABELS)] == 1)
    index.to_parquet(folder / "index.parquet")
    with pytest.raises(ValueError, match=r"prepared teach nothing: of no label do they hold a film that is known to h"):
        train(folder, short(), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("way", ["reuse", "resume", "weights", "seeds"])
def test_the_card_says_so_however_the_run_came_about(way, partial, first, tmp_path):
    out = tmp_path / "run"
    if way == "reuse":
        train(partial, short(), out, reuse=[first.folder], progress=False)
        assert not (out / "fusion" / "last.ckpt").exists()  # taken over
    elif way == "resume":
        config = short()
        train(partial, config, out, reuse=[first.folder], progress=False)
        (out / "fusion" / "done.json").unlink()
        (out / "model" / CARD_FILE).unlink()
        run_json = json.loads((out / "run.json").read_text())
        (out / "run.json").write_text(json.dumps(run_json | {"status": "interrupted"}))
        train(partial, config, out, resume=True, progress=False)
        assert RunFolder(out).finished()
    elif way == "weights":
        train(partial, short(weights=str(first.folder)), out, progress=False)
    else:
        train_seeds(partial, short(), tmp_path / "seeds", (1, 2), progress=False)
        out = tmp_path / "seeds" / "seed2"
    assert card_of(out).taught == card_of(first.folder).taught


def test_weights_of_a_run_teach_nothing_by_themselves(prepared, first, tmp_path):
    """A run on films that state more answers for what these teach, not for what its first weights came from."""
    run = train(prepared, short(weights=str(first.folder)), tmp_path / "run", progress=False)
    assert card_of(run.folder).labels == tuple(label for label in LABELS if label not in FINDINGS[12:])


@pytest.mark.parametrize(
    ("taught", "message"),
    [
        ({}, "taught names no label; expected some of the model's labels"),
        ({"Mass": (1, 2), "Cough": (1, 2)}, "taught names Mass, Cough; expected some of the model's labels"),
        ({"Mass": (0, 2)}, "greater than 0"),
        ({"Mass": (2,)}, "Field required"),
    ],
)
def test_a_card_that_cannot_be_is_refused(taught, message, tmp_path):
    network = AGCNN("test_resnet", weights="none", image_size=48, resize=56)
    network.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / CARD_FILE
    text = json.loads(path.read_text())
    assert text["taught"] is None
    path.write_text(json.dumps(text | {"taught": taught}))
    with pytest.raises(ValueError, match=f"is not the card of an agcxr model: .*{message}"):
        read_card(path)
