"""The parts of the benchmarks that must be right for a figure to mean anything. No time is asserted anywhere."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import __main__ as program
from benchmarks import attention_crop, measure, paper_plan, reference, same_answers, second_opinion
from benchmarks.lite_schedule import Cost, StageCost
from benchmarks.measure import Fact, Page, Place, Quartiles, Row, Timed

from agcxr.config import Train
from agcxr.models.agcnn import AGCNN


def row(**changes) -> Row:
    values = {
        "what": "a step",
        "beside": "a loop",
        "images": 10,
        "ours": Timed((1.0, 2.0, 4.0), 100.0),
        "other": Timed((2.0, 8.0, 4.0), 200.0),
        "peer": True,
    }
    return Row(**(values | changes))


# --- the reference does the same work ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_reference_finds_our_boxes_and_crops(seed):
    for feature, view in attention_crop.batches(1, torch.Generator().manual_seed(seed), channels=24):
        assert attention_crop.check_equal(feature, view) > 0


def test_the_reference_takes_the_whole_view_where_nothing_stands_out():
    flat = torch.ones(1, 8, 7, 7)
    dot = torch.zeros(1, 8, 7, 7)
    dot[0, 0, 3, 3] = 1.0
    assert reference.boxes_of(flat, 224).tolist() == [[0, 0, 224, 224]]
    assert reference.boxes_of(dot, 224, min_side=100).tolist() == [[0, 0, 224, 224]]
    assert reference.boxes_of(dot, 224).tolist() == attention_crop.attend(dot, 224).box_B4.tolist()


def test_check_equal_notices_a_difference(monkeypatch):
    feature, view = attention_crop.batches(1, torch.Generator().manual_seed(0), channels=24)[0]
    monkeypatch.setattr(reference, "boxes_of", lambda feature, size: torch.tensor([[0.0, 0.0, 100.0, 90.0]] * 32))
    with pytest.raises(AssertionError, match="boxes differ"):
        attention_crop.check_equal(feature, view)


def test_the_reference_trains_only_the_part_of_its_stage(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        cv2.imwrite(str(path), rng.integers(0, 256, (80, 80), dtype=np.uint8))
    config = Train(backbone="test_resnet", weights="none", image_size=48, resize=64)
    label_NK = (rng.random((4, 15)) < 0.5).astype(np.float32)
    films = [reference.PillowFilms(paths, label_NK, config, training=training) for training in (True, False)]
    torch.manual_seed(0)
    model = AGCNN("test_resnet", image_size=48, resize=64, weights="none")
    plain = reference.Reference(model, config, *films, torch.device("cpu"), workers=0)
    for stage in ("global", "local", "fusion"):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        (epoch,) = plain.stage(stage, 1)
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed
        assert all(name.startswith(stage) for name in changed), stage
        assert math.isfinite(epoch.loss)


def test_the_reference_sees_the_central_view_in_evaluation(tmp_path):
    film = np.zeros((64, 64), np.uint8)
    film[8:56, 8:56] = 255
    cv2.imwrite(str(tmp_path / "film.png"), film)
    config = Train(backbone="test_resnet", weights="none", image_size=48, resize=64)
    films = reference.PillowFilms([tmp_path / "film.png"], np.zeros((1, 15), np.float32), config, training=False)
    view, label = films[0]
    assert view.shape == (1, 48, 48)
    assert view.dtype == torch.float32
    assert bool((view == 1).all())
    assert label.shape == (15,)


# --- paired ratios ----------------------------------------------------------------------------------------------------


def test_ratios_are_of_pairs_not_of_medians():
    one = row()
    assert one.ratios == (2.0, 4.0, 1.0)
    assert one.ratio == Quartiles(1.5, 2.0, 3.0)
    assert one.rate == 5.0
    assert one.other_rate == 2.5


def test_ratios_count_the_images_of_each_side():
    one = row(images=10, other_images=5)
    assert one.ratios == (4.0, 8.0, 2.0)
    assert one.other_rate == 1.25


def test_sides_of_unequal_rounds_are_no_pairs():
    with pytest.raises(ValueError, match="shorter"):
        _ = row(other=Timed((1.0,), 1.0)).ratios


def test_quartiles_need_values():
    with pytest.raises(ValueError, match="no values were measured; expected at least one"):
        Quartiles.of([])


def test_sides_take_turns_and_the_warm_up_does_not_count(monkeypatch):
    monkeypatch.setattr(measure.gc, "collect", lambda: 0)  # slow where much is imported
    ran: list[str] = []
    found = measure.alternate({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, 3)
    assert "".join(ran) == "abbaabba"
    assert [len(side.seconds) for side in found.values()] == [3, 3]
    with pytest.raises(ValueError, match="rounds is 0; expected at least 1"):
        measure.alternate({"a": ran.clear}, 0)


@pytest.mark.parametrize(
    ("value", "said"), [(0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (12345.0, "12,345"), (0.0, "0.000")]
)
def test_three_digits(value, said):
    assert measure.short(value) == said


def test_targets_are_judged_by_the_median_pair():
    assert "2.00 x: reached" in row(target=2.0).cells()
    assert "2.10 x: short of it" in row(target=2.1).cells()
    assert "95.0 %: reached" in row(target=0.95, peer=False).cells()
    assert "200.0 % (150.0 % to 300.0 %)" in row(peer=False).cells()


def test_a_schedule_is_epochs_times_their_cost():
    cost = Cost((StageCost(2.0), StageCost(3.0, 10.0), StageCost(1.0, 0.0, 0.5)), prepare_s=7.0)
    # on three times the films all grows but what an epoch writes
    assert cost.seconds(3, (10, 8, 5)) == 3 * (7 + 20 + 24 + 10 + 5) + 5 * 0.5


def test_the_plan_for_the_paper_counts_every_pass_once():
    rate = paper_plan.Rates(
        first=10.0, second=5.0, third=20.0, second_once=8.0, third_cached=1000.0, forward=40.0, both=20.0
    )
    plain = paper_plan.as_published(rate, (2, 3, 4), train=1000, val=200)
    assert plain.stages == (2 * (100 + 5), 3 * (200 + 5) + 5, 4 * 50 + 10)
    assert plain.hours == pytest.approx((210 + 620 + 210) / 3600)
    fewer = paper_plan.with_options(rate, (2, 3, 4), train=1000, val=200)
    assert fewer.stages == (210, 3 * (125 + 5) + 30, 4 * 1 + (4 * 1000 + 200) / 20)
    assert str(plain) == "17.3 min (I 210 s + II 10.3 min + III 210 s)".replace("210 s", "3.50 min")


@pytest.mark.parametrize(
    ("seconds", "said"), [(42, "42.0 s"), (600, "10.0 min"), (36_000, "10.0 h"), (864_000, "10.0 days")]
)
def test_times_in_words(seconds, said):
    assert paper_plan.in_words(seconds) == said


# --- pages ------------------------------------------------------------------------------------------------------------


def test_findings_travel_as_json():
    for found in (row(target=0.9, note="so"), Fact("memory", "flat", "within 10 %")):
        assert measure.from_json(json.loads(json.dumps(measure.to_json(found)))) == found


def test_a_page_says_where_and_how_much():
    page = Page("steps", "About steps.", "The disk.")
    for found in (row(), row(peer=False, beside="a copy", target=0.5), Fact("memory", "flat")):
        page.add(found)
    text = page.markdown(Place("a machine, 2 cores", "0.1", "Python 3.11", "abc", "2026-01-01"))
    told = (
        "# Steps",
        "a machine, 2 cores; load 0.1",
        "commit abc",
        "2.00 x (1.50 x to 3.00 x)",
        "limit: a copy",
        "flat",
    )
    for expected in (*told, "## What limits it\n\nThe disk."):
        assert expected in text
    assert text.count("\n| ---") == 2  # one table of rows, one of figures
    assert "did not finish" not in text


def test_a_theme_that_fails_leaves_a_page_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    def stub(name, options):
        if name == "growth":
            return Page("growth", "About.", facts=[Fact("one", "1")], problem="RuntimeError: full disk")
        return Page("prepare", "About.", facts=[Fact("two", "2")])

    monkeypatch.setattr(program, "_theme", stub)
    assert program.main(["--only", "growth", "prepare_films", "--out", str(tmp_path)]) == 1
    growth, prepare = sorted(tmp_path.glob("*.md"))
    assert "RuntimeError: full disk" in growth.read_text()
    assert "two" in prepare.read_text()
    assert "failed: growth" in capsys.readouterr().out


def test_every_theme_is_a_program_that_says_what_limits_it():
    for name in program.THEMES:
        module = importlib.import_module(f"benchmarks.{name}")
        assert module.THEME
        assert module.LIMITS.strip()
        assert callable(module.run)


def test_a_second_opinion_is_the_mean_of_the_logits():
    # logits 0 and ln 4: their mean ln 2 is 2 / 3
    found = second_opinion._mean(np.array([0.5, 0.25]), np.array([0.8, 0.25]))
    np.testing.assert_allclose(found, [2 / 3, 0.25])


@pytest.mark.parametrize(
    ("answer", "table", "difference"),
    [
        ({"auroc": 0.1 + 0.2, "seconds": 2, "made": "2026-01-01T10:00:00+00:00"}, "a,b\n", None),
        ({"auroc": 0.3, "seconds": 1}, "a,b\n", "auroc: '0.30000000000000004', then '0.3'"),
        ({"auroc": 0.1 + 0.2, "p": None}, "a,b\n", "keys"),
        ({"auroc": 0.1 + 0.2}, "b,a\n", "'a,b', then 'b,a'"),
        ({"auroc": 0.1 + 0.2}, None, "only in"),
    ],
)
def test_the_comparison_of_answers_sees_the_last_digit(answer, table, difference, tmp_path, capsys):
    before, after = tmp_path / "before", tmp_path / "after"
    first = {"auroc": 0.1 + 0.2, **({"seconds": 1, "made": "today"} if "made" in answer else {})}
    first |= {"seconds": 1} if "seconds" in answer else {}
    for root, content, text in ((before, first, "a,b\n"), (after, answer, table)):
        (root / "data").mkdir(parents=True)
        (root / "answers" / "score").mkdir(parents=True)
        (root / "answers" / "score" / "x.json").write_text(json.dumps(content))
        if text is not None:
            (root / "answers" / "score" / "x.csv").write_text(text)
    assert same_answers.compare(before, after) == (difference is not None)
    said = capsys.readouterr().out
    assert ("equal" in said) if difference is None else (difference in said)


@pytest.mark.slow
@pytest.mark.parametrize("name", program.THEMES)
def test_every_theme_runs_at_its_smallest_size(name, tmp_path):
    """In a process of its own, as it always does; the figures mean nothing."""
    assert program.main(["--only", name, "--quick", "--backbone", "test_resnet", "--out", str(tmp_path)]) == 0
    (page,) = tmp_path.glob("*.md")
    text = page.read_text()
    assert "## Measured" in text
    assert "## What limits it" in text
    assert "did not finish" not in text
