"""Labelled images for training and evaluation, preprocessed as the device will.

Owns where images come from and which of them are held out::

    data = load_data(config.data, Preprocessor(spec, image))
    data.train.images(torch.tensor([3, 1, 4]))     # float32 [3, c, h, w]
    data.labels[data.train.labels[3]]              # "7"

Every image passes through :func:`pfm_edge_runtime.images.load_image`, here and on the device.
"""

from pfm_edge.data._folder import images_below
from pfm_edge.data._load import load_data
from pfm_edge.data._split import ClassificationData, Progress, Split

__all__ = ["ClassificationData", "Progress", "Split", "images_below", "load_data"]
