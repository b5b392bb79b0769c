"""From whatever holds an image to 8-bit grey or RGB pixels: one loader for training and device.

Owns every decision that an image file leaves open, so that no part makes its own::

    load_image("photo.jpg", "RGB")        # a path, bytes, a Pillow image or a uint8 array

- **Orientation**: what EXIF (or XMP) says is applied; a damaged EXIF block says nothing.
- **Alpha**, also in palettes and as one transparent colour: composited on white.
- **16 bits**: grey scales to 8 bits by rounding ``v / 257``, so that 65535 becomes 255. Pillow's
  mode ``I`` is read as 16-bit grey, which is what it holds for PNG and PGM files; values beyond
  that are refused. Colour of 16 bits reaches us as Pillow reads it: its high bytes.
- **Floating point** has no white: refused.
- **CMYK, YCbCr, HSV and palettes** go through RGB; grey from colour is Pillow's ITU-R 601-2 luma.
  Colour profiles are not applied, as timm does not.
- **Animations**: the first frame of a file; the current frame of a Pillow image.

The result carries no metadata: saving it and loading that again changes nothing.
"""

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pfm_edge_runtime.errors import BackendUnavailableError, ImageError
from pfm_edge_runtime.manifest import Mode
from pfm_edge_runtime.store import without_waiting

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MAX_PIXELS", "ImageSource", "image_size", "load_image"]

ImageSource: TypeAlias = "str | Path | bytes | Image | NDArray[np.uint8]"

MAX_PIXELS = 89_478_485
"""Most pixels of one image: Pillow's own threshold, a quarter GiB of 24-bit colour."""

# A device opens what cameras and browsers write. Pillow reads dozens more, one (EPS) by running
# Ghostscript; whoever wants those opens the file and hands us the Pillow image.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000")
_FORMAT_NAMES = "BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TIFF or WebP"
_ORIENTATION = 0x0112  # EXIF 2.3, table 4
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_ARRAY_FIX = "give uint8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4]"
# What Pillow's parsers are seen to raise on damaged files, beside its own errors.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,  # where the process turns warnings into errors
    struct.error,
    zlib.error,
)


def load_image(source: ImageSource, mode: Mode) -> "Image":
    """Read an image as grey (``"L"``) or colour (``"RGB"``), 8 bits a channel.

    Args:
        source: The path of a file, the bytes of one, a Pillow image (left as it is), or a uint8
            array [h, w] or [h, w, 1] (grey), [h, w, 3] (RGB) or [h, w, 4] (RGBA).
        mode: Pillow's mode of the result.

    Returns:
        A new Pillow image of exactly ``mode``, upright and without metadata.

    Raises:
        ImageError: No such file, no image, a damaged one, more than :data:`MAX_PIXELS`, or a form
            that is not an image's; names the source.
        BackendUnavailableError: Pillow is not installed.
    """
    _require_pillow()
    name = _name_of(source)
    with _opened(source, name) as image, _damage_of(name):
        _require_size(image.width, image.height, name)
        image.load()
        flat = _without_alpha(_to_eight_bits(image, name))
        turned = _upright(flat, image)
        result = turned.convert(mode)
    result.info.clear()
    return result


def image_size(source: ImageSource) -> tuple[int, int]:
    """Return width and height in pixels, as stored, by the header alone: cheap.

    Raises:
        ImageError: The source is no image by its header; a damaged body is not noticed.
        BackendUnavailableError: Pillow is not installed.
    """
    _require_pillow()
    name = _name_of(source)
    with _opened(source, name) as image:
        _require_size(image.width, image.height, name)
        return image.width, image.height


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise BackendUnavailableError(
            "reading images needs Pillow: pip install 'pfm-edge-runtime[images]'"
        ) from error


def _name_of(source: object) -> str:
    if isinstance(source, (str, Path)):
        return str(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"image of {len(source)} bytes"
    return "array" if isinstance(source, np.ndarray) else "image"


@contextmanager
def _opened(source: object, name: str) -> "Iterator[Image]":
    """Yield the source as a Pillow image whose header is read; close what was opened here."""
    from PIL import Image

    if isinstance(source, Image.Image):
        yield source
    elif isinstance(source, np.ndarray):
        yield _from_array(source, name)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        with _opened_file(BytesIO(source), name) as image:
            yield image
    elif isinstance(source, (str, Path)):
        try:
            file = open(source, "rb", opener=without_waiting)  # noqa: SIM115 (closed below)
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            reason = getattr(error, "strerror", None) or error
            raise ImageError(f"{name}: cannot be opened ({reason})") from error
        with file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ImageError(f"{name}: not a file: give the path of an image")
            with _opened_file(file, name) as image:
                yield image
    else:
        raise ImageError(
            f"{type(source).__name__} is no image: give a path, bytes, a Pillow image or an array"
        )


@contextmanager
def _opened_file(file: BinaryIO, name: str) -> "Iterator[Image]":
    from PIL import Image, UnidentifiedImageError

    with _damage_of(name):
        try:
            image = Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError as error:
            raise ImageError(f"{name}: not a readable {_FORMAT_NAMES} image") from error
    with image:
        yield image


@contextmanager
def _damage_of(name: str) -> Iterator[None]:
    """Turn what Pillow raises on a bad file into one line that names it."""
    from PIL import Image

    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(_too_large(name)) from error
    except MemoryError as error:
        raise ImageError(f"{name}: does not fit into memory; scale it down") from error
    except (OSError, *_DAMAGE) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: damaged image ({reason}); save or copy it again") from error


def _too_large(name: str) -> str:
    return f"{name}: more than {MAX_PIXELS:,} pixels; scale it down first"


def _require_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width} x {height} pixels is no image")
    if width * height > MAX_PIXELS:
        raise ImageError(_too_large(name))


def _from_array(array: NDArray[np.generic], name: str) -> "Image":
    from PIL import Image

    if array.dtype != np.uint8:
        scale = "; scale it to 0 … 255 and round first" if array.dtype.kind == "f" else ""
        nan = " with NaN" if array.dtype.kind == "f" and np.isnan(array).any() else ""
        raise ImageError(f"{name} of dtype {array.dtype}{nan} is no image: {_ARRAY_FIX}{scale}")
    shape = array.shape
    if array.ndim == 3 and shape[2] == 1:  # noqa: PLR2004
        array = array[:, :, 0]
    elif array.ndim != 2 and not (array.ndim == 3 and shape[2] in (3, 4)):  # noqa: PLR2004
        raise ImageError(f"{name} of shape {list(shape)} is no image: {_ARRAY_FIX}")
    _require_size(shape[1], shape[0], f"{name} of shape {list(shape)}")
    return Image.fromarray(np.ascontiguousarray(array))


def _to_eight_bits(image: "Image", name: str) -> "Image":
    """Return the image with 8 bits a channel; one transparent grey becomes alpha."""
    from PIL import Image

    if image.mode == "F":
        raise ImageError(f"{name}: floating-point pixels have no white; scale to 8 bits first")
    if image.mode not in _SIXTEEN_BITS:
        return image
    pixels = np.asarray(image).astype(np.int32)
    if pixels.min() < 0 or pixels.max() > 65_535:  # noqa: PLR2004
        raise ImageError(f"{name}: 32-bit pixels beyond 0 … 65535; scale to 8 bits first")
    grey = Image.fromarray(((pixels + 128) // 257).astype(np.uint8))  # 65535 = 255 * 257
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(pixels == transparent, 0, 255).astype(np.uint8)))
    return grey


def _without_alpha(image: "Image") -> "Image":
    """Return the image as L or RGB, composited on white where it is transparent.

    Grey with alpha goes through RGB unharmed: the luma of three equal bytes is that byte.
    """
    from PIL import Image

    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        return image
    if not image.has_transparency_data:
        return image.convert("L" if image.mode == "1" else "RGB")
    if image.mode == "La":  # Pillow knows no other way out of premultiplied grey
        image = image.convert("LA")
    layer = image.convert("RGBA")
    canvas = Image.new("RGB", layer.size, "white")
    canvas.paste(layer, mask=layer)
    return canvas


def _upright(pixels: "Image", original: "Image") -> "Image":
    """Turn the pixels as the original's metadata says."""
    from PIL import Image

    try:
        orientation = original.getexif().get(_ORIENTATION, 1)
    except (OSError, *_DAMAGE):
        return pixels
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return pixels if turn is None else pixels.transpose(turn)
