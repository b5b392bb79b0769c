"""Target ``onnx``: a training run to a model package. What every other target starts from.

Owns its name in the list. It takes a run where the others take a package, and it is what
``pfm-edge export`` does unless told otherwise; the work is ``pfm_edge_exporters.export_package``::

    pfm-edge export runs/digits --out model
"""

__all__ = ["NAME", "SUMMARY"]

NAME = "onnx"
SUMMARY = "a model package from a training run: graph, manifest, golden vectors, bundle"
