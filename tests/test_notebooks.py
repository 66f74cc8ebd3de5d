"""The notebooks run from top to end, and are notebooks to jupytext."""

import runpy
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext", reason="the group docs has it: uv sync --group docs")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))
OUTPUT = {
    "quick_start": "box in pixels of the film",
    "own_films": "Mean of",
    "reading_a_report": "fusion - global",
    "comparing_two_models": "AUROC with 95 % intervals",
}


def test_each_notebook_is_one_of_text_and_code():
    assert {path.stem for path in NOTEBOOKS} == set(OUTPUT)
    for path in NOTEBOOKS:
        cells = jupytext.read(path).cells
        assert cells[0].source.startswith("# "), path.name
        assert {cell.cell_type for cell in cells} == {"markdown", "code"}
        assert "Research use only" in " ".join(cells[0].source.split())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_end(path: Path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGCXR_NOTEBOOK_FILMS", "60")
    runpy.run_path(str(path))
    assert OUTPUT[path.stem] in capsys.readouterr().out
