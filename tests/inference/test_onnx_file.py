"""ONNX files as strangers might make them. None is ever given to a runtime."""

import os

import numpy as np
import pytest

from agcxr.inference.onnx_engine import OnnxPredictor
from agcxr.inference.onnx_file import Asks, check_plain

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
h = onnx.helper


def graph(nodes=(), weights=(), **more):
    films = h.make_tensor_value_info("films", onnx.TensorProto.UINT8, ["batch", "height", "width"])
    return h.make_graph([h.make_node("Identity", ["films"], ["out"]), *nodes], "g", [films], [], list(weights), **more)


def saved(path, nodes=(), weights=(), **more):
    functions = more.pop("functions", [])
    model = h.make_model(graph(nodes, weights, **more), functions=functions, opset_imports=[h.make_opsetid("", 20)])
    path.write_bytes(model.SerializeToString())
    return path


def outside(place):
    """A weight whose numbers are said to lie in another file."""
    tensor = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "weight")
    onnx.external_data_helper.set_external_data(tensor, place)
    tensor.ClearField("raw_data")
    return tensor


def test_plain_files_pass(tmp_path):
    weight = onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "weight")
    constant = h.make_node("Constant", [], ["c"], value=weight)
    check_plain(saved(tmp_path / "m.onnx", [constant], [weight]))


@pytest.mark.parametrize(("opset", "ir_version"), [(20, 9), (17, 8), (25, 12)])
@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_the_versions_a_file_states_are_read(tmp_path, opset, ir_version, domain):
    others = h.make_opsetid("com.microsoft", 1)
    model = h.make_model(graph(), opset_imports=[others, h.make_opsetid(domain, opset), others])
    model.ir_version = ir_version
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert check_plain(path) == Asks(opset=opset, ir_version=ir_version)


def test_versions_that_are_not_stated_are_0(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.ModelProto(graph=graph()).SerializeToString())
    assert check_plain(path) == Asks(opset=0, ir_version=0)


def test_a_runtime_too_old_for_a_file_is_told_with_what_the_file_asks(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    model = h.make_model(graph(), opset_imports=[h.make_opsetid("", 99)])
    model.ir_version = 99
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    words = (
        r"cannot be loaded by ONNX Runtime [\d.]+ \(.*\)\. It asks for opset 99 and IR version 99\. Export it again "
        r"\(files of this version of agcxr load from ONNX Runtime 1\.17 on\), or upgrade ONNX Runtime"
    )
    with pytest.raises(ValueError, match=words):
        OnnxPredictor(path)


@pytest.mark.parametrize("place", ["/etc/passwd", "../secret", "weights.bin"])
@pytest.mark.parametrize("inside", ["weights", "a constant", "a list of tensors"])
def test_weights_of_other_files_are_refused(tmp_path, place, inside):
    tensor = outside(place)
    if inside == "weights":
        path = saved(tmp_path / "m.onnx", weights=[tensor])
    else:
        value = {"value": tensor} if inside == "a constant" else {"some": [tensor]}
        path = saved(tmp_path / "m.onnx", [h.make_node("Constant", [], ["c"], **value)])
    with pytest.raises(ValueError, match="keeps weights in other files, which `agcxr export` never writes"):
        OnnxPredictor(path)


def test_a_place_alone_is_enough(tmp_path):
    tensor = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "weight")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(ValueError, match="keeps weights in other files"):
        check_plain(saved(tmp_path / "m.onnx", weights=[tensor]))


def test_loops_functions_and_foreign_operators_are_refused(tmp_path):
    endless = h.make_node("Loop", ["", ""], ["l"], body=graph())
    with pytest.raises(ValueError, match="graphs within its graph"):
        check_plain(saved(tmp_path / "m.onnx", [endless]))
    with pytest.raises(ValueError, match="uses operators of 'evil.example'"):
        check_plain(saved(tmp_path / "m.onnx", [h.make_node("Run", [], ["x"], domain="evil.example")]))
    check_plain(saved(tmp_path / "m.onnx", [h.make_node("Relu", ["out"], ["x"], domain="ai.onnx")]))
    function = h.make_function("d", "f", ["a"], ["b"], [h.make_node("Relu", ["a"], ["b"])], [h.make_opsetid("", 20)])
    with pytest.raises(ValueError, match="holds functions"):
        check_plain(saved(tmp_path / "m.onnx", functions=[function]))


def test_sparse_weights_are_refused(tmp_path):
    values = onnx.numpy_helper.from_array(np.ones(1, np.float32), "v")
    places = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "i")
    sparse = h.make_sparse_tensor(values, places, [10**12])
    with pytest.raises(ValueError, match="holds sparse weights"):
        check_plain(saved(tmp_path / "m.onnx", sparse_initializer=[sparse]))
    with pytest.raises(ValueError, match="holds sparse weights"):
        check_plain(saved(tmp_path / "m.onnx", [h.make_node("Constant", [], ["c"], sparse_value=sparse)]))


@pytest.mark.parametrize("data", [b"", b"\x00", b"not a model at all", b"\x3a\xff\xff\xff\x7f", b"\x3a" + b"\xff" * 11])
def test_other_bytes(tmp_path, data):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"m\.onnx (has 0 bytes|is damaged)"):
        check_plain(path)


def test_sizes_beyond_protobuf_s(tmp_path):
    path = tmp_path / "m.onnx"
    path.touch()
    os.truncate(path, 2**31)  # sparse: no disk is used
    with pytest.raises(ValueError, match="has 2,147,483,648 bytes"):
        check_plain(path)


def test_damaged_files_never_do_more_than_be_refused(tmp_path):
    weight = onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32), "weight")
    data = saved(tmp_path / "m.onnx", [h.make_node("Constant", [], ["c"], value=weight)], [weight]).read_bytes()
    generator = np.random.default_rng(0)
    path = tmp_path / "changed.onnx"
    refused = 0
    for _ in range(300):
        changed = bytearray(data[: int(generator.integers(1, len(data) + 1))])
        for at in generator.integers(0, len(changed), 3):
            changed[at] = int(generator.integers(256))
        path.write_bytes(changed)
        try:
            check_plain(path)
        except ValueError:
            refused += 1
    assert refused > 150
