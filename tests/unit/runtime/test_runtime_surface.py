"""What one sees of the runtime from outside: its public names, and what importing it costs."""

import importlib
import json
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import pfm_edge_runtime
from pfm_edge_runtime import errors


def test_the_listed_names_are_the_visible_ones() -> None:
    assert dir(pfm_edge_runtime) == sorted(pfm_edge_runtime.__all__)
    assert pfm_edge_runtime.__all__ == sorted(
        pfm_edge_runtime.__all__, key=lambda name: (not name[0].isupper(), name)
    )


@pytest.mark.parametrize("name", pfm_edge_runtime.__all__)
def test_every_listed_name_is_what_its_module_defines(name: str) -> None:
    home = importlib.import_module(f"pfm_edge_runtime.{pfm_edge_runtime._HOMES[name]}")
    assert getattr(pfm_edge_runtime, name) is getattr(home, name)
    assert name in home.__all__


def test_the_lazy_table_is_the_list() -> None:
    assert pfm_edge_runtime._HOMES.keys() == set(pfm_edge_runtime.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Clasifier"):
        pfm_edge_runtime.Clasifier  # noqa: B018


def _modules() -> list[ModuleType]:
    found = pkgutil.walk_packages(pfm_edge_runtime.__path__, "pfm_edge_runtime.")
    return [importlib.import_module(each.name) for each in found]


@pytest.mark.parametrize("module", _modules(), ids=lambda module: module.__name__)
def test_every_module_lists_what_it_defines(module: ModuleType) -> None:
    listed = set(module.__all__)
    assert len(listed) == len(module.__all__)
    assert all(hasattr(module, name) for name in listed)
    own = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }
    assert own <= listed, "a public name that is not listed"


def test_one_exception_tree() -> None:
    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, errors.PfmEdgeError)
        assert name.endswith("Error")
        assert name in (errors.__doc__ or "")


def _in_a_fresh_process(code: str) -> object:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_importing_is_quick_and_loads_nothing_heavy() -> None:
    code = """
import json, sys, time
begin = time.perf_counter()
import pfm_edge_runtime
seconds = time.perf_counter() - begin
heavy = [name for name in ("numpy", "onnxruntime", "PIL") if name in sys.modules]
print(json.dumps([seconds, heavy]))
"""
    seconds = []
    for _ in range(3):  # the best of three: other processes may hold the disk
        taken, heavy = _in_a_fresh_process(code)  # type: ignore[misc]
        seconds.append(taken)
        assert heavy == []
    assert min(seconds) < 0.2


def test_using_it_loads_no_image_library_and_no_onnx_runtime_before_it_must() -> None:
    code = """
import json, sys
from pfm_edge_runtime import Bundle, Classifier, Manifest, ModelPackage, forget_classes
import pfm_edge_runtime.cli
print(json.dumps([name for name in ("onnxruntime", "PIL", "torch", "onnx") if name in sys.modules]))
"""
    assert _in_a_fresh_process(code) == []
