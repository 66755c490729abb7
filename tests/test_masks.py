"""Masks are understood where their meaning is certain; elsewhere one sentence names the file and what it holds."""

import io

import numpy as np
import pytest
from PIL import Image
from test_data import write_pairs
from test_images import png, saved

import octsod
from octsod.data import FolderDataset, Sample, prepare_pair
from octsod.data.images import prepare, read_mask
from octsod.errors import FileError

DISTANCE = np.hypot(*(np.mgrid[:20, :30] - np.array([9, 14])[:, None, None]))
DISC = DISTANCE < 6
EXPECTED = np.where(DISC, 255, 0)


def palette(array, *colours):
    image = Image.fromarray(array.astype(np.uint8))
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([channel for colour in colours for channel in colour])
    return image


def coloured(*colours):
    """RGB or RGBA: the second colour where the disc is."""
    return Image.fromarray(np.where(DISC[..., None], colours[1], colours[0]).astype(np.uint8))


GREY = [(level, level, level) for level in range(256)]
CERTAIN = {
    "bits": Image.fromarray(DISC),
    "grey": Image.fromarray(EXPECTED.astype(np.uint8)),
    "16 bits": Image.fromarray(np.where(DISC, 65535, 0).astype(np.uint16)),
    "two entries, the first for the object": palette(~DISC, (250, 250, 250), (5, 5, 5)),
    "two dark entries": palette(DISC, (0, 0, 0), (1, 1, 1)),
    "two entries in colour": palette(DISC, (10, 0, 60), (200, 180, 40)),
    "grey palette": palette(np.where(DISC, 255, 0), *GREY),
    "black and one colour of many": palette(np.where(DISC, 3, 0), (0, 0, 0), (9, 9, 9), (0, 128, 0), (0, 0, 128)),
    "black and one colour": coloured((0, 0, 0), (128, 0, 0)),
    "colours": coloured((0, 0, 0), (255, 255, 255)),
    "opaque": coloured((0, 0, 0, 0), (255, 255, 255, 255)),
    "opaque colour": coloured((0, 0, 0, 0), (0, 0, 200, 255)),
}
UNCERTAIN = {
    "0/1": (Image.fromarray(DISC.astype(np.uint8)), "holds 0, 1 and nothing above 128"),
    "0/128": (Image.fromarray(128 * DISC.astype(np.uint8)), "holds 0, 128 and nothing above 128"),
    "many": (Image.fromarray(np.arange(120, dtype=np.uint8).reshape(8, 15)), "holds 0, 1, 2, 3, 4, ..., 119 and"),
    "16 bits of 0/1": (Image.fromarray(DISC.astype(np.uint16)), "holds 0, 1 and nothing above half of 65535"),
    "16 bits of 0/255": (Image.fromarray(EXPECTED.astype(np.uint16)), "holds 0, 255 and nothing above half of 65535"),
    "classes": (
        Image.fromarray((15 * DISC + 255 * np.eye(20, 30, dtype=int) * ~DISC).astype(np.uint8)),
        "holds 0, 15, 255, which look like numbers of classes",
    ),
    "palette of greys": (palette(DISC, *GREY), "holds 0, 1 and nothing above 128"),
    "several colours": (
        palette(DISC + np.eye(20, 30, dtype=int), (0, 0, 0), (128, 0, 0), (224, 224, 192)),
        r"a mask in colours \(\(0, 0, 0\), \(128, 0, 0\), \(224, 224, 192\)\)",
    ),
    "one colour": (palette(DISC, (128, 0, 0), (128, 0, 0), (0, 0, 0)), r"a mask in colours \(\(128, 0, 0\)\)"),
    "opaque black": (coloured((0, 0, 0, 0), (0, 0, 0, 255)), "opaque parts are all black"),
    "cutout": (
        Image.fromarray(np.dstack([np.arange(1800).reshape(20, 30, 3) % 256, EXPECTED]).astype(np.uint8)),
        "a mask in colours",
    ),
    "float": (Image.fromarray(DISC.astype(np.float32)), "a mask of numbers from 0 to 1, whose range is unknown"),
    "an object under no opacity": (coloured((0, 0, 0, 0), (255, 255, 255, 0)), "transparent everywhere, over colours"),
}


@pytest.mark.parametrize("kind", CERTAIN)
def test_what_is_certain_is_understood(tmp_path, kind):
    suffixes = {"png", "tif"} | ({"gif", "bmp"} if CERTAIN[kind].mode in ("1", "L", "P") else set())
    for suffix in suffixes - ({"tif", "gif"} if "entries" in kind else set()):  # they fill a palette up
        CERTAIN[kind].save(tmp_path / f"a.{suffix}")
        np.testing.assert_array_equal(read_mask(tmp_path / f"a.{suffix}"), EXPECTED)
    np.testing.assert_array_equal(read_mask(CERTAIN[kind]), EXPECTED)


@pytest.mark.parametrize("kind", UNCERTAIN)
def test_what_is_uncertain_is_refused(tmp_path, kind):
    image, words = UNCERTAIN[kind]
    path = tmp_path / ("a.tif" if kind == "float" else "a.png")
    image.save(path)
    with pytest.raises(FileError, match=words) as caught:
        read_mask(path)
    assert str(caught.value).startswith(f"{path}: ")
    if kind != "float":
        assert str(caught.value).endswith("write the object as 255 (white) and all else as 0 (black).")


def test_16_bit_colours_near_0_are_not_an_empty_mask(tmp_path):
    (tmp_path / "a.png").write_bytes(png(16, 2, np.repeat(EXPECTED[..., None], 3, axis=2)))
    with pytest.raises(FileError, match="16 bits, all near 0"):
        read_mask(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(png(16, 2, np.repeat(257 * EXPECTED[..., None], 3, axis=2)))
    np.testing.assert_array_equal(read_mask(tmp_path / "b.png"), EXPECTED)


def test_grey_masks_keep_their_values(tmp_path):
    """Soft edges, JPEG's noise, a little colour: as before."""
    soft = np.clip(300 - 40 * DISTANCE, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "a.png", soft)), soft)
    three = np.stack([soft, soft, soft // 16 * 16], axis=2)
    np.testing.assert_allclose(read_mask(saved(tmp_path / "b.png", three)), soft, atol=3)
    assert np.count_nonzero(read_mask(saved(tmp_path / "c.jpg", three, quality=50)) > 128) > 40
    assert not read_mask(saved(tmp_path / "d.png", np.zeros((4, 5), np.uint8))).any()


def test_large_masks_are_read_in_parts(tmp_path, monkeypatch):
    """Parts of a few rows, turned by EXIF, are the same as the whole."""
    monkeypatch.setattr("octsod.data.decoding._PART", 100)
    for kind in CERTAIN:
        exif = Image.Exif()
        exif[0x0112] = 6
        CERTAIN[kind].save(tmp_path / "a.png", exif=exif)
        np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), np.rot90(EXPECTED, -1))


@pytest.fixture(scope="module")
def model():
    octsod.manual_seed(0)
    model = octsod.csnet(0.2)
    model.size = 32
    generator = np.random.default_rng(0)
    for _ in range(20):
        model(octsod.Tensor(np.stack([prepare(generator.integers(0, 256, (40, 40, 3), np.uint8), 32)] * 2)))
    return model


def test_training_and_evaluation_refuse_uncertain_masks(tmp_path, model):
    write_pairs(tmp_path)
    path = tmp_path / "masks" / "b.png"
    saved(path, np.asarray(Image.open(path)) // 255)
    dataset, failures = FolderDataset(tmp_path), []
    with pytest.raises(FileError, match=r"b\.png: is a mask that holds 0, 1 "):
        prepare_pair(dataset[1], 32)
    assert octsod.evaluate(model, tmp_path, 32, on_failure=failures.append).images == 2
    assert [str(error).startswith(f"{path}: ") for error in failures] == [True]


IMAGE = np.zeros((20, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (DISC.astype(np.uint8), "that holds 0, 1 and nothing above 128"),
        (DISC.astype(np.float32), r"that is float32 \(20, 30\)"),
        (EXPECTED, "that is int64"),
        (EXPECTED.astype(np.uint8)[..., None], r"that is uint8 \(20, 30, 1\)"),
        (None, "that is a NoneType"),
        (EXPECTED.astype(np.uint8)[1:], r"\(19, 30\) for the picture cat \(20, 30, 3\)"),
    ],
)
def test_arrays_are_checked_at_the_same_door(mask, words, model):
    sample = Sample("cat", IMAGE, mask)
    for call in (lambda: prepare_pair(sample, 32), lambda: octsod.evaluate(model, [sample], 32)):
        with pytest.raises(ValueError, match=rf"(cat.*)?{words}") as caught:
            call()
        assert "cat" in str(caught.value)


@pytest.mark.parametrize("image", [IMAGE[0], IMAGE.astype(np.float32), IMAGE.tolist(), None])
def test_pictures_of_samples_are_checked_too(image):
    with pytest.raises(ValueError, match=r"prepare_pair: `sample` has a picture cat that is .*; expected uint8"):
        prepare_pair(Sample("cat", image, DISC), 32)


def test_bool_is_certain(model):
    yes, same = (prepare_pair(Sample("", IMAGE, mask), 16)[1] for mask in (DISC, EXPECTED.astype(np.uint8)))
    np.testing.assert_array_equal(yes, same)
    assert octsod.evaluate(model, [Sample("", IMAGE, DISC)], 32).without_object == 0


def test_numbers_of_32_bits(tmp_path):
    Image.fromarray(DISC.astype(np.int32) << 20).save(tmp_path / "a.tif")
    with pytest.raises(FileError, match=r"a\.tif: is a mask of numbers from 0 to 1\.04858e\+06, whose"):
        read_mask(tmp_path / "a.tif")


def test_items_that_are_no_samples(model):
    for item in ((IMAGE, DISC), ("cat", IMAGE, DISC), {"image": IMAGE, "mask": DISC}, None, Image.fromarray(IMAGE)):
        for call in (lambda item=item: prepare_pair(item, 32), lambda item=item: octsod.evaluate(model, [item], 32)):
            with pytest.raises(ValueError, match=r"has an item that is a \w+; expected a `Sample`"):
                call()
    for image in (IMAGE[:0], IMAGE[..., :1], np.dstack([IMAGE, DISC])):
        with pytest.raises(ValueError, match="has a picture cat that is uint8"):
            prepare_pair(Sample("cat", image, np.zeros(image.shape[:2], bool)), 32, np.random.default_rng(0))
    for data in (None, 3, iter([])):
        with pytest.raises(TypeError, match=r"evaluate: `data` is a \w+; expected a data set"):
            octsod.evaluate(model, data)


def test_masks_of_masked_arrays_would_be_lost(model):
    hidden = np.ma.masked_array(EXPECTED.astype(np.uint8), DISC)
    for sample in (Sample("cat", IMAGE, hidden), Sample("cat", np.ma.masked_array(IMAGE, IMAGE == 0), DISC)):
        for call in (lambda s=sample: prepare_pair(s, 32), lambda s=sample: octsod.evaluate(model, [s], 32)):
            with pytest.raises(TypeError, match=r"`.*` cat is a masked array"):
                call()
    with pytest.raises(TypeError, match="predict: `image` is a masked array"):
        octsod.predict(np.ma.masked_array(IMAGE, IMAGE == 0), model)


def test_masks_without_an_object_are_counted(model):
    empty = Sample("", IMAGE, np.zeros((20, 30), np.uint8))
    result = octsod.evaluate(model, [empty, Sample("", IMAGE, DISC), empty], 32)
    assert result.without_object == 2
    assert [picture.object_pixels for picture in result.pictures] == [0, np.count_nonzero(DISC), 0]


def test_bytes_are_the_contents_of_a_file():
    data = io.BytesIO()
    CERTAIN["bits"].save(data, "PNG")
    np.testing.assert_array_equal(read_mask(data.getvalue()), EXPECTED)
