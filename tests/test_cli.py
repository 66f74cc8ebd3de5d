import contextlib
import json
import os
import re
import subprocess
import sys
import warnings
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from agcxr.cli import main
from agcxr.commands import COMMANDS
from agcxr.data import phantom


def test_overview_lists_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name}" in shown for name in COMMANDS)
    assert "not a medical device" in shown


def test_version(capsys):
    from agcxr import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: agcxr {name}" in shown
    assert not re.search(r"\{None|default: None|default: \)", shown)
    assert (COMMANDS[name].__doc__ or "").splitlines()[0].split(":")[0][:40] in shown


@pytest.mark.parametrize("words", [["prepare", "--help"], ["prepare", "-h"], ["help", "prepare"]])
def test_a_group_explains_itself(words, capsys):
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("usage: agcxr prepare {nih,table,chexpert,")
    assert "prepare nih       Read the official ChestX-ray14 files" in shown.out
    assert shown.err == ""


def test_help_of_a_command_by_the_word_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["help", "download", "nih"])
    assert stop.value.code == 0
    assert "usage: agcxr download nih" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command 'trian' (did you mean 'train'?)"),
        (["prepare"], "agcxr prepare needs one of: nih"),
        (["prepare", "rnsa"], "agcxr prepare needs one of: nih, table, chexpert, mimic, padchest, openi, rsna"),
        (["prepare", "rnsa"], "(did you mean 'rsna'?)"),
        (["train", "--data", "d", "--out", "o", "--config", "no.yaml"], "the configuration no.yaml does not exist; "),
        (["train", "--data", "d", "--out", "o", "--preset", "papper"], "did you mean 'paper'"),
    ],
)
def test_wrong_words_get_a_cure_and_status_2(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_unknown_flag_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--data", "d", "--out", "o", "--local.treshold", "0.5"])
    assert stop.value.code == 2
    assert "--local.threshold" in capsys.readouterr().err


def test_an_impossible_value_is_told_in_words(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--data", "d", "--out", "o", "--local.threshold", "1.5"])
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert "threshold is 1.5: Input should be less than 1" in shown
    assert "pydantic" not in shown
    assert main(["train", "--data", "d", "--out", "o", "--image-size", "300"]) == 2
    assert capsys.readouterr().err == (
        "agcxr train: image_size is 300 but a view is cut from a film of resize=256; raise resize or lower image_size\n"
    )


@pytest.fixture
def prepared_d(tmp_path, monkeypatch):
    """A folder `d` that passes for a prepared one."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "plan.json").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("prepared_d")
def test_flags_start_from_the_preset_and_the_yaml(monkeypatch, tmp_path):
    import agcxr.experiments.calibrate as calibrate
    import agcxr.training.stages as stages

    seen = {}
    monkeypatch.setattr(stages, "train", lambda data, settings, out, **kw: seen.update(settings=settings))
    monkeypatch.setattr(calibrate, "calibrate_once", lambda run, data: seen.update(calibrated=run))
    path = tmp_path / "mine.yaml"
    path.write_text("global: {epochs: 3}\nlocal: {threshold: 0.5}\n")
    flags = ["--preset", "paper", "--config", str(path), "--local.threshold", "0.6"]
    assert main(["train", "--data", "d", "--out", "o", *flags]) == 0
    made = seen["settings"]
    assert (made.global_.epochs, made.local.threshold, made.local.batch_size, made.pooling) == (3, 0.6, 64, "max")
    assert str(seen["calibrated"]) == "o"


@pytest.mark.usefixtures("prepared_d")
@pytest.mark.parametrize(
    ("flags", "sides"),
    [
        (["--size", "320"], (320, 366)),
        (["--preset", "strong", "--size=448"], (448, 512)),
        (["--size", "320", "--resize", "400"], (320, 400)),
        (["--preset", "strong", "--image-size", "320"], (320, 384)),
    ],
)
def test_a_size_is_that_of_views_and_film(monkeypatch, flags, sides):
    import agcxr.experiments.calibrate as calibrate
    import agcxr.training.stages as stages

    seen = {}
    monkeypatch.setattr(stages, "train", lambda data, settings, out, **kw: seen.update(settings=settings))
    monkeypatch.setattr(calibrate, "calibrate_once", lambda run, data: None)
    assert main(["train", "--data", "d", "--out", "o", *flags]) == 0
    assert (seen["settings"].image_size, seen["settings"].resize) == sides


@pytest.mark.usefixtures("prepared_d")
@pytest.mark.parametrize(
    ("size", "message"), [("16", "image_size is 16: Input should be greater"), ("large", "--size")]
)
def test_an_impossible_size_is_told(capsys, size, message):
    with contextlib.suppress(SystemExit):
        assert main(["train", "--data", "d", "--out", "o", "--size", size]) == 2
    assert message in "".join(capsys.readouterr())


def test_resume_alone_goes_on_with_the_runs_own_settings_and_films(monkeypatch, tmp_path, capsys):
    import agcxr.experiments.calibrate as calibrate
    import agcxr.training.stages as stages
    from agcxr import config

    seen = {}
    monkeypatch.setattr(stages, "train", lambda data, settings, out, **kw: seen.update(settings=settings, data=data))
    monkeypatch.setattr(calibrate, "calibrate_once", lambda run, data: None)
    run = tmp_path / "run"
    assert main(["train", "--out", str(run)]) == 2
    assert "which films? Give a prepared folder with --data" in capsys.readouterr().err
    assert main(["train", "--out", str(run), "--resume"]) == 2
    assert "holds no run to go on with; begin one with --data" in capsys.readouterr().err
    begun = config.demo().model_copy(update={"seed": 7})
    run.mkdir()
    config.to_yaml(begun, run / "config.yaml")
    assert main(["train", "--out", str(run), "--resume"]) == 2
    assert "does not say on which films it was begun" in capsys.readouterr().err
    films = tmp_path / "films"
    (run / "run.json").write_text(json.dumps({"data": str(films)}))
    assert main(["train", "--out", str(run), "--resume"]) == 2
    assert capsys.readouterr().err == (
        f"agcxr train: the films were in {films} when {run} was begun, and are not there now; if they were moved, give "
        f"their new place with --data: agcxr train --data PREPARED --out {run} --resume\n"
    )
    films.mkdir()
    (films / "plan.json").touch()
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert (seen["settings"], seen["data"]) == (begun, films)
    assert main(["train", "--out", str(run), "--resume", "--preset", "paper", "--data", "d"]) == 0
    assert (seen["settings"], str(seen["data"])) == (config.paper(), "d")


def test_the_end_of_training_says_what_is_not_calibrated():
    from agcxr.calibration import Calibration, Curve, FindingCalibration
    from agcxr.train_commands import not_calibrated

    def said(**positives):
        findings = {
            name: FindingCalibration(curve=Curve(kind="none"), prevalence=0.5, positives=count, films=30)
            for name, count in positives.items()
        }
        return not_calibrated(Calibration(method="none", log_loss={}, findings=findings))

    why = "validation has fewer than 10 films with or without the finding"
    assert said(Mass=10, Edema=20) == ""
    assert said(Mass=9, Edema=20, Hernia=21).startswith(
        f"1 of 3 findings calibrated: {why} of Mass, Hernia; there scores"
    )
    assert said(Mass=9, Hernia=21).startswith(f"0 of 2 findings calibrated: {why}; there scores stay as they are")


def test_resume_of_several_seeds_knows_settings_and_films(monkeypatch, tmp_path, capsys):
    import agcxr.training.seeds as training_seeds
    from agcxr import config

    seen = {}

    def train_seeds(data, settings, out, seeds, **kw):
        seen.update(data=data, settings=settings, out=out, seeds=seeds, resume=kw["resume"])

    monkeypatch.setattr(training_seeds, "train_seeds", train_seeds)
    for seed in (2, 10):  # as numbers: 2 is the first
        (tmp_path / f"seed{seed}").mkdir()
        config.to_yaml(config.demo().model_copy(update={"seed": seed}), tmp_path / f"seed{seed}" / "config.yaml")
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "plan.json").touch()
    (tmp_path / "seed2" / "run.json").write_text(json.dumps({"data": str(tmp_path / "films")}))
    words = ["train", "--out", str(tmp_path), "--resume"]
    assert main([*words, "--seeds", "2,10"]) == 0
    assert (seen["data"], seen["out"], seen["seeds"], seen["resume"]) == (tmp_path / "films", tmp_path, (2, 10), True)
    assert seen["settings"] == config.demo().model_copy(update={"seed": 2})
    assert main(words) == 2
    assert f"holds runs of several seeds; name them with --seeds, or give --out {tmp_path}/seed2" in (
        capsys.readouterr().err
    )


def test_missing_folder_is_an_error_in_words(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "none")]) == 2
    assert f"agcxr evaluate: {tmp_path / 'none'}" in capsys.readouterr().err


def test_help_answers_without_heavy_imports():
    code = (
        "import sys; from agcxr.cli import main; main(['--help']); sys.exit(bool({'torch', 'pandas'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def leave_at_once(words, env=None):
    """The program's output goes to a reader who has left already, as after `| head -0`."""
    code = "import sys; from agcxr.cli import main; sys.exit(main(sys.argv[1:]))"
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-c", code, *words]
        return subprocess.run(
            command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=os.environ | (env or {})
        )
    finally:
        os.close(write)


@pytest.mark.parametrize(
    ("words", "env"),
    [(["--help"], {}), (["train", "--help"], {}), (["prepare", "--help"], {"PYTHONUNBUFFERED": "1"})],
)
def test_a_reader_who_leaves_is_no_error(words, env):
    done = leave_at_once(words, env)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_connection_that_breaks_is_told(monkeypatch, capsys):
    def send(out: str = "") -> int:
        raise BrokenPipeError(32, "Broken pipe", "archive:104")

    monkeypatch.setitem(COMMANDS, "phantom", send)
    assert main(["phantom"]) == 2
    assert capsys.readouterr().err == "agcxr phantom: archive:104: Broken pipe\n"


def test_output_may_be_closed():
    code = "import sys; from agcxr.cli import main; sys.stdout = None; sys.exit(main(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.filterwarnings("default")
def test_warnings_are_words_and_those_of_pydicom_are_nobodys(monkeypatch, capsys):
    from agcxr.data.splits import PatientLeakWarning

    def warn(out: str = "") -> int:
        warnings.warn("patients leak", PatientLeakWarning, stacklevel=2)
        warnings.warn_explicit(
            "Invalid value for VR PN: 'A patient'", UserWarning, "valuerep.py", 1, "pydicom.valuerep"
        )
        return 0

    monkeypatch.setitem(COMMANDS, "phantom", warn)
    assert main(["phantom"]) == 0
    assert capsys.readouterr().err == "agcxr phantom: warning: patients leak\n"


@pytest.mark.parametrize("given", [(), ("--rectify", "relu"), ("--rectify", "minmax")])
def test_evaluate_says_how_signed_maps_are_rectified(monkeypatch, given):
    seen = {}
    done = SimpleNamespace(report=SimpleNamespace(html="report.html"))
    monkeypatch.setattr("agcxr.evaluation.study.study", lambda *_, **options: seen.update(options) or done)
    assert main(["evaluate", "run", "--data", "prepared", *given]) == 0
    assert seen["rectify"] == (given or ("", "minmax"))[1]
    assert seen["maps"]
    assert main(["evaluate", "run", "--data", "prepared", "--no-maps"]) == 0
    assert not seen["maps"]


def test_another_way_to_rectify_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "run", "--data", "prepared", "--rectify", "abs"])
    assert "minmax" in capsys.readouterr().err


def refuse(*words):
    """What the program says, and whether it had imported torch by then."""
    code = (
        "import sys; from agcxr.cli import main; status = main(sys.argv[1:]); "
        "print('torch' in sys.modules); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "False\n"), done.stderr
    return done.stderr


def test_what_is_not_there_is_refused_before_torch_is_imported(tmp_path):
    run, films = tmp_path / "run", tmp_path / "films"
    run.mkdir()
    (run / "config.yaml").touch()
    (run / "plan.json").touch()
    (run / "run.json").write_text(json.dumps({"data": "prepared"}))
    films.mkdir()
    (films / "plan.json").touch()
    out = ["--out", str(tmp_path / "out")]
    assert f"{tmp_path / 'none'} is not a prepared folder (no plan.json); make one with `agcxr prepare nih" in refuse(
        "train", "--data", str(tmp_path / "none"), *out
    )
    assert (
        f"{run} is a run folder: it holds a trained model, and no films. Give the prepared folder that it was trained "
        "on (prepared), or make one with" in refuse("train", "--data", str(run), *out)
    )
    film = tmp_path / "film.png"
    film.touch()
    for model in ("nowhere", str(films)):
        words = f"no folder {model}; expected a run folder" if model == "nowhere" else f"{films} is a prepared folder"
        assert words in refuse("predict", model, str(film), *out)
    assert "unknown backbone 'resnet51' (did you mean 'resnet" in refuse(
        "train", "--data", str(films), "--backbone", "resnet51", *out
    )
    for folder in (".", "/"):
        assert f"{folder} is not a prepared folder (no plan.json)" in refuse("train", "--data", folder, *out)
    assert "unknown backbone 'resnet51'" in refuse("probe", "--data", str(films), "--backbone", "resnet51")


def test_threads_of_a_training_are_set_before_torch_is_imported():
    """In a process of its own, which has no torch yet."""
    code = (
        "import sys; from agcxr.train_commands import limit_threads; limit_threads(1);"
        "assert 'torch' not in sys.modules; import torch; print(torch.get_num_threads())"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_no_threads_are_refused(capsys, tmp_path):
    assert main(["train", "--out", str(tmp_path / "run"), "--data", str(tmp_path), "--threads", "0"]) == 2
    assert "--threads is 0; expected at least 1" in capsys.readouterr().err


FILES = {
    "predict starter film.png --out here.csv": "here.csv",
    "explain starter film.png --out here": "here/predictions.csv",
    "embed starter film.png --out here.parquet": "here.parquet",
    "export run --out here.onnx": "here.onnx",
    "score film.png --labels film.png --out new.json here.md": "here.md",
    "probe --data prepared --out here": "here/probe.json",
}
FOLDERS = (
    "predict starter film.png --explain here",
    "predict starter film.png --dicom here",
    "predict starter film.png --fhir here",
    "explain starter film.png --out here",
    "evaluate run --data prepared --out here",
    "import chexnet film.png --out here",
    "import xrv nih --out here",
)


@pytest.mark.parametrize("words", [*FILES, *FOLDERS])
def test_results_that_are_there_are_replaced_only_where_that_is_said(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("film.png", "prepared/plan.json", there := FILES.get(words, "here/other.txt")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("as it was")
    before = sorted(tmp_path.rglob("*"))
    taken = f"{there} is there already; give another name" if words in FILES else "here holds files already; give a new"
    assert taken in refuse(*words.split())
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / there).read_text() == "as it was"
    status = main([*words.split(), "--overwrite"])  # what is missing is told then
    assert status in (1, 2)


def test_a_table_is_replaced_where_that_is_said_and_pictures_with_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("film.png", phantom.film(np.random.default_rng(0), ["Effusion"], size=256).pixels_HW)
    words = ["explain", "starter", "film.png", "--out", "here"]
    assert main(words) == 0
    table, picture = (tmp_path / "here" / name for name in ("predictions.csv", "film.png"))
    rows = table.read_bytes()
    table.write_text("as it was")
    picture.write_text("as it was")
    assert main(words) == 2
    assert "predictions.csv is there already" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert table.read_bytes() == rows
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_more_devices_than_cores_are_refused_where_no_gpu_can_be(monkeypatch):
    from agcxr import preflight

    monkeypatch.setattr(preflight.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(preflight, "may_have_gpus", lambda: False)
    preflight.check_devices(2)
    with pytest.raises(ValueError, match="3 devices were asked for, but this machine has 2 cores and no GPU; give --d"):
        preflight.check_devices(3)
    monkeypatch.setattr(preflight, "may_have_gpus", lambda: True)
    preflight.check_devices(3)


@pytest.mark.parametrize("name", ["resnet50", "resnet50.tv_in1k", "hf-hub:timm/resnet50", "tf_efficientnet_lite0"])
def test_networks_of_timm_are_known_without_importing_it(name):
    from agcxr.preflight import check_backbone

    check_backbone(name)
