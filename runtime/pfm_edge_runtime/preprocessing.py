"""From an image to the graph's image input: timm's evaluation transform, in Pillow and numpy.

Owns the arithmetic between pixels and floats; equal to ``timm.data.transforms_imagenet_eval`` bit
for bit in float32, crop modes ``center`` and ``squash``, after our loader::

    preprocess = Preprocessor(manifest.preprocessing, manifest.image)
    preprocess("photo.jpg")                    # float32 [c, h, w]
    preprocess.batch(["a.png", "b.png"])       # float32 [2, c, h, w]

The order is resize, centre crop, scale to 0 … 1, normalise. A graph with a uint8 input does the
last two itself: it gets the pixels as they are after the crop. Sources of each formula:
torchvision's ``_compute_resized_output_size`` and ``center_crop``, timm's ``ResizeKeepRatio``.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pfm_edge_runtime.backends import ImageArray
from pfm_edge_runtime.errors import ImageError, ManifestError
from pfm_edge_runtime.images import MAX_PIXELS, ImageSource, load_image
from pfm_edge_runtime.manifest import ImageInput, Mode, Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Preprocessor"]


class Preprocessor:
    """Turns images into one graph's image input; has no state, so threads may share it.

    Args:
        spec: How; its ``resize`` is used as it stands where the input is square, and must be what
            timm derives from ``crop_pct`` where it is not, for then each side has its own.
        image: What for.

    Raises:
        ManifestError: The two contradict each other.
    """

    def __init__(self, spec: Preprocessing, image: ImageInput) -> None:
        channels, height, width = image.shape
        if channels != len(spec.mean):
            raise ManifestError(
                f"image.shape has {channels} channels, preprocessing.mean {len(spec.mean)}"
            )
        self._spec = spec
        self._shape = image.shape
        self._scaled = _scaled_size(spec, height, width)
        self._table = _value_table(spec)
        self._dtype = np.dtype(image.dtype)

    @property
    def mode(self) -> Mode:
        """Pillow's mode of the pixels: ``"L"`` or ``"RGB"``."""
        return self._spec.mode

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what a call returns."""
        return self._shape

    def __call__(self, source: ImageSource) -> ImageArray:
        """Preprocess one image.

        Args:
            source: Anything that :func:`pfm_edge_runtime.images.load_image` takes.

        Returns:
            float32 or uint8, as the image input is, [c, h, w], C-contiguous.

        Raises:
            ImageError: The source is no image, or so elongated that resizing it would not fit.
            BackendUnavailableError: Pillow is not installed.
        """
        out: ImageArray = np.empty(self._shape, self._dtype)
        self._write(source, out)
        return out

    def batch(self, sources: Iterable[ImageSource]) -> ImageArray:
        """Preprocess images into one array.

        Returns:
            float32 or uint8 [n, c, h, w]; n is 0 where there are no sources.

        Raises:
            ImageError: As for one image.
            BackendUnavailableError: Pillow is not installed.
        """
        listed = list(sources)
        out: ImageArray = np.empty((len(listed), *self._shape), self._dtype)
        for row, source in zip(out, listed):  # noqa: B905 (Python 3.10's zip, equal by construction)
            self._write(source, row)
        return out

    def _write(self, source: ImageSource, out: ImageArray) -> None:
        pixels = np.asarray(self._crop(self._resize(load_image(source, self._spec.mode))))
        for channel, table in enumerate(self._table):
            plane = pixels if pixels.ndim == 2 else pixels[:, :, channel]  # noqa: PLR2004
            if out.dtype == np.uint8:
                out[channel] = plane
            else:
                np.take(table, plane, out=out[channel])

    def _resize(self, image: "Image") -> "Image":
        from PIL.Image import Resampling

        height, width = self._resized_size(image.height, image.width)
        if height * width > MAX_PIXELS:
            raise ImageError(
                f"image of {image.width} x {image.height} pixels is too elongated: scaled for this "
                f"model it would have {width} x {height}; crop it first"
            )
        return image.resize((width, height), Resampling[self._spec.interpolation.upper()])

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width after resizing."""
        scaled_height, scaled_width = self._scaled
        if self._spec.crop_mode == "squash":
            return self._scaled
        if scaled_height == scaled_width:
            # torchvision: the shorter side to the size, the longer one truncated.
            shorter, longer = min(height, width), max(height, width)
            long_side = int(scaled_height * longer / shorter)
            return (long_side, scaled_width) if width <= height else (scaled_height, long_side)
        # timm's ResizeKeepRatio with longest=0: the side that needs it most decides; rounded.
        ratio = min(height / scaled_height, width / scaled_width)
        return round(height / ratio), round(width / ratio)

    def _crop(self, image: "Image") -> "Image":
        """Cut out the centre; Pillow fills with 0 what lies outside, as torchvision pads."""
        _, height, width = self._shape
        top, left = _offset(image.height, height), _offset(image.width, width)
        return image.crop((left, top, left + width, top + height))


def _scaled_size(spec: Preprocessing, height: int, width: int) -> tuple[int, int]:
    if height == width:
        return spec.resize, spec.resize
    scaled = math.floor(height / spec.crop_pct), math.floor(width / spec.crop_pct)
    if min(scaled) != spec.resize:
        raise ManifestError(
            f"preprocessing.resize {spec.resize} contradicts crop_pct {spec.crop_pct}, which makes "
            f"it {min(scaled)} for {height} x {width}"
        )
    return scaled


def _value_table(spec: Preprocessing) -> NDArray[np.float32]:
    """Return what each of the 256 pixel values becomes, by channel: float32 [c, 256].

    The operations of ``ToTensor`` and ``Normalize``, each rounded to float32.
    """
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    mean = np.asarray(spec.mean, np.float32)[:, None]
    std = np.asarray(spec.std, np.float32)[:, None]
    return (values - mean) / std


def _offset(have: int, want: int) -> int:
    """Return where a centred window of ``want`` begins in ``have``; negative where it is padded."""
    if want > have:
        return -((want - have) // 2)
    return round((have - want) / 2)
