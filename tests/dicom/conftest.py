"""One tiny model for the folder's tests, on one thread."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import torch
from node_made import Bench, FakeArchive

from agcxr.calibration import Calibration, Curve, FindingCalibration, OperatingPoint
from agcxr.dicom import worker
from agcxr.dicom.tls import Tls
from agcxr.inference.predictor import Predictor
from agcxr.models.agcnn import AGCNN

torch.set_num_threads(1)


def calibration() -> Calibration:
    """One finding with a curve and operating points, one without points."""
    point = OperatingPoint(threshold=0.5, sensitivity=0.8, specificity=0.7)
    curve = Curve(kind="platt", slope=0.5, intercept=-1.0)
    points = {"youden": point, "sensitivity95": point, "specificity95": point}
    return Calibration(
        method="platt",
        log_loss={"platt": 0.3},
        findings={
            "Effusion": FindingCalibration(curve=curve, prevalence=0.1, positives=20, films=200, points=points),
            "Hernia": FindingCalibration(curve=Curve(kind="none"), prevalence=0.0, positives=0, films=200),
        },
    )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A saved model with a calibration."""
    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AGCNN("test_resnet", weights="none", image_size=64, resize=72)
    model.save_pretrained(folder, model.new_card(calibration=calibration().model_dump(mode="json")))
    return folder


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """Two authorities, "ours" and "theirs"; a node, an archive and a scanner of ours, a stranger of theirs."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates, and is not here")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2")
    for authority in ("ours", "theirs"):
        openssl(*new, "-subj", f"/CN={authority}", "-keyout", f"{authority}.key", "-out", f"{authority}.pem")
    for name, authority in (("node", "ours"), ("archive", "ours"), ("scanner", "ours"), ("stranger", "theirs")):
        signed = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-addext", "subjectAltName=IP:127.0.0.1")
        openssl(*new, "-subj", f"/CN={name}", *signed, "-keyout", f"{name}.key", "-out", f"{name}.pem")
    return lambda name: Tls(folder / f"{name}.pem", folder / f"{name}.key", folder / "ours.pem")


@pytest.fixture(scope="session")
def predictor(model_folder):
    return Predictor.from_pretrained(model_folder, device="cpu")


@pytest.fixture(scope="session")
def algorithm(predictor):
    return predictor.algorithm


@pytest.fixture(scope="session")
def onnx_file(predictor, tmp_path_factory):
    """The same model as an exported file; tracing takes most of a minute on a busy machine."""
    for name in ("onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="the extra `export` is not installed")
    from agcxr.inference.export import write

    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    write(predictor, path)
    return path


@pytest.fixture
def archive():
    made = FakeArchive().up()
    yield made
    made.down()


@pytest.fixture
def bench(predictor, archive, tmp_path, monkeypatch):
    """Makes nodes that share one queue file and one journal."""
    monkeypatch.setattr(worker, "LONGEST_PAUSE", 1.0)
    return Bench(predictor, archive, tmp_path / "queue.sqlite")


@pytest.fixture
def running(bench):
    with bench.node() as node:
        yield node
    bench.queue.close()
