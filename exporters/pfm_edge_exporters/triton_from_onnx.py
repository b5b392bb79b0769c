"""A graph with its classes inside to what a Triton server reads of it.

Owns the text of ``config.pbtxt``. Triton batches requests only where every input has the batch axis
first, which a class tensor has not; so the classes of one bundle are constants of one version of
the model (``bake_classes``)::

    config = triton_config(TritonModel("digits", image, embedding=384, max_batch=8))
"""

from dataclasses import dataclass

from pfm_edge_runtime.manifest import ImageInput

__all__ = ["TritonModel", "triton_config"]

_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}


@dataclass(frozen=True, slots=True)
class TritonModel:
    """What a server is told of a model.

    Attributes:
        name: The model's name, that of its directory.
        image: The image input.
        embedding: Width of the embedding.
        max_batch: Most images in one run.
        queue_delay_us: How long a request may wait for others, in microseconds.
        kind: Where it runs: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        instances: How many runs at once, on each device.
    """

    name: str
    image: ImageInput
    embedding: int
    max_batch: int = 8
    queue_delay_us: int = 500
    kind: str = "auto"
    instances: int = 1


def triton_config(model: TritonModel) -> str:
    """Return the text of ``config.pbtxt``.

    The number of classes is not in it (-1), so a forget leaves the file as it is, with whatever was
    changed in it by hand.
    """
    dims = ", ".join(map(str, model.image.shape))
    return f"""\
# Serve it under EXPLICIT control, because its one version is exchanged as a whole:
#   tritonserver --model-repository=REPOSITORY --model-control-mode=explicit \\
#       --load-model={model.name}
# After a forget or a new bundle, tell a running server; until then it keeps the old one in memory:
#   curl -X POST HOST:8000/v2/repository/models/{model.name}/load
name: "{model.name}"
backend: "onnxruntime"
max_batch_size: {model.max_batch}
input [
  {{ name: "{model.image.name}" data_type: {_TYPES[model.image.dtype]} dims: [ {dims} ] }}
]
output [
  {{ name: "logits" data_type: TYPE_FP32 dims: [ -1 ] label_filename: "labels.txt" }},
  {{ name: "embedding" data_type: TYPE_FP32 dims: [ {model.embedding} ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: {model.queue_delay_us} }}
instance_group [ {{ kind: KIND_{model.kind.upper()} count: {model.instances} }} ]
version_policy {{ latest {{ num_versions: 1 }} }}
"""
