"""Where things lie in a repository: the names that a device knows without being told.

TUF's client cannot list targets, so two fixed names are the doors: the forget list, and one channel
for each model::

    channel_target(model_id)                 # "channel/6b86….json"
    bundle_target(model_id, 1, 7)            # "bundles/6b86…/1-7.safetensors"

A model's id is written without its ``sha256:``: a colon is no character for a file name on the
file systems of USB sticks.
"""

from pfm_edge_runtime.manifest import ModelId

__all__ = [
    "FORGET_FILE",
    "METADATA_FOLDER",
    "TARGETS_FOLDER",
    "bundle_target",
    "channel_target",
]

FORGET_FILE = "forget.json"
"""The forget list: a target, and, by the same name, a plain file at the root of the repository."""

METADATA_FOLDER = "metadata"
"""Folder of the repository with TUF's metadata."""

TARGETS_FOLDER = "targets"
"""Folder of the repository with TUF's targets."""


def channel_target(model_id: ModelId) -> str:
    """Return the target path of a model's channel."""
    return f"channel/{_digits(model_id)}.json"


def bundle_target(model_id: ModelId, epoch: int, sequence: int) -> str:
    """Return the target path of a bundle, by its place."""
    return f"bundles/{_digits(model_id)}/{epoch}-{sequence}.safetensors"


def _digits(model_id: ModelId) -> str:
    return model_id.removeprefix("sha256:")
