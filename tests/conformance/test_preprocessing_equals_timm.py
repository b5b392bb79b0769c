"""timm's evaluation transform and ours, on the same loaded image: equal bit for bit."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data import create_transform

from pfm_edge_runtime.images import load_image
from pfm_edge_runtime.manifest import ImageInput, Preprocessing
from pfm_edge_runtime.preprocessing import Preprocessor

STATISTICS = {
    "L": ((0.2860,), (0.3530,)),
    "RGB": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
SIZES = [  # height, width of the image
    *[(1, 1), (1, 2), (2, 1), (1, 7), (7, 1), (1, 61), (61, 1), (3, 200), (200, 3)],
    *[(8, 8), (28, 28), (64, 64), (97, 97), (224, 224), (255, 256), (256, 255), (257, 256)],
    *[(333, 500), (480, 640), (79, 81), (101, 100), (225, 223), (600, 37)],
]
SQUARE = [(8, 8), (70, 70), (224, 224)]
OBLONG = [(32, 48), (48, 32), (224, 112), (70, 71), (16, 300)]


def both(size, crop_pct, crop_mode, interpolation, mode):
    """timm's transform and ours, for a model of one input size."""
    mean, std = STATISTICS[mode]
    theirs = create_transform(
        (len(mean), *size),
        interpolation=interpolation,
        mean=mean,
        std=std,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
    )
    spec = Preprocessing(
        mode=mode,
        resize=math.floor(min(size) / crop_pct),
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        mean=mean,
        std=std,
    )
    return theirs, Preprocessor(spec, ImageInput("image", (len(mean), *size)))


def picture(height, width, mode):
    """Noise over a gradient: no symmetry that would hide a shift by one pixel."""
    rng = np.random.default_rng(height * 10_007 + width)
    gradient = np.linspace(0, 200, height * width).reshape(height, width, 1)
    noise = rng.integers(0, 56, (height, width, 3))
    return load_image((gradient + noise).astype(np.uint8), mode)


def assert_equal(theirs, ours, image):
    expected = theirs(image).numpy()
    actual = ours(image)
    assert actual.dtype == expected.dtype == np.float32
    assert actual.flags.c_contiguous
    np.testing.assert_array_equal(actual, expected, strict=True)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("size", [*SQUARE, *OBLONG], ids=str)
def test_sizes_and_aspect_ratios(size, crop_mode, mode):
    for crop_pct in (0.875, 1.0):
        theirs, ours = both(size, crop_pct, crop_mode, "bicubic", mode)
        for height, width in SIZES:
            assert_equal(theirs, ours, picture(height, width, mode))


@pytest.mark.parametrize("size", [(70, 70), (32, 48)], ids=str)
@pytest.mark.parametrize(
    "interpolation", ["bicubic", "bilinear", "box", "hamming", "lanczos", "nearest"]
)
def test_interpolations(interpolation, size):
    theirs, ours = both(size, 0.9, "center", interpolation, "RGB")
    for height, width in [(28, 28), (97, 61), (61, 97), (300, 299)]:
        assert_equal(theirs, ours, picture(height, width, "RGB"))


@pytest.mark.parametrize("crop_pct", [0.1, 0.5, 0.79, 0.899, 0.9, 0.95, 0.965, 0.999])
def test_crop_shares(crop_pct):
    for size in [(8, 8), (70, 70), (33, 47)]:
        theirs, ours = both(size, crop_pct, "center", "bilinear", "L")
        for height, width in [(50, 50), (51, 90), (90, 51), (8, 9)]:
            assert_equal(theirs, ours, picture(height, width, "L"))


def test_every_pixel_value_normalises_alike():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = load_image(np.stack([every, every.T, every[::-1]], axis=-1), "RGB")
    theirs, ours = both((16, 16), 1.0, "center", "bicubic", "RGB")
    assert_equal(theirs, ours, image)


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.floats(0.2, 1.0),
    st.sampled_from(["center", "squash"]),
)
def test_any_size(image_size, input_size, crop_pct, crop_mode):
    theirs, ours = both(input_size, crop_pct, crop_mode, "bilinear", "L")
    assert_equal(theirs, ours, picture(*image_size, "L"))


@pytest.mark.parametrize("size", [8, 9, 70])
@pytest.mark.parametrize("enlarge", [1.25, 1.4, 2.0])
def test_a_crop_larger_than_the_resized_image_is_padded(size, enlarge):
    mean, std = STATISTICS["L"]
    theirs = create_transform((1, size, size), mean=mean, std=std, crop_pct=enlarge)
    resize = math.floor(size / enlarge)
    spec = Preprocessing("L", resize, "bilinear", 1.0, "center", mean, std)
    ours = Preprocessor(spec, ImageInput("image", (1, size, size)))
    for height, width in [(50, 50), (31, 52), (52, 31), (9, 3)]:
        assert_equal(theirs, ours, picture(height, width, "L"))
