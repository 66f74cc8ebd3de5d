import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


SAID = {
    "python_api.py": ("looked at", "bytes not a PNG, JPEG, WebP or DICOM file"),
    "own_findings.py": ("Mean of 3", "findings of my clinic: Large heart, Collapsed lung, Fluid"),
}
WRITTEN = {"python_api.py": "explained.png", "own_findings.py": "own_findings/run/evaluation/test/results.json"}


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_example_runs_as_it_is(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script)])
    runpy.run_path(str(script), run_name="__main__")
    out = capsys.readouterr().out
    for words in SAID[script.name]:
        assert words in out
    assert (tmp_path / WRITTEN[script.name]).stat().st_size > 10_000
