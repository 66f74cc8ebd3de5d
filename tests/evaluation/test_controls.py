"""The arms of an ablation: which there are, which share a run, and what that costs."""

from __future__ import annotations

import pytest

from agcxr.config import Fusion, Local, Stage, demo, from_dict, lite, strong
from agcxr.experiments.controls import GROUPS, REFERENCE, USUAL, arms, runs, stage_epochs


def test_every_arm_changes_one_option():
    base = lite()
    found = arms(base)
    assert {arm.group for arm in found} == set(USUAL) == set(GROUPS) - {"budget"}
    for arm in found:
        assert len(arm.changes(base)) == (0 if arm.reference else 1), arm
    names = [(arm.group, arm.name) for arm in found if arm.reference]
    assert names == [
        ("controls", "attention"),
        ("tau", "0.7"),
        ("heatmap", "max"),
        ("normalise", "minmax"),
        ("where", "input"),
        ("crop-source", "view"),
        ("attention-per", "view"),
        ("start", "weights"),
        ("strategies", "G_L_F"),
        ("views", "plain"),
    ]
    assert [arm.name for arm in arms(base, ["controls"])] == ["attention", "random", "centre", "whole"]
    assert len(runs(found, base)) == 1 + 3 + 8 + 4 + 1 + 1 + 1 + 1 + 1 + 4


def test_arms_with_equal_settings_share_a_run():
    base = demo()  # crops from the prepared film
    by_name = {(arm.group, arm.name): arm for arm in arms(base)}
    assert base.local.crop_source == "prepared"
    assert by_name["crop-source", "prepared"].folder == REFERENCE
    assert by_name["crop-source", "view"].folder == "crop-source-view"
    odd = base.model_copy(update={"local": base.local.model_copy(update={"threshold": 0.55})})
    assert [arm.name for arm in arms(odd, ["tau"])][4:7] == ["0.5", "0.55", "0.6"]
    assert [arm.folder for arm in arms(odd, ["tau"])][5] == REFERENCE


@pytest.mark.parametrize("recipe", [lite, demo, strong])
def test_every_arm_of_every_recipe_can_be_written_and_read(recipe):
    """What arms change is checked as settings are: boxes found once exclude views that are turned."""
    base = recipe()
    for arm in arms(base):
        assert from_dict(arm.settings.model_dump(by_alias=True)) == arm.settings
    once = next(arm for arm in arms(strong()) if (arm.group, arm.name) == ("attention-per", "image"))
    assert once.changes(strong()) == ("augment.rotation: 5.0 -> 0.0", "local.attention_per: view -> image")


def test_paper_rows_stand_beside_their_arms():
    by_name = {(arm.group, arm.name): arm.paper for arm in arms(lite())}
    assert (by_name["tau", "0.9"].local, by_name["tau", "0.9"].fusion) == (0.751, 0.863)
    assert by_name["tau", "0.7"].fusion == by_name["strategies", "G_L_F"].fusion == 0.868
    assert by_name["controls", "whole"].fusion == 0.851
    assert by_name["controls", "random"] is None
    assert by_name["strategies", "G_L_F-finetune"].fusion == 0.854


def test_what_is_shared_is_paid_once():
    base = lite().model_copy(
        update={"global_": Stage(epochs=10), "local": Local(epochs=8), "fusion": Fusion(epochs=5, cached_views=2)}
    )
    assert stage_epochs(runs(arms(base, ["controls"]), base).values()) == {"global": 10, "local": 32, "fusion": 20}
    joint = stage_epochs(runs(arms(base, ["strategies"]), base).values())
    assert joint == {
        "global": 10,
        "local": 8,
        "fusion": 10,
        "global+local+fusion": 10,
        "global+local": 10,
        "local+fusion": 8,
        "fusion+global+local": 5,
    }


def test_features_are_not_cached_where_branches_learn():
    local = Local(attention_per="image", start="global")
    base = lite().model_copy(update={"fusion": Fusion(cached_views=3), "local": local})
    by_name = {arm.name: arm.settings for arm in arms(base, ["strategies"])}
    assert {name: (s.fusion.cached_views, s.local.attention_per, s.local.start) for name, s in by_name.items()} == {
        "G_L_F": (3, "image", "global"),
        "GLF": (0, "view", "weights"),
        "GL_F": (3, "view", "weights"),
        "G_LF": (0, "image", "global"),
        "G_L_F-finetune": (0, "view", "global"),
    }
    for settings in by_name.values():
        type(settings).model_validate(settings.model_dump(by_alias=True))


def test_wrong_bases_and_groups():
    with pytest.raises(ValueError, match="unknown ablation 'taus'; there are controls, tau"):
        arms(lite(), ["taus"])  # type: ignore[list-item]
    with pytest.raises(
        ValueError, match="local.look is 'whole', but the reference of an ablation is the method itself"
    ):
        arms(lite().model_copy(update={"local": Local(look="whole")}))


def test_the_command_offers_every_group():
    from typing import get_args

    from agcxr.train_commands import Arms

    assert get_args(Arms) == GROUPS
