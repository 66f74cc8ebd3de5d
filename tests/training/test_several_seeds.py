"""Several seeds: how they are named, and the table of their spread."""

import math

import pytest
import torch
from tiny import tiny_config

from agcxr.config import Fusion, Local, Stage
from agcxr.table import to_text
from agcxr.training import seeds
from agcxr.training.run_folder import StageSummary
from agcxr.training.seeds import Seeds, Spread, parse_seeds, read_seeds, train_seeds
from agcxr.training.stages import RunSummary

torch.set_num_threads(1)


@pytest.mark.parametrize(("text", "expected"), [("3", (0, 1, 2)), ("4, 7", (4, 7)), ("7,", (7,)), ("1", (0,))])
def test_seeds_are_a_number_or_a_list(text, expected):
    assert parse_seeds(text) == expected


@pytest.mark.parametrize("text", ["", "0", "a", "1,1", "-2", "1.5"])
def test_other_seeds_are_refused(text):
    with pytest.raises(ValueError, match="seeds are .*; expected"):
        parse_seeds(text)


def test_spread_by_hand():
    found = Spread.of("fusion", [0.7, 0.8, 0.9])
    assert (found.mean, found.sd, found.low, found.high) == (pytest.approx(0.8), pytest.approx(0.1), 0.7, 0.9)
    assert math.isnan(Spread.of("fusion", [0.7]).sd)
    assert math.isnan(Spread.of("fusion", [0.7, float("nan")]).mean)
    apart = found.minus(Spread.of("global", [0.72, 0.81, 0.84]))
    assert (apart.name, apart.values) == ("fusion − global", pytest.approx((-0.02, -0.01, 0.06)))
    assert (apart.mean, apart.sd) == (pytest.approx(0.01), pytest.approx(0.0436, abs=1e-4))
    signed = to_text(Seeds(measure="AUROC", seeds=(0, 1, 2), runs=("a", "b", "c"), spreads=(apart,)).table())
    assert signed.splitlines()[3].split()[-7:] == ["+.0100", ".0436", "−.0200", "+.0600", "−.0200", "−.0100", "+.0600"]
    table = to_text(Seeds(measure="AUROC", seeds=(0, 1, 2), runs=("a", "b", "c"), spreads=(found,)).table())
    assert table.splitlines()[-1] == "AUROC, 3 seeds."
    assert table.splitlines()[2].split() == ["Fusion", ".8000", ".1000", ".7000", ".9000", ".7000", ".8000", ".9000"]


def test_a_process_that_was_started_for_a_device_neither_checks_nor_writes(tmp_path, monkeypatch, capsys):
    """It finds the folder begun by the first one."""
    stage = StageSummary("global", 1, 0.5, {}, (), 1, 1.0)
    called = []

    def trained(data, settings, folder, **options):
        called.append((settings.seed, folder.name))
        return RunSummary(folder, folder / "model", (stage,))

    monkeypatch.setattr(seeds, "train", trained)
    (tmp_path / "seed0").mkdir()
    with pytest.raises(ValueError, match="is not empty; go on with its runs by --resume"):
        train_seeds("films", tiny_config(), tmp_path, (0, 1))
    monkeypatch.setattr(seeds.rank_zero_only, "rank", 1)
    train_seeds("films", tiny_config(), tmp_path, (0, 1))
    assert called == [(0, "seed0"), (1, "seed1")]
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "seeds.json").exists()


def test_runs_of_several_seeds_and_one_more(prepared, tmp_path, capsys):
    common = {"epochs": 1, "batch_size": 8}
    config = tiny_config(global_=Stage(**common), local=Local(**common, min_side=4), fusion=Fusion(**common))
    called = []
    train_seeds(prepared, config, tmp_path, (0, 2), after=called.append)
    assert called == [tmp_path / "seed0", tmp_path / "seed2"]
    with pytest.raises(ValueError, match="is not empty; go on with its runs by --resume"):
        train_seeds(prepared, config, tmp_path, (0, 2))
    found = train_seeds(prepared, config, tmp_path, (0, 2, 3), resume=True)
    assert found == read_seeds(tmp_path)
    assert (found.seeds, found.runs) == ((0, 2, 3), ("seed0", "seed2", "seed3"))
    assert [one.name for one in found.spreads] == ["global", "local", "fusion", "fusion − global"]
    first, _, last, apart = found.spreads
    assert apart.values == pytest.approx([b - a for a, b in zip(first.values, last.values, strict=True)])
    assert len(set(found.spreads[0].values)) == 3
    assert to_text(found.table()) in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"there is no seeds.json in .*; make it with `agcxr train --seeds"):
        read_seeds(tmp_path / "seed0")
