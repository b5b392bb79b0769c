"""The preprocessor's own contract; that it equals timm is tests/conformance's matter."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pfm_edge_runtime.errors import ImageError, ManifestError
from pfm_edge_runtime.manifest import ImageInput, Preprocessing
from pfm_edge_runtime.preprocessing import Preprocessor


def make(size=(8, 8), mode="L", **changes):
    channels = 1 if mode == "L" else 3
    values = {
        "mode": mode,
        "resize": min(size),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": (0.5,) * channels,
        "std": (0.25,) * channels,
    }
    spec = Preprocessing(**(values | changes))
    return Preprocessor(spec, ImageInput("image", (channels, *size)))


def test_values_worked_out_by_hand():
    pixels = np.full((8, 8), 51, np.uint8)
    pixels[0, 3] = 255
    out = make()(pixels)
    assert out.shape == (1, 8, 8)
    assert out.dtype == np.float32
    assert out[0, 0, 3] == np.float32(2.0)  # (1 - 0.5) / 0.25
    assert out[0, 7, 7] == pytest.approx(-1.2)  # (0.2 - 0.5) / 0.25


def test_channels_come_first_and_keep_their_own_statistics():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :, 2] = 255
    out = make(mode="RGB", mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))(pixels)
    assert out[:, 4, 4].tolist() == [0.0, -1.0, 0.0]


def test_the_crop_is_centred():
    pixels = np.zeros((8, 20), np.uint8)
    pixels[:, 6:14] = 255
    assert make(mean=(0.0,), std=(1.0,))(pixels).min() == 1.0


def test_a_batch_holds_what_single_calls_give():
    rng = np.random.default_rng(0)
    sources = [rng.integers(0, 256, (size, 9), dtype=np.uint8) for size in (5, 8, 30)]
    preprocess = make()
    batch = preprocess.batch(iter(sources))
    assert batch.shape == (3, 1, 8, 8)
    np.testing.assert_array_equal(batch, np.stack([preprocess(each) for each in sources]))


def test_an_empty_batch_has_a_shape():
    assert make((16, 24), mode="RGB").batch([]).shape == (0, 3, 16, 24)


def test_mode_and_shape_are_the_models():
    preprocess = make((16, 24), mode="RGB")
    assert preprocess.mode == "RGB"
    assert preprocess.shape == (3, 16, 24)


def test_threads_may_share_one():
    sources = [np.full((9, 7), value, np.uint8) for value in range(64)]
    preprocess = make()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(preprocess, sources))
    np.testing.assert_array_equal(np.stack(together), preprocess.batch(sources))


def test_the_first_bad_image_of_a_batch_is_named():
    with pytest.raises(ImageError, match=r"missing\.png: cannot be opened"):
        make().batch([np.zeros((8, 8), np.uint8), "missing.png"])


def test_an_elongated_image_is_refused_before_it_is_made():
    with pytest.raises(ImageError, match="1 x 100000 pixels is too elongated") as caught:
        make((224, 224))(np.zeros((100_000, 1), np.uint8))
    assert "\n" not in str(caught.value)


def test_channels_must_match_the_statistics():
    spec = Preprocessing("L", 8, "bicubic", 1.0, "center", (0.5,), (0.5,))
    with pytest.raises(ManifestError, match="3 channels"):
        Preprocessor(spec, ImageInput("image", (3, 8, 8)))


def test_resize_must_fit_crop_pct_where_the_input_is_not_square():
    assert make((16, 24), resize=32, crop_pct=0.5).shape == (1, 16, 24)
    with pytest.raises(ManifestError, match=r"resize 16 contradicts crop_pct 0\.5"):
        make((16, 24), resize=16, crop_pct=0.5)


def test_a_uint8_input_gets_the_pixels_that_the_other_kind_is_computed_from():
    rng = np.random.default_rng(0)
    sources = [rng.integers(0, 256, (size, 40, 3), dtype=np.uint8) for size in (9, 24, 50)]
    spec = Preprocessing("RGB", 20, "bicubic", 0.8, "center", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    pixels = Preprocessor(spec, ImageInput("image", (3, 16, 16), "uint8"))
    out = pixels.batch(sources)
    assert out.dtype == pixels(sources[0]).dtype == np.uint8
    assert out.flags.c_contiguous
    mean, std = (np.array(each, np.float32)[:, None, None] for each in (spec.mean, spec.std))
    values = (out.astype(np.float32) / np.float32(255) - mean) / std
    floats = Preprocessor(spec, ImageInput("image", (3, 16, 16))).batch(sources)
    np.testing.assert_array_equal(values, floats)
