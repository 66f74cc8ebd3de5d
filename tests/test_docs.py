"""What the docs name exists, their links lead somewhere, and no page is long."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WRITTEN = [page for page in PAGES if "results" not in page.parts]
"""The pages that people wrote; docs/results/ holds what commands printed."""
MOST_WORDS = 1500


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """A page without its code blocks and without what a command writes into it."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<!-- map of files.*?<!-- end of the map -->", "", text, flags=re.S)
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)


def test_the_tests_that_the_table_of_faults_names_exist():
    """docs/faults/: `tests/x/test_y.py`: `test_a`, `test_b`; ..."""
    text = "".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "faults").glob("*.md")))
    named = re.findall(r"`(tests/[\w/]+\.py)`(?:: ((?:`test_\w+`(?:, )?)+))?", text)
    assert len(named) > 50
    for path, names in named:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        absent = set(re.findall(r"test_\w+", names)) - there
        assert not absent, f"{path} has no {', '.join(sorted(absent))}"


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_a_page_is_read_in_one_sitting(page: Path):
    words = sum(any(letter.isalpha() for letter in word) for word in prose(page).split())
    assert words <= MOST_WORDS, f"{name_of(page)} has {words:,} words; cut it into pages of at most {MOST_WORDS:,}"


def heading_anchors(page: Path) -> set[str]:
    """The anchors that GitHub and the site make of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md"), *WRITTEN], ids=name_of)
def test_links_lead_to_a_file_and_to_a_heading_of_it(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)} links to {target}, which does not exist"
        if anchor and file.suffix == ".md":
            assert anchor in heading_anchors(file), f"{name_of(page)} links to {target}; {path} has no such heading"


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "examples"])
def test_pages_that_the_code_names_exist(folder: str):
    for path in sorted((ROOT / folder).rglob("*.py")):
        for named in re.findall(r"\bdocs/[\w/]+\.md\b", path.read_text(encoding="utf-8")):
            assert (ROOT / named).is_file(), f"{name_of(path)} names {named}, which does not exist"
