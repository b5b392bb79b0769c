"""The named limits of the bundle format: what a file may cost before anything is allocated.

Every limit is far above what the design needs and far below what hurts a small device::

    Bundle.from_bytes(data, limits=BundleLimits(max_classes=100))
"""

from dataclasses import dataclass

__all__ = ["DEFAULT_LIMITS", "BundleLimits"]


@dataclass(frozen=True, slots=True)
class BundleLimits:
    """What a bundle, or any tensor file in its container format, may hold.

    Attributes:
        max_file_bytes: The whole file, in bytes. 10,000 classes of a ViT-S with ``prefix``
            attention are 390 MB.
        max_header_bytes: The container's JSON header, in bytes. 10,000 classes need about 4 MB.
        max_classes: Entries present, and entry digests listed.
        max_tensors: Tensors in the container; a bundle has one per class input.
        max_rank: Axes of one tensor.
        max_label_bytes: One label, in bytes of UTF-8.
        max_manifests: Manifests that one bundle may serve.
    """

    max_file_bytes: int = 2**30
    max_header_bytes: int = 2**24
    max_classes: int = 10_000
    max_tensors: int = 64
    max_rank: int = 8
    max_label_bytes: int = 1024
    max_manifests: int = 64


DEFAULT_LIMITS = BundleLimits()
