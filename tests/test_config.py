import pytest
import timm

from agcxr import config


@pytest.mark.parametrize("name", list(config.PRESETS))
def test_yaml_round_trip(name, tmp_path):
    made = config.preset(name)
    config.to_yaml(made, tmp_path / "config.yaml")
    assert config.from_yaml(tmp_path / "config.yaml") == made


def test_published_recipes():
    lite, paper, dense = config.lite(), config.paper(), config.paper_densenet()
    assert [lite.stage(s).epochs for s in ("global", "local", "fusion")] == [10, 8, 5]
    assert [lite.stage(s).batch_size for s in ("global", "local", "fusion")] == [32, 16, 16]
    assert [paper.stage(s).batch_size for s in ("global", "local", "fusion")] == [126, 64, 64]
    assert [dense.stage(s).batch_size for s in ("global", "local", "fusion")] == [64, 32, 32]
    assert (paper.pooling, paper.normalisation, paper.augment.crop) == ("max", "mean", "random-resized")
    assert (paper.global_.schedule, paper.global_.step_epochs, paper.global_.weight_decay) == ("step", 20, 1e-4)
    assert {stage.step_drops for stage in (paper.global_, paper.local, paper.fusion, dense.local)} == {1}
    assert lite.local.attention() == config.Attention()


def test_recipes_start_from_torchvision_s_first_weights():
    """What the publications could load; timm's own for the bare names come from later and longer training."""
    recipes = (config.lite(), config.paper(), config.paper_densenet())
    assert [recipe.backbone for recipe in recipes] == ["resnet50.tv_in1k", "resnet50.tv_in1k", "densenet121.tv_in1k"]
    assert config.Train() == config.lite()
    for recipe in recipes:
        found = timm.get_pretrained_cfg(recipe.backbone)
        assert "download.pytorch.org" in found.url or found.hf_hub_id == f"timm/{recipe.backbone}"
    assert config.from_dict({"backbone": "resnet50"}).backbone == "resnet50"


def test_settings_of_an_older_run_keep_their_schedule(tmp_path):
    """A config.yaml from before step_drops: its rate fell after every step_epochs epochs, and goes on so."""
    path = tmp_path / "config.yaml"
    path.write_text("global: {schedule: step}\n")
    assert config.from_yaml(path).global_.step_drops == 0


def test_partial_yaml_keeps_the_base(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("local:\n  threshold: 0.6\nglobal: {epochs: 2}\n")
    made = config.from_yaml(path, base=config.paper())
    assert (made.local.threshold, made.local.batch_size, made.global_.epochs, made.global_.batch_size) == (
        0.6,
        64,
        2,
        126,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backbon: resnet18", r"unknown setting 'backbon' \(did you mean 'backbone'\?\)"),
        ("local: {treshold: 0.5}", r"unknown setting 'local.treshold' \(did you mean 'threshold'\?\)"),
        ("globl: {}", r"unknown setting 'globl' \(did you mean 'global'\?\)"),
        ("pooling: maxi", r"pooling is 'maxi'; expected 'avg' or 'max' \(did you mean 'max'\?\)"),
        ("local: {threshold: 1.5}", r"local.threshold is 1.5: Input should be less than 1"),
        ("image_size: 300", r"image_size is 300 but a view is cut from a film of resize=256"),
        ("{strategy: GLF, local: {start: global}}", "both branches start together; set it to 'weights'"),
        ("{strategy: G_LF, fusion: {start: global}}", "a branch learns with the fusion; set it to 'random'"),
        ("{strategy: G_LF, fusion: {start: mean}}", "fusion.start is 'mean'.*set it to 'random'"),
        (
            "global: {warm_up_epochs: 1, schedule: onecycle}",
            "global.warm_up_epochs is 1, but the schedule onecycle has its own warm-up; set it to 0",
        ),
        (
            "fusion: {warm_up_epochs: 5.5}",
            "fusion.warm_up_epochs is 5.5, but fusion.epochs only 5; lower it, or raise the epochs",
        ),
        ("augment: {zoom: 0.1, crop: random-resized}", "zoom is 0.1, but .* already differ in size; set it to 0"),
        (
            "{augment: {rotation: 5}, local: {attention_per: image}}",
            "a box found once does not turn with the views, which augment.rotation turns by up to 5 degrees; set it to",
        ),
        ("global: {ema: 1}", "global.ema is 1: Input should be less than 1"),
        ("global: {layer_decay: 0}", "global.layer_decay is 0: Input should be greater than 0"),
        ("- 1", "expected `field: value` lines"),
        ("a: [", "is not YAML"),
        ("", "holds nothing, expected `field: value` lines"),
    ],
)
def test_bad_settings_are_refused_with_the_nearest_valid_one(text, message, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        config.from_yaml(path)


def test_unknown_preset():
    with pytest.raises(ValueError, match="did you mean 'paper'"):
        config.preset("papper")


def test_configurations_that_cannot_be_read_say_what_to_do(tmp_path):
    with pytest.raises(
        ValueError, match=r"no.yaml does not exist; every run folder holds one as config.yaml, or start"
    ):
        config.from_yaml(tmp_path / "no.yaml")
    with pytest.raises(ValueError, match=r"--preset \(lite, paper, paper-densenet, strong, demo\)"):
        config.from_yaml(tmp_path / "no.yaml")
    with pytest.raises(ValueError, match=r"cannot be read \(Is a directory\); expected a YAML file"):
        config.from_yaml(tmp_path)
    (tmp_path / "odd.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"odd.yaml cannot be read \(it is not text\)"):
        config.from_yaml(tmp_path / "odd.yaml")


def test_strong_starts_from_the_pilot_and_mirrors_nothing():
    made = config.strong()
    assert (made.backbone, made.weights, made.image_size, made.resize) == (
        *("tf_efficientnet_lite0", "imagenet"),
        *(336, 384),
    )
    assert (made.augment.crop, made.augment.scale_min, made.augment.flip) == ("random-resized", 0.5, 0.0)
    first = made.global_
    assert (first.optimiser, first.lr, first.weight_decay, first.schedule, first.epochs) == (
        *("adamw", 2e-4, 0.05),
        *("cosine", 6),
    )
    assert (made.local.start, made.fusion.start, made.local.crop_source) == ("global", "global", "prepared")
    assert (made.local.statistic, made.local.threshold) == ("l2", 0.5)
    assert (made.norms, made.heads, made.normal_weight) == ("fixed", "probe", 1)


@pytest.mark.parametrize("name", ["lite", "paper", "paper-densenet", "demo"])
def test_the_other_recipes_use_none_of_what_strong_adds(name):
    made = config.preset(name)
    assert (made.augment.zoom, made.augment.rotation, made.augment.contrast) == (0, 0, 0)
    assert (made.norms, made.heads, made.normal_weight) == ("batch", "random", 1)
    for stage in (made.global_, made.local, made.fusion):
        assert (stage.accumulate, stage.warm_up_epochs, stage.layer_decay, stage.ema, stage.patience) == (1, 0, 1, 0, 0)


def test_settings_of_the_first_weights_that_do_not_go_together():
    with pytest.raises(
        ValueError, match=r"norms are 'fixed', but random weights come with no statistics; set norms to"
    ):
        config.Train(norms="fixed", weights="none")
    with pytest.raises(ValueError, match=r"normal_weight is 0.5, which only the loss 'bce' knows; set it to 1"):
        config.Train(normal_weight=0.5, loss="asymmetric")


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (320, 366), (336, 384), (448, 512)])
def test_sizes_keep_the_published_proportion(size, resize):
    made = config.sized(config.lite(), size)
    assert (made.image_size, made.resize) == (size, resize)
    assert made.model_copy(update={"image_size": 224, "resize": 256}) == config.lite()


def test_an_impossible_size():
    with pytest.raises(ValueError, match="image_size is 16: Input should be greater than or equal to 32"):
        config.sized(config.lite(), 16)
