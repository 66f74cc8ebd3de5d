"""How the house is built: the direction of imports, sizes, a light command line, clean files, an honest README."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from agcxr import labels

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "agcxr"
README = ROOT / "README.md"

# Packages in the order in which they may import: each only from itself and those before it, at the top of a file,
# inside functions and under TYPE_CHECKING alike; and within a package no file imports itself by way of others. Files
# beside the packages stand where ROOT_FILES says. `agcxr/__init__.py` is the door for users: it may name what it opens,
# and no file of the package imports from it except __version__.
PACKAGES = [
    "ground",
    "data",
    "models",
    "numbers",
    "training",
    "inference",
    "evaluation",
    "experiments",
    "dicom",
    "serve",
    "commands",
]
ROOT_FILES = {
    "ground": "labels extras notices preflight starter progress values config_file config findings geometry attended "
    "machine calibration tokens",
    "numbers": "metrics delong uncertainty ridge proportions table",
    "inference": "intake",
    "commands": "demo flags import_commands prepare_commands feature_commands train_commands dicom_commands commands "
    "cli __main__",
}
ROOMS = {name: package for package, names in ROOT_FILES.items() for name in names.split()}

LONG_FILE = 600
LONGEST_FUNCTION = 60
HEAVY = ("torch", "torchvision", "timm", "lightning", "pandas", "pyarrow", "cv2", "scipy", "sklearn", "matplotlib")
LIGHT = ("agcxr", "agcxr.labels", "agcxr.config", "agcxr.cli", "agcxr.commands")

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {str(path.relative_to(PACKAGE).with_suffix("")): path for path in FILES if path.name != "__init__.py"}
DOORS = [path for path in FILES if path.name == "__init__.py"]


@dataclass(frozen=True)
class Import:
    line: int
    target: str
    """As in MODULES; "" for the package's door."""
    dotted: str


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def target_of(dotted: str) -> str:
    """`agcxr.data.nih` -> `data/nih`; names inside a module are cut off."""
    name = dotted.removeprefix("agcxr").lstrip(".").replace(".", "/")
    while name and name not in MODULES and not (PACKAGE / name).is_dir():
        name = name.rpartition("/")[0]
    return name


def imports_of(path: Path) -> list[Import]:
    """Every import of the package itself, wherever it stands in the file."""
    found = []
    package = ["agcxr", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names if alias.name.split(".")[0] == "agcxr"]
            found += [Import(node.lineno, target_of(one), one) for one in dotted]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            if base.split(".")[0] == "agcxr":
                found += [
                    Import(node.lineno, target_of(f"{base}.{one.name}"), f"{base}.{one.name}") for one in node.names
                ]
    return found


def package_of(module: str) -> str:
    """The package of a file named as in MODULES; "" where nothing says it."""
    folder, _, name = module.partition("/")
    return folder if name and folder in PACKAGES else ROOMS.get(module, "")


def test_every_file_has_a_package():
    lost = [name for name in sorted(MODULES) if not package_of(name)]
    assert not lost, f"put these in a package, or give them a place in ROOT_FILES: {', '.join(lost)}"
    assert not set(ROOMS) - set(MODULES), "ROOT_FILES names files that are not there"


def test_imports_go_one_way():
    wrong = []
    for name, path in MODULES.items():
        for imported in imports_of(path):
            where = f"{name}.py:{imported.line}"
            if imported.target == "":
                if imported.dotted != "agcxr.__version__":
                    wrong.append(f"{where} imports {imported.dotted} through the package's door; import its own file")
            elif imported.target not in MODULES:
                missing = f"{imported.dotted}, which is not there"
                what = missing if imported.dotted.count(".") > 1 else f"the folder {imported.target}"
                wrong.append(f"{where} imports {what}; import a file of the package")
            elif PACKAGES.index(package_of(imported.target)) > PACKAGES.index(package_of(name)):
                wrong.append(
                    f"{where} imports {imported.target}: {package_of(name)} stands before {package_of(imported.target)}"
                )
    assert not wrong, "\n".join(wrong)


FIFTEEN = {"findings", "data/nih", "data/phantom", "data/phantom_collection", "evaluation/published"}
"""Files that are about ChestX-ray14 itself, or say what the default findings are."""


SPELLED = {"labels", "findings", "data/external_terms", "data/lesions", "data/phantom_collection", "models/xrv"}
"""Files that may write them out: what they are, how others call them, how each is drawn, and which a published network
was taught."""
SOME = 4
"""Findings that any file may name, as examples."""


def strings_of(path: Path) -> set[str]:
    return {
        node.value for node in ast.walk(parse(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_only_what_is_about_chestxray14_knows_its_names():
    """Everything else reads names, order and codes from the findings of a prepared folder or a model."""
    ways = ("labels", "findings.chestxray14")  # `findings` has the module itself under another name
    users = {
        name
        for name, path in MODULES.items()
        if any(each.target == ways[0] or each.dotted.endswith(ways[1]) for each in imports_of(path))
    }
    assert users <= FIFTEEN, f"{sorted(users - FIFTEEN)} import the fifteen names; take them from a Findings"
    written = {name for name, path in MODULES.items() if len(strings_of(path) & set(labels.FINDINGS)) > SOME}
    assert written <= SPELLED, f"{sorted(written - SPELLED)} write the fifteen names; take them from a Findings"


def test_no_file_imports_itself_by_way_of_others():
    graph = {name: {each.target for each in imports_of(path)} & set(MODULES) for name, path in MODULES.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


TWICE = {
    *("Answer", "Archive", "Attention", "Example", "Facts", "Films", "Held"),
    *("Member", "Origin", "Remote", "Results", "Source", "Table", "Walk"),
}
"""Names that two classes still share. None is added: take names off as they become single."""


def test_a_class_name_stands_for_one_class():
    homes: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, set()).add(name)
    twice = {name: sorted(files) for name, files in homes.items() if len(files) > 1}
    assert twice.keys() <= TWICE, {name: files for name, files in twice.items() if name not in TWICE}
    assert twice.keys() == TWICE, f"take {', '.join(sorted(TWICE - twice.keys()))} off the list"


def test_the_check_sees_imports_in_functions_and_relative_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "MODULES", {"labels": tmp_path, "data/nih": tmp_path})
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "x.py"
    path.write_text(
        "import os, agcxr.labels\nfrom agcxr import labels, LABELS\nfrom ..labels import index\nfrom . import nih\n"
        "def f():\n    from agcxr.data.nih import read\n    from agcxr import data\n    import agcxrother\n"
    )
    assert [(one.line, one.target) for one in sorted(imports_of(path), key=lambda one: one.line)] == [
        (1, "labels"),
        (2, "labels"),
        (2, ""),
        (3, "labels"),
        (4, "data/nih"),
        (6, "data/nih"),
        (7, "data"),
    ]


def test_doors_of_folders_are_only_a_docstring():
    for path in DOORS:
        if path.parent != PACKAGE:
            body = parse(path).body
            assert len(body) == 1 and isinstance(body[0], ast.Expr), f"{path.relative_to(ROOT)} holds code"  # noqa: PT018


@pytest.mark.parametrize("module", LIGHT)
def test_light_imports(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not written yet")
    code = f"import sys, {module}; print(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], f"import {module} is slow: it imports {done.stdout}"


def test_long_files_are_named():
    """A warning, not a failure: files are split by idea, not by length."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for name, lines in lengths.items():
            if lines > LONG_FILE:
                warnings.warn(f"{name} has {lines} lines: is it one idea?", stacklevel=1)
    assert lengths


def test_functions_are_short():
    long = []
    for path in FILES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines >= LONGEST_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines")
    assert not long, "\n".join(long)


def committed() -> list[Path]:
    """Text files under version control that are there."""
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout, so nobody can say what is committed: {error}")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    binary = (".png", ".jpg", ".jpeg", ".npy", ".safetensors", ".parquet", ".dcm", ".gz", ".webp", ".onnx", ".ico")
    return [path for path in paths if path.is_file() and path.suffix not in binary]


# Spelt in two parts, so that this file does not contain what it looks for.
MACHINE = re.compile(r"(?<![\w.])/" + r"(?:work|root|opt|home/\w+)/")
ADDRESS = re.compile(
    r"pypi\.org/" + r"simple|files\.python" + r"hosted|index" + r"-url|find" + r"-links|\[\[tool\.uv\.ind" + "ex"
)


@pytest.mark.parametrize(
    ("pattern", "what"), [(MACHINE, "a path of one machine"), (ADDRESS, "the address of a package index")]
)
def test_committed_files_name_no_machine_and_no_index(pattern, what):
    found = []
    for path in committed():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number} names {what}: {match[0]}")
    assert not found, "\n".join(found)


def test_the_lock_holds_names_versions_and_hashes_only():
    line = re.compile(r"[a-z0-9][a-z0-9._-]*==[\w.+!-]+( ; [^\\#@]+)?( \\)?|    --hash=sha256:[0-9a-f]{64}( \\)?")
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not [one for one in text.splitlines() if not line.fullmatch(one)]
    names = re.findall(r"^([a-z0-9._-]+)==", text, flags=re.M)
    assert {"torch", "timm", "lightning", "pydicom", "pytest"} <= set(names)
    assert "://" not in text


def test_the_map_of_files_is_that_of_their_docstrings():
    made = runpy.run_path(str(ROOT / "docs" / "map.py"))
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert page == made["with_map"](page), "the map in docs/architecture.md is not current: run `python docs/map.py`"
    unsaid = [
        name for name, path in MODULES.items() if f"`{name}.py` |" not in page or not ast.get_docstring(parse(path))
    ]
    assert not unsaid, f"files without a docstring, or not on the map: {', '.join(unsaid)}"


def readme_commands() -> list[str]:
    """Every `agcxr ...` in the fenced bash blocks of the README, continuation lines joined."""
    found = []
    for block in re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;|\|", line.split(" #")[0]):
                words = part.strip().removeprefix("$ ").removeprefix("uv run ").removeprefix("--extra serve ").strip()
                if words.split()[:1] == ["agcxr"]:
                    found.append(words)
    return found


@pytest.mark.parametrize("line", sorted(set(readme_commands())) or [""])
def test_commands_in_the_readme_exist(line, capsys, monkeypatch):
    """The command is one of the program's, and so is each of its flags."""
    if not line or "cli" not in MODULES:
        pytest.skip("no command in the README, or no command line yet")
    from agcxr.cli import main
    from agcxr.commands import COMMANDS

    words = shlex.split(line)[1:]
    if words[:1] and words[0].startswith("-"):
        return
    name = next((one for one in (" ".join(words[:2]), words[0]) if one in COMMANDS), None)
    assert name is not None, f"README: `{line}` is none of {', '.join(COMMANDS)}"
    monkeypatch.setenv("COLUMNS", "300")
    try:
        status = main([*name.split(), "--help"])
    except SystemExit as leave:
        status = leave.code
    assert not status
    said = capsys.readouterr().out
    flags = [word.split("=")[0] for word in words if word.startswith("--")]
    unknown = [flag for flag in flags if not re.search(rf"{re.escape(flag)}(?![\w-])", said)]
    assert not unknown, f"README: `{line}` has flags that `agcxr {name} --help` does not list: {unknown}"
