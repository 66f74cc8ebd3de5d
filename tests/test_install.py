"""The base alone, from the built wheel in an environment of its own: light, and enough to use a model."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import install  # noqa: E402

from agcxr.extras import MODULES, needs_for  # noqa: E402

LIMIT = 150 * install.MB
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The environment, a folder with one synthetic film, and seconds to the first answer."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed, which builds the wheel and makes the environment")
    folder = tmp_path_factory.mktemp("base")
    (folder / "run").mkdir()
    (folder / "prepared").mkdir()
    (folder / "prepared" / "plan.json").touch()  # enough to pass for a prepared folder before anything is imported
    installed = install.install(install.build_wheel(ROOT, folder / "dist"), folder / "env")
    return installed, folder, install.first_answer(installed.python, folder)


def run(base, *words, status=0):
    done = subprocess.run([base[0].python, "-m", "agcxr", *words], cwd=base[1], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done


def test_the_base_is_light_and_predicts_a_film(base, capsys):
    installed, _, seconds = base
    with capsys.disabled():
        print(f"\nthe base: {installed}; a first film in {seconds:.1f} s")
    assert installed.packages < 25
    assert 10 * install.MB < installed.fetched < LIMIT, f"the base fetches {installed.fetched / install.MB:.0f} MB"


def test_the_base_explains_in_pictures_and_answers_as_this_environment_does(base):
    from agcxr.cli import main

    folder = base[1]
    run(base, "explain", "starter", "phantom/images", "--out", "there")
    assert main(["explain", "starter", str(folder / "phantom/images"), "--out", str(folder / "here")]) == 0
    tables = (folder / name / "predictions.csv" for name in ("there", "here"))
    there, here = (next(csv.DictReader(table.read_text(encoding="utf-8").splitlines())) for table in tables)
    assert (folder / there["picture"]).is_file()
    assert (there.keys(), there["intake"], there["error"]) == (here.keys(), here["intake"], "")
    for name in (name for name in here if name.startswith(("prob_", "box_"))):
        assert float(there[name]) == pytest.approx(float(here[name]), abs=1e-3), name


@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], ["train", "--help"], ["download", "nih", "--print-table"]]
)
def test_the_base_has_every_command_line(base, words):
    assert run(base, *words).stderr == ""


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["demo"], "train"),
        (["prepare", "nih", "--images", "phantom", "--labels", "l.csv", "--out", "p"], "train"),
        (["train", "--data", "prepared", "--out", "run"], "train"),
        (["ablate", "--data", "prepared", "--out", "arms"], "train"),
        (["evaluate", "run", "--data", "phantom"], "train"),
        (["calibrate", "run", "--data", "phantom"], "train"),
        (["score", "predictions.csv", "--labels", "l.csv"], "train"),
        (["probe", "--data", "prepared"], "train"),
        (["embed", "starter", "phantom"], "train"),
        (["predict", "run", "phantom"], "train"),
        (["export", "run"], "train"),
        (["import", "chexnet", "w.pth", "--out", "m"], "train"),
        (["serve", "starter"], "serve"),
        (["dicom-node", "starter", "--send-to", "A@host:104"], "dicom"),
        (["predict", "starter", "phantom", "--dicom", "d"], "dicom"),
        (["predict", "starter", "phantom", "--runtime", "openvino"], "openvino"),
        (["predict", "starter", "phantom", "--engine", "ray"], "ray"),
    ],
)
def test_a_command_without_its_extra_says_the_line_that_installs_it(base, words, extra):
    said = run(base, *words, status=2).stderr
    assert f"needs the extra {extra!r}: uv pip install 'agcxr[{extra}]'" in said
    assert len(said.strip().splitlines()) == 1


def test_python_says_it_too(base):
    code = "import agcxr; print(agcxr.LABELS[0]); agcxr.AGCNN"
    done = subprocess.run([base[0].python, "-c", code], capture_output=True, text=True)
    assert done.stdout == "Atelectasis\n"
    assert done.stderr.strip().splitlines()[-1] == (
        "ImportError: agcxr.AGCNN needs the extra 'train': uv pip install 'agcxr[train]'"
    )


def test_every_package_of_an_extra_has_its_modules():
    """So that an absent one is known to be of that extra."""
    installed = packages_distributions()
    listed = {module for modules in MODULES.values() for module in modules}
    for extra, requirements in PROJECT["optional-dependencies"].items():
        for name in {canonicalize_name(Requirement(text).name) for text in requirements} - {"agcxr"}:
            brings = {module for module, packages in installed.items() if name in map(canonicalize_name, packages)}
            assert brings & listed, f"agcxr.extras.MODULES names no module of {name} (extra {extra}), such as {brings}"


def test_a_fault_of_our_own_is_no_missing_extra():
    assert needs_for("agcxr train", ModuleNotFoundError("no module", name="agcxr.nowhere")) is None
    assert needs_for("agcxr train", ImportError("cannot import name")) is None
    assert needs_for("agcxr train", ModuleNotFoundError("no", name="torch.nn")) == (
        "agcxr train needs the extra 'train': uv pip install 'agcxr[train]'"
    )
