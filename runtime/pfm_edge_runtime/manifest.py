"""What a model package says about itself: the values of ``manifest.json``, checked when made.

Owns the vocabulary that every part shares (which inputs the graph has, how an image becomes one
of them) and both directions between it and the file. A value that exists is well formed::

    manifest = Manifest.from_bytes(Path("model/manifest.json").read_bytes())
    manifest.class_inputs[0].graph_shape(10)     # (12, 6, 10, 64)

``to_bytes`` is deterministic: equal manifests give equal bytes, and so equal digests.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite, prod
from types import MappingProxyType
from typing import Literal, NewType, TypeAlias, get_args

from pfm_edge_runtime.digest import is_digest
from pfm_edge_runtime.errors import ManifestError

__all__ = [
    "BUNDLE_FILE",
    "GOLDEN_FILE",
    "MANIFEST_FILE",
    "MASK_INPUT",
    "ClassInput",
    "CropMode",
    "ImageInput",
    "Interpolation",
    "Manifest",
    "Mode",
    "ModelId",
    "PixelType",
    "Precision",
    "Preprocessing",
    "Variant",
]

ModelId = NewType("ModelId", str)
"""``"sha256:<64 hex>"`` over the merged backbone and what shaped its graph."""

Mode: TypeAlias = Literal["L", "RGB"]
Interpolation: TypeAlias = Literal["bicubic", "bilinear", "box", "hamming", "lanczos", "nearest"]
CropMode: TypeAlias = Literal["center", "squash"]
PixelType: TypeAlias = Literal["float32", "uint8"]
Precision: TypeAlias = Literal["fp32", "fp16", "int8"]

MANIFEST_FILE = "manifest.json"
BUNDLE_FILE = "bundle.safetensors"
GOLDEN_FILE = "golden.safetensors"
MASK_INPUT = "class_mask"  # of a static graph alone, made by whoever runs it

_OUTPUTS = ("logits", "embedding")
_CHANNELS: Mapping[str, int] = {"L": 1, "RGB": 3}
_MAX_SIZE = 65_536  # of one axis, in elements
_MAX_ELEMENTS = 1 << 26  # of one preprocessed image: 256 MiB of float32
_OPSETS = (18, 23)
_MAX_CLASS_INPUTS = 64  # BundleLimits.max_tensors
_MAX_SLICE_RANK = 7  # the class axis makes it 8: BundleLimits.max_rank
_TENSOR_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,127}")  # what the bundle's container can name
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ManifestError(message)


def _require_sizes(what: str, sizes: tuple[int, ...]) -> None:
    _require(
        all(type(size) is int and 1 <= size <= _MAX_SIZE for size in sizes),
        f"{what} must hold sizes from 1 to {_MAX_SIZE}, not {list(sizes)}",
    )


@dataclass(frozen=True, slots=True)
class ClassInput:
    """One input of the graph that has a class axis; always float32.

    Attributes:
        name: Name of the graph's input, and of the tensor in the bundle.
        slice_shape: Shape of what one class contributes; ``()`` for a number.
        class_axis: Where the class axis is inserted to make the graph's shape.
    """

    name: str
    slice_shape: tuple[int, ...]
    class_axis: int

    def __post_init__(self) -> None:
        _require(
            _TENSOR_NAME.fullmatch(self.name) is not None,
            f"class input {self.name!r} must be named [a-z][a-z0-9_.-]*",
        )
        _require_sizes(f"slice_shape of class input {self.name!r}", self.slice_shape)
        _require(
            len(self.slice_shape) <= _MAX_SLICE_RANK,
            f"slice_shape of class input {self.name!r} has more than {_MAX_SLICE_RANK} axes",
        )
        _require(
            0 <= self.class_axis <= len(self.slice_shape),
            f"class_axis of class input {self.name!r} must be 0 to {len(self.slice_shape)}",
        )

    def graph_shape(self, count: int) -> tuple[int, ...]:
        """Return the shape of the graph's input for ``count`` classes."""
        return (*self.slice_shape[: self.class_axis], count, *self.slice_shape[self.class_axis :])


@dataclass(frozen=True, slots=True)
class ImageInput:
    """The image input of the graph: ``[batch, channels, height, width]``.

    Attributes:
        name: Name of the graph's input.
        shape: Channels, height and width; the batch axis comes before them.
        dtype: ``"float32"`` where pixels come scaled and normalised; ``"uint8"`` where they come
            as they are after resizing and cropping, because the graph does the rest.
    """

    name: str
    shape: tuple[int, int, int]
    dtype: PixelType = "float32"

    def __post_init__(self) -> None:
        _require(
            _TENSOR_NAME.fullmatch(self.name) is not None,
            f"image input {self.name!r} must be named [a-z][a-z0-9_.-]*",
        )
        _require(len(self.shape) == 3, "image.shape must be batch, channels, height and width")  # noqa: PLR2004
        _require_sizes("image.shape", self.shape)
        _require(prod(self.shape) <= _MAX_ELEMENTS, f"image.shape {list(self.shape)} is too large")
        kinds = get_args(PixelType)
        _require(self.dtype in kinds, f"image.dtype {self.dtype!r} is none of {kinds}")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image file becomes the image input: timm's evaluation transform, in its terms.

    Attributes:
        mode: Pillow's mode before anything else: ``"L"`` (grey) or ``"RGB"``.
        resize: Length of the image's shorter side after resizing, in pixels.
        interpolation: Pillow's resampling filter.
        crop_pct: Share of the resized image that the crop keeps, above 0 and up to 1.
        crop_mode: ``"center"`` keeps the aspect ratio and crops, ``"squash"`` does not.
        mean: Subtracted from every channel, once it is scaled to 0 … 1.
        std: Divides every channel after that.
    """

    mode: Mode
    resize: int
    interpolation: Interpolation
    crop_pct: float
    crop_mode: CropMode
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, allowed in (
            ("mode", get_args(Mode)),
            ("interpolation", get_args(Interpolation)),
            ("crop_mode", get_args(CropMode)),
        ):
            value = getattr(self, name)
            _require(value in allowed, f"preprocessing.{name} {value!r} is none of {allowed}")
        _require_sizes("preprocessing.resize", (self.resize,))
        _require(0 < self.crop_pct <= 1, "preprocessing.crop_pct must be above 0 and up to 1")
        channels = _CHANNELS[self.mode]
        for name, values in (("mean", self.mean), ("std", self.std)):
            _require(
                len(values) == channels and all(isfinite(value) for value in values),
                f"preprocessing.{name} must hold {channels} numbers, as mode {self.mode} has",
            )
        _require(all(value > 0 for value in self.std), "preprocessing.std must be above 0")


@dataclass(frozen=True, slots=True)
class Variant:
    """One graph file of the package; all variants compute the same model.

    A static graph has one more input, ``MASK_INPUT`` bool ``[capacity]``: true where a class is
    present. Its class inputs hold ``capacity`` rows, zeros where there is no class.

    Attributes:
        file: Name of the file in the package.
        precision: What the graph computes in; inputs and outputs are the same in all of them.
        capacity: Number of class rows of a static graph; ``None`` for a dynamic class axis.
        batch: Number of images of a static graph; ``None`` for a dynamic batch axis.
        opset: Version of ONNX's operator set.
    """

    file: str
    precision: Precision
    capacity: int | None = None
    batch: int | None = None
    opset: int = 18

    def __post_init__(self) -> None:
        kinds = get_args(Precision)
        _require(
            self.precision in kinds,
            f"precision {self.precision!r} of variant {self.file!r} is none of {kinds}",
        )
        for name, size in (("capacity", self.capacity), ("batch", self.batch)):
            if size is not None:
                _require_sizes(f"{name} of variant {self.file!r}", (size,))
        _require(
            self.batch is None or self.capacity is not None,
            f"variant {self.file!r} has a fixed batch, so it needs a capacity too",
        )
        _require(
            type(self.opset) is int and self.opset in _OPSETS,
            f"opset {self.opset!r} of variant {self.file!r} is none of {_OPSETS}",
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that a package says about its graph; never about a class.

    Attributes:
        model_id: The trained model, shared by all its exports.
        attention: How prompts and image meet, as ``"prefix"``; informs, changes nothing here.
        image: The image input.
        class_inputs: The class inputs; at least one.
        preprocessing: How an image becomes the image input.
        variants: The graph files; first the one that runs anywhere and takes any number of
            classes and images: fp32, dynamic, opset 18.
        files: Digest of every file of the package but manifest and bundle, by name.
        outputs: ``logits`` float32 [batch, classes] and ``embedding`` float32 [batch, width].
        created_with: Versions of what made the package, by name; informs, changes nothing.
    """

    model_id: ModelId
    attention: str
    image: ImageInput
    class_inputs: tuple[ClassInput, ...]
    preprocessing: Preprocessing
    variants: tuple[Variant, ...]
    files: Mapping[str, str]
    outputs: tuple[str, ...] = _OUTPUTS
    created_with: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(is_digest(self.model_id), "model_id must be sha256: and 64 hexadecimal digits")
        _require(
            _WORD.fullmatch(self.attention) is not None,
            f"attention {self.attention!r} must be a word as prefix",
        )
        _require(self.outputs == _OUTPUTS, f"outputs must be {list(_OUTPUTS)}")
        _require(
            1 <= len(self.class_inputs) <= _MAX_CLASS_INPUTS,
            f"class_inputs must name 1 to {_MAX_CLASS_INPUTS} inputs",
        )
        names = [self.image.name, *(each.name for each in self.class_inputs)]
        _require(len(set(names)) == len(names), "two inputs of the graph share one name")
        _require(MASK_INPUT not in names, f"{MASK_INPUT} is the name of a static graph's own input")
        channels = _CHANNELS[self.preprocessing.mode]
        _require(
            self.image.shape[0] == channels,
            f"image.shape has {self.image.shape[0]} channels, mode "
            f"{self.preprocessing.mode} has {channels}",
        )
        self._require_files()
        object.__setattr__(self, "files", MappingProxyType(dict(self.files)))
        object.__setattr__(self, "created_with", MappingProxyType(dict(self.created_with)))

    def _require_files(self) -> None:
        for name, digest in self.files.items():
            _require(
                _FILE_NAME.fullmatch(name) is not None and name not in {MANIFEST_FILE, BUNDLE_FILE},
                f"files: {name!r} must be the plain name of another file of the package",
            )
            _require(is_digest(digest), f"files: {name!r} needs sha256: and 64 hexadecimal digits")
        _require(len(self.variants) > 0, "variants must name at least one graph")
        for variant in self.variants:
            _require(variant.file in self.files, f"variant {variant.file!r} is missing from files")
        first = self.variants[0]
        _require(
            first == Variant(first.file, "fp32"),
            f"the first variant, {first.file!r}, must be fp32, dynamic and of opset 18",
        )
        names = {variant.file for variant in self.variants}
        _require(len(names) == len(self.variants), "two variants share one file")

    @property
    def bundle_inputs(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The class inputs as a bundle declares them: name and slice shape."""
        return tuple((each.name, each.slice_shape) for each in self.class_inputs)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """Parse a ``manifest.json``: strict JSON, every key known, none missing.

        Raises:
            ManifestError: The text breaks the format.
        """
        from pfm_edge_runtime._manifest_json import decode  # noqa: PLC0415 (it imports this module)

        return decode(data)

    def to_bytes(self) -> bytes:
        """Write the ``manifest.json``: indented by two, a newline at the end, deterministic."""
        from pfm_edge_runtime._manifest_json import encode  # noqa: PLC0415 (it imports this module)

        return encode(self)
