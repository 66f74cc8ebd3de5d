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
    with pytest.raises(ValueError, match=r"--preset \(lite, paper, paper-densenet, demo\)"):
        config.from_yaml(tmp_path / "no.yaml")
    with pytest.raises(ValueError, match=r"cannot be read \(Is a directory\); expected a YAML file"):
        config.from_yaml(tmp_path)
    (tmp_path / "odd.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"odd.yaml cannot be read \(it is not text\)"):
        config.from_yaml(tmp_path / "odd.yaml")
