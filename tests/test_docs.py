"""What the docs name exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_tests_that_the_table_of_faults_names_exist():
    """docs/faults.md: `tests/x/test_y.py`: `test_a`, `test_b`; ..."""
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)`(?:: ((?:`test_\w+`(?:, )?)+))?", text)
    assert len(named) > 50
    for path, names in named:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        absent = set(re.findall(r"test_\w+", names)) - there
        assert not absent, f"{path} has no {', '.join(sorted(absent))}"
