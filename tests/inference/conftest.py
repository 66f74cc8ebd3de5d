import pytest
import torch

from inference.exported import predictor, save


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("exported") / "model")


@pytest.fixture(scope="session")
def eager(model_folder):
    return predictor(model_folder)


@pytest.fixture(scope="session")
def onnx_file(model_folder, eager, tmp_path_factory):
    """Written once a session: tracing takes most of a minute on a busy machine."""
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    from agcxr.inference.export import write

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        path = tmp_path_factory.mktemp("file") / "model.onnx"
        write(eager, path)
        return path
    finally:
        torch.set_num_threads(before)
