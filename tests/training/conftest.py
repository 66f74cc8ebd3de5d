"""The tiny prepared folder, once for all tests of training."""

from pathlib import Path

import pytest
from tiny import write_prepared


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("tiny") / "prepared")
