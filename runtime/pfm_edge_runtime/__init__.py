"""Torch-free device runtime for pre-forgettable models: predict, and forget for good.

::

    from pfm_edge_runtime import Classifier

    model = Classifier.open("model/")        # backbone and bundle, verified
    model.predict("photo.jpg").label
    model.forget("daisy")                    # durable when it returns

Importing this package costs next to nothing: each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pfm_edge_runtime.bundle import Bundle, ClassId
    from pfm_edge_runtime.classifier import Classifier, ClassInfo, Prediction
    from pfm_edge_runtime.errors import PfmEdgeError
    from pfm_edge_runtime.forgetting import Forgotten, forget_classes
    from pfm_edge_runtime.manifest import Manifest, ModelId
    from pfm_edge_runtime.package import ModelPackage

__all__ = [
    "Bundle",
    "ClassId",
    "ClassInfo",
    "Classifier",
    "Forgotten",
    "Manifest",
    "ModelId",
    "ModelPackage",
    "PfmEdgeError",
    "Prediction",
    "forget_classes",
]

_HOMES = {
    "Bundle": "bundle",
    "ClassId": "bundle",
    "ClassInfo": "classifier",
    "Classifier": "classifier",
    "Forgotten": "forgetting",
    "Manifest": "manifest",
    "ModelId": "manifest",
    "ModelPackage": "package",
    "PfmEdgeError": "errors",
    "Prediction": "classifier",
    "forget_classes": "forgetting",
}


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
