"""The package as it would be published: what the wheel and the source distribution hold, and one version everywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from agcxr import __version__

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and source distribution."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed, which builds the package")
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(["uv", "build", "--quiet", "--out-dir", str(out), str(ROOT)], check=True)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_the_wheel_holds_the_package_and_nothing_else(built):
    names = zipfile.ZipFile(built[0]).namelist()
    assert {name.split("/")[0] for name in names} == {"agcxr", f"agcxr-{__version__}.dist-info"}
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*") if path.is_file()}
    sources = {name for name in sources if not re.search(r"__pycache__|\.pyc$", name)}
    assert {name for name in names if name.startswith("agcxr/") and not name.endswith("/")} == sources
    needed = {"agcxr/py.typed", "agcxr/intake.json", "agcxr/weights/starter.onnx", "agcxr/serve/static/index.html"}
    assert needed <= sources
    assert built[0].stat().st_size < 20e6


def test_the_source_distribution_builds_the_same_package(built, tmp_path):
    with tarfile.open(built[1]) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
        projects = {"pyproject.toml", "pyproject.toml.orig", "PKG-INFO"}
        assert {name.split("/")[0] for name in names} <= {"", "src", "README.md", "LICENSE", *projects}
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    subprocess.run(["uv", "build", "--quiet", "--wheel", "--out-dir", str(tmp_path / "again"), str(folder)], check=True)
    again = next((tmp_path / "again").glob("*.whl"))
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(built[0]).namelist()


def test_twine_finds_nothing_wrong(built):
    done = subprocess.run(
        ["uv", "tool", "run", "--quiet", "twine", "check", "--strict", *map(str, built)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_version_is_the_same_everywhere():
    """pyproject.toml states it, `uv version --bump` changes it; the package reads it from its metadata."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert PYPROJECT["project"]["version"] == __version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_workflows_run_what_is_there():
    said = {path.stem: path.read_text(encoding="utf-8") for path in WORKFLOWS}
    assert set(said) == {"tests", "docs", "release"}
    for name, text in said.items():
        jobs = yaml.safe_load(text)["jobs"]
        assert all("steps" in job for job in jobs.values()), name
        groups = set(re.findall(r"--group (\w+)", text))
        assert groups <= set(PYPROJECT["dependency-groups"]), name
        for path in re.findall(r"(?<![\w/])(?:tests|\.ci)/[\w./]+", text):
            assert (ROOT / path).exists(), f"{name}: {path}"
    matrix = yaml.safe_load(said["tests"])["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    assert PYPROJECT["project"]["requires-python"] == f">={matrix['python'][0]}"
    assert "id-token: write" in said["release"]
    assert "secrets." not in said["release"]  # trusted publishing needs no token


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/*.yml"),
        ("compose-spec", "compose.yaml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_files_for_other_programs_fit_their_schemas(schema, files):
    """The schemas come with check-jsonschema: no network."""
    words = ["--builtin-schema", f"vendor.{schema}", *map(str, sorted(ROOT.glob(files)))]
    done = subprocess.run([sys.executable, "-m", "check_jsonschema", *words], capture_output=True, text=True)
    assert len(words) > 2
    assert done.returncode == 0, done.stdout


def test_every_hook_and_template_is_whole():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert [hook["id"] for hook in hooks] == ["ruff-check", "ruff-format", "lock"]
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form), path.name
        assert {part["type"] for part in form["body"]} <= {"markdown", "textarea", "input"}, path.name
