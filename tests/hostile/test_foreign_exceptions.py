"""No exception of a third party crosses the runtime's boundary, whatever provokes it."""

import errno
import os
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pfm_edge_runtime import Classifier, forget_classes
from pfm_edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from pfm_edge_runtime.errors import BackendError, BundleError, PackageError, PfmEdgeError
from pfm_edge_runtime.package import ModelPackage
from tests.support.failing_disk import Fault
from tests.support.tiny_package import (
    CLASS_INPUTS,
    IMAGE,
    TinyPackage,
    quarter,
    tiny_graph,
    write_tiny_package,
)

_ORT_ERRORS = [
    each
    for each in vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
    if isinstance(each, type) and issubclass(each, Exception)
]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


def test_onnx_runtime_has_exceptions_of_its_own_to_translate() -> None:
    assert {"Fail", "InvalidGraph", "InvalidProtobuf"} <= {each.__name__ for each in _ORT_ERRORS}


@pytest.mark.parametrize(
    "error", [*_ORT_ERRORS, RuntimeError, ValueError, TypeError, OSError], ids=lambda e: e.__name__
)
def test_whatever_onnx_runtime_raises(error: type[Exception]) -> None:
    failure = error("first line\nsecond line")
    with (
        mock.patch.object(onnxruntime, "InferenceSession", side_effect=failure),
        pytest.raises(BackendError, match="first line second line"),
    ):
        OnnxRuntimeBackend(tiny_graph())
    backend = OnnxRuntimeBackend(tiny_graph())
    tensors = {each.name: np.zeros(each.graph_shape(1), np.float32) for each in CLASS_INPUTS}
    with (
        mock.patch.object(backend._session, "run", side_effect=failure),
        pytest.raises(BackendError, match="first line second line"),
    ):
        backend.run(np.zeros((1, *IMAGE.shape), np.float32), tensors)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ELOOP])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_whatever_the_disk_says_while_a_package_is_read(
    tiny: TinyPackage, code: int, number: int
) -> None:
    # manifest, graph, golden vectors, bundle, and the graph once more to load it
    fault = Fault("open", number)

    def read() -> None:
        package = ModelPackage.open(tiny.directory)
        package.files.read_graph(package.files.dynamic_variant())

    with fault.injected(code), pytest.raises(PackageError) as caught:
        read()
    assert os.strerror(code) in str(caught.value)


def test_a_directory_that_cannot_be_opened_to_lock_it(tiny: TinyPackage) -> None:
    with Fault("open", 1).injected(errno.EACCES), pytest.raises(PfmEdgeError, match="denied"):
        forget_classes(tiny.directory, ["rose"])


@pytest.mark.parametrize("name", ["manifest.json", "bundle.safetensors"])
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # every example writes it anew
)
@given(data=st.data())
def test_whatever_manifest_and_bundle_hold(
    tiny: TinyPackage, name: str, data: st.DataObject
) -> None:
    path = tiny.directory / name
    good = {
        "manifest.json": tiny.manifest.to_bytes(),
        "bundle.safetensors": tiny.bundle.to_bytes(),
    }[name]
    begin = data.draw(st.integers(0, len(good)))
    piece = data.draw(st.one_of(st.binary(max_size=12), st.just(b"\xff" * 8), st.just(b"[" * 9)))
    skip = data.draw(st.integers(0, 12))
    path.write_bytes(good[:begin] + piece + good[begin + skip :])
    try:
        ModelPackage.open(tiny.directory)
    except PfmEdgeError as error:
        if "\n" in str(error):
            pytest.fail(f"more than one line: {error}")


def test_a_bundle_error_keeps_its_kind_when_the_file_is_named(tiny: TinyPackage) -> None:
    tiny.bundle_path.write_bytes(b"")
    with pytest.raises(BundleError) as caught:
        Classifier.open(tiny.directory)
    assert str(tiny.bundle_path) in str(caught.value)
    assert type(caught.value.__cause__) is type(caught.value)


def test_a_directory_that_vanishes_between_two_calls(tiny: TinyPackage) -> None:
    model = Classifier.open(tiny.directory, threads=1)
    for path in tiny.directory.iterdir():
        path.unlink()
    tiny.directory.rmdir()
    with pytest.raises(PackageError, match="no such directory"):
        model.forget("rose")
    assert model.predict(quarter(1)).label == "rose"
