"""What the loader decides about an image file, one decision a test."""

import builtins
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pfm_edge_runtime import images
from pfm_edge_runtime.errors import BackendUnavailableError, ImageError
from pfm_edge_runtime.images import image_size, load_image

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)


def encoded(image, file_format="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pixels(source, mode="RGB"):
    image = load_image(source, mode)
    assert image.mode == mode
    return np.asarray(image)


def refused(source, mode="RGB"):
    with pytest.raises(ImageError) as caught:
        load_image(source, mode)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestSources:
    def test_path_text_bytes_image_and_array_are_alike(self, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(encoded(Image.fromarray(COLOUR)))
        data = path.read_bytes()
        sources = [path, str(path), data, bytearray(data), memoryview(data)]
        for source in [*sources, Image.fromarray(COLOUR), COLOUR]:
            np.testing.assert_array_equal(pixels(source), COLOUR)

    @pytest.mark.parametrize("file_format", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
    def test_formats(self, file_format):
        flat = Image.new("RGB", (16, 16), (200, 0, 0))
        out = pixels(encoded(flat, file_format)).astype(int)
        assert abs(out - [200, 0, 0]).max() <= 3

    @pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
    def test_grey_arrays(self, shape):
        np.testing.assert_array_equal(pixels(GREY.reshape(shape), "L"), GREY)
        np.testing.assert_array_equal(pixels(GREY.reshape(shape))[:, :, 1], GREY)

    def test_array_views_of_any_stride(self):
        np.testing.assert_array_equal(pixels(COLOUR[::-1, ::2]), COLOUR[::-1, ::2])

    def test_a_pillow_image_is_left_as_it_is(self):
        mine = Image.fromarray(COLOUR)
        out = load_image(mine, "RGB")
        out.putpixel((0, 0), (1, 2, 3))
        np.testing.assert_array_equal(np.asarray(mine), COLOUR)

    def test_an_open_file_image_stays_open(self, tmp_path):
        path = tmp_path / "two.gif"
        frames = [Image.new("L", (4, 4), shade) for shade in (0, 255)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
        with Image.open(path) as mine:
            load_image(mine, "L")
            mine.seek(1)
            assert pixels(mine, "L").max() == 255  # the current frame

    def test_the_first_frame_of_a_file(self):
        frames = [Image.new("L", (4, 4), shade) for shade in (9, 255)]
        data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert (pixels(data, "L") == 9).all()


class TestModes:
    def test_grey_from_colour_is_luma(self):
        np.testing.assert_array_equal(
            pixels(COLOUR, "L"), np.asarray(Image.fromarray(COLOUR).convert("L"))
        )

    def test_one_bit(self):
        bits = Image.fromarray(GREY).convert("1")
        assert set(np.unique(pixels(encoded(bits), "L"))) == {0, 255}

    def test_palette(self):
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 200, 210, 220])
        image.putpixel((1, 0), 1)
        assert pixels(encoded(image)).tolist() == [[[10, 20, 30], [200, 210, 220]]]

    @pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV"])
    def test_other_colour_spaces_go_through_rgb(self, mode):
        image = Image.new("RGB", (4, 4), (250, 20, 30)).convert(mode)
        np.testing.assert_array_equal(pixels(image), np.asarray(image.convert("RGB")))
        np.testing.assert_array_equal(
            pixels(image, "L"), np.asarray(image.convert("RGB").convert("L"))
        )

    @pytest.mark.parametrize("dtype", ["<u2", ">u2"])
    def test_sixteen_bits_are_scaled_not_clipped(self, dtype):
        values = np.array([[0, 128, 129, 257, 32_768, 65_406, 65_407, 65_535]], np.uint16)
        expected = [[0, 0, 1, 1, 128, 254, 255, 255]]
        raw = "I;16" if dtype == "<u2" else "I;16B"
        image = Image.frombytes(raw, (8, 1), values.astype(dtype).tobytes())
        assert pixels(image, "L").tolist() == expected
        data = encoded(Image.fromarray(values))
        assert pixels(data, "L").tolist() == expected

    def test_sixteen_bit_portable_greymap(self):
        data = b"P5 3 1 65535\n" + np.array([0, 32_768, 65_535], ">u2").tobytes()
        assert pixels(data, "L").tolist() == [[0, 128, 255]]

    @pytest.mark.parametrize("value", [-1, 65_536])
    def test_32_bit_integers_beyond_16_are_refused(self, value):
        assert "32-bit pixels" in refused(Image.new("I", (2, 2), value))

    def test_floating_point_is_refused(self):
        assert "no white" in refused(Image.new("F", (2, 2), 0.5))


class TestAlpha:
    def test_transparent_is_white(self):
        colour = np.zeros((1, 3, 4), np.uint8)
        colour[0, :, 3] = [0, 255, 51]
        expected = [255, 0, 204]  # 255 * (1 - alpha)
        assert pixels(colour)[0, :, 0].tolist() == expected
        assert pixels(encoded(Image.fromarray(colour)), "L")[0].tolist() == expected

    def test_grey_with_alpha(self):
        image = Image.fromarray(GREY)
        image.putalpha(Image.fromarray(np.where(GREY > 99, 255, 0).astype(np.uint8)))
        assert image.mode == "LA"
        np.testing.assert_array_equal(pixels(encoded(image), "L"), np.where(GREY > 99, GREY, 255))

    @pytest.mark.parametrize("mode", ["RGBa", "La", "PA"])
    def test_premultiplied_and_palette_alpha(self, mode):
        base = Image.new({"La": "LA", "PA": "PA"}.get(mode, "RGBA"), (2, 2))
        image = base if mode == "PA" else base.convert(mode)
        assert (pixels(image) == 255).all()

    def test_palette_with_one_transparent_entry(self):
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 200, 210, 220])
        image.putpixel((1, 0), 1)
        for transparency in (0, b"\x00\xff"):
            data = encoded(image, transparency=transparency)
            assert pixels(data).tolist() == [[[255] * 3, [200, 210, 220]]]

    @pytest.mark.parametrize(
        ("image", "transparency", "expected"),
        [
            (Image.new("L", (1, 1), 7), 7, 255),
            (Image.new("L", (1, 1), 8), 7, 8),
            (Image.new("RGB", (1, 1), (7, 7, 7)), (7, 7, 7), 255),
            (Image.new("1", (1, 1), 0), 0, 255),
            (Image.fromarray(np.full((1, 1), 700, np.uint16)), 700, 255),
            (Image.fromarray(np.full((1, 1), 701, np.uint16)), 700, 3),
        ],
        ids=["grey", "other-grey", "colour", "bit", "16-bit", "other-16-bit"],
    )
    def test_one_transparent_colour(self, image, transparency, expected):
        assert pixels(encoded(image, transparency=transparency), "L").tolist() == [[expected]]


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_all_eight(self, orientation, file_format):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(Image.fromarray(COLOUR), file_format, exif=exif)
        with Image.open(BytesIO(data)) as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(pixels(data), expected)
        assert expected.shape == ((7, 5, 3) if orientation > 4 else (5, 7, 3))

    def test_an_unknown_orientation_turns_nothing(self):
        exif = Image.Exif()
        exif[0x0112] = 77
        data = encoded(Image.fromarray(COLOUR), exif=exif)
        np.testing.assert_array_equal(pixels(data), COLOUR)

    def test_a_damaged_exif_block_turns_nothing(self):
        data = encoded(Image.fromarray(COLOUR), exif=b"Exif\x00\x00XX*\x00\x08\x00\x00\x00\xff")
        np.testing.assert_array_equal(pixels(data), COLOUR)

    def test_saving_the_result_does_not_turn_it_again(self):
        exif = Image.Exif()
        exif[0x0112] = 6
        once = load_image(encoded(Image.fromarray(COLOUR), exif=exif), "RGB")
        np.testing.assert_array_equal(pixels(encoded(once)), np.asarray(once))


class TestRefusals:
    def test_missing_file(self, tmp_path):
        message = refused(tmp_path / "no.png")
        assert message == f"{tmp_path / 'no.png'}: cannot be opened (No such file or directory)"

    def test_folder(self, tmp_path):
        assert "cannot be opened (Is a directory)" in refused(tmp_path)

    def test_null_byte_in_a_name(self):
        assert "cannot be opened" in refused("a\0.png")

    @pytest.mark.parametrize(
        "data", [b"", b"GIF", b"not an image at all", b"%!PS-Adobe-3.0 EPSF-3.0"]
    )
    def test_not_an_image(self, data):
        assert f"image of {len(data)} bytes: not a readable BMP" in refused(data)

    @pytest.mark.parametrize("file_format", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
    def test_truncated_image(self, file_format, tmp_path):
        noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        path = tmp_path / "cut"
        data = encoded(noise, file_format)
        path.write_bytes(data[: len(data) * 2 // 3])
        message = refused(path)
        assert message.startswith(f"{path}: ")
        assert "damaged image" in message or "not a readable" in message

    @pytest.mark.parametrize("side", [9_460, 60_000], ids=["warned", "refused"])
    @pytest.mark.parametrize("action", ["error", "ignore"])
    def test_decompression_bomb(self, side, action):
        """Whether Pillow warns, raises or is told to keep quiet: refused by our limit."""
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), (b"IDAT", b"")]
        data = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        )
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            assert "more than 89,478,485 pixels" in refused(data)

    def test_large_pillow_images_and_arrays(self, monkeypatch):
        monkeypatch.setattr(images, "MAX_PIXELS", 34)
        assert "more than 34 pixels" in refused(Image.fromarray(COLOUR))
        assert "more than 34 pixels" in refused(COLOUR)

    def test_empty_pillow_image(self):
        assert "0 x 5 pixels is no image" in refused(Image.new("RGB", (0, 5)))

    def test_closed_pillow_image(self, tmp_path):
        image = Image.open(BytesIO(encoded(Image.fromarray(COLOUR))))
        image.close()
        assert "damaged image" in refused(image)

    @pytest.mark.parametrize(
        ("array", "words"),
        [
            (np.full((4, 4), np.nan, np.float32), "float32 with NaN"),
            (np.ones((4, 4, 3)), "float64 is no image: give uint8 [h, w]"),
            (np.ones((4, 4), np.int64), "dtype int64"),
            (np.ones((4, 4), bool), "dtype bool"),
            (np.array([["a"]], object), "dtype object"),
            (np.ones((3, 8, 9), np.uint8), "[3, 8, 9] is no image"),
            (np.ones((4, 4, 2), np.uint8), "[4, 4, 2]"),
            (np.ones((1, 4, 4, 3), np.uint8), "[1, 4, 4, 3]"),
            (np.ones(4, np.uint8), "[4]"),
            (np.array(4, np.uint8), "[]"),
            (np.ones((0, 4), np.uint8), "4 x 0 pixels"),
            (np.ones((4, 0, 3), np.uint8), "0 x 4 pixels"),
        ],
    )
    def test_arrays(self, array, words):
        assert words in refused(array)

    @pytest.mark.parametrize("source", [None, 3, ["a.png"], object()])
    def test_other_types(self, source):
        assert f"{type(source).__name__} is no image" in refused(source)


def test_image_size_reads_the_header_alone(tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(encoded(Image.fromarray(COLOUR))[:60])  # the body is missing
    assert image_size(path) == (7, 5)
    assert image_size(COLOUR) == (7, 5)
    with pytest.raises(ImageError, match="not a readable"):
        image_size(b"no image")


def test_pillow_is_named_when_it_is_missing(monkeypatch):
    real = builtins.__import__

    def without_pillow(name, *args, **kwargs):
        if name.split(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'pfm-edge-runtime\[images\]'"):
        load_image(Path("a.png"), "RGB")


def test_a_pipe_is_refused_without_waiting(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a file"):
        load_image(tmp_path / "pipe.png", "L")
