"""`octsod.predict`: pictures and networks in every form that people have them in, and what stays in memory."""

import io
import re
import weakref

import numpy as np
import pytest
from PIL import Image

import octsod
from octsod import predict
from octsod.errors import FileError
from octsod.inference import prediction
from octsod.models.weights import weight_file


@pytest.fixture(scope="module")
def model(weights):
    return octsod.load(weights)


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.fixture
def run_folder(tmp_path, weights):
    """A run's folder as it is before the first validation."""
    (tmp_path / "run" / "weights").mkdir(parents=True)
    (tmp_path / "run" / "weights" / "last.safetensors").write_bytes(weights.read_bytes())
    return tmp_path / "run"


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_a_picture_in_every_form(tmp_path, picture, model):
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    expected = predict(picture, model)
    assert expected.shape == (20, 30) and expected.dtype == np.uint8 and expected.any()
    data = path.read_bytes()
    with open(path, "rb") as file, Image.open(path) as opened:
        forms = [
            path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), file, opened,
            Image.fromarray(picture), np.asarray(opened), np.asfortranarray(picture), picture[::-1][::-1],
        ]  # fmt: skip
        for form in forms:
            np.testing.assert_array_equal(predict(form, model), expected)
        assert not file.closed and opened.size == (30, 20)  # they are their owner's


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_a_pillow_image_is_read_as_its_file_is(tmp_path, picture, model, mode):
    image = Image.fromarray(picture)
    if mode == "I;16":
        image = Image.fromarray(picture[..., 0].astype(np.uint16) * 257)
    elif mode == "PA":
        image = image.convert("P").convert("PA")
    else:
        image = image.convert(mode)
        if mode.endswith("A"):
            image.putalpha(Image.fromarray(picture[..., 1]))
    expected = predict(image, model)
    assert expected.any()
    if mode not in ("PA", "YCbCr", "HSV"):  # of which no lossless file can be written
        image.save(tmp_path / "a.tif")
        np.testing.assert_array_equal(predict(tmp_path / "a.tif", model), expected)


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_pillow_image_is_put_upright(tmp_path, picture, model, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    expected = predict(np.rot90(picture, {3: 2, 6: -1}[orientation]), model)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(predict(image, model), expected)
    np.testing.assert_array_equal(predict(tmp_path / "a.png", model), expected)


def test_grey_and_transparent_arrays(picture, model):
    grey = picture[..., 0]
    np.testing.assert_array_equal(predict(grey, model), predict(np.dstack([grey] * 3), model))
    opaque, clear = (np.dstack([picture, np.full_like(grey, alpha)]) for alpha in (255, 0))
    np.testing.assert_array_equal(predict(opaque, model), predict(picture, model))
    np.testing.assert_array_equal(predict(clear, model), predict(np.full_like(picture, 255), model))


def test_what_is_no_picture_is_refused(tmp_path, picture, model):
    wrong = {
        "is float64 (20, 30, 3)": picture / 255, "is bool (20, 30)": picture[..., 0] > 9, "is a list": [[[1, 2, 3]]],
        "is uint8 (20, 30, 2)": picture[..., :2], "is uint16 (20, 30)": picture[..., 0].astype(np.uint16),
        "is uint8 (1, 20, 30, 3)": picture[None], "is uint8 (0, 30, 3)": picture[:0], "is a NoneType": None,
        "is a int": 3, "is a object": object(),
    }  # fmt: skip
    for words, image in wrong.items():
        with pytest.raises(ValueError) as caught:
            predict(image, model)
        line = str(caught.value)
        assert line.startswith(f"predict: `image` {words}; expected a path, the bytes of a picture file, "), line
        assert len(line) < 300 and "NumPy array of uint8" in line
    path = str(tmp_path / "a.png").encode()
    for image in (b"", path, path * 10_000, bytearray(b"no picture"), io.BytesIO(b"no picture"), io.StringIO("text")):
        with pytest.raises(FileError) as caught:
            predict(image, model)
        assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    Image.fromarray(picture).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:-60])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(FileError, match=r"cut\.png: "):
        predict(image, model)


# --- weights ----------------------------------------------------------------------------------------------------------


def test_weights_by_path(tmp_path, picture, model, weights, run_folder, monkeypatch):
    expected = predict(picture, model)
    read = []

    def load(path):
        read.append(path)
        return octsod.load(path)

    monkeypatch.setattr(prediction, "_networks", prediction._Networks())
    monkeypatch.setattr(prediction, "load", load)
    for _ in range(3):  # a loop over pictures does not read the file for each
        np.testing.assert_array_equal(predict(picture, weights), expected)
        np.testing.assert_array_equal(predict(picture, str(weights)), expected)
    assert read == [weights]
    np.testing.assert_array_equal(predict(picture, run_folder), expected)
    assert read[1:] == [run_folder / "weights" / "last.safetensors"]

    other = octsod.load(weights)  # a changed file is read anew
    other.classifier.weight.data[...] *= -1
    octsod.save(other, run_folder / "weights" / "last.safetensors")
    assert (predict(picture, run_folder) == predict(picture, other)).all() and len(read) == 3
    assert (predict(picture, other) != expected).any()
    octsod.save(model, run_folder / "weights" / "best.safetensors")
    np.testing.assert_array_equal(predict(picture, run_folder), expected)
    assert read[3:] == [run_folder / "weights" / "best.safetensors"]


def test_few_networks_stay_in_memory(tmp_path, picture, weights, monkeypatch):
    networks = prediction._Networks()
    kept = []
    for number in range(prediction.NETWORKS + 3):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(weights.read_bytes())
        kept.append(weakref.ref(networks.of(path)))
    assert [ref() is not None for ref in kept] == [False] * 3 + [True] * prediction.NETWORKS
    assert networks.of(tmp_path / "3.safetensors") is kept[3]()


def test_a_run_folder_stands_for_its_best_weights(run_folder, weights):
    assert weight_file(run_folder) == run_folder / "weights" / "last.safetensors"
    octsod.save(octsod.csnet(0.3), run_folder / "weights" / "best.safetensors")
    assert weight_file(run_folder) == run_folder / "weights" / "best.safetensors"
    assert octsod.load(run_folder).configuration == octsod.csnet(0.3).configuration
    assert weight_file(weights) == weights
    for folder in (run_folder / "weights", run_folder.parent):
        with pytest.raises(FileError, match=r"is no run folder: it has no weights/best\.safetensors or weights/last"):
            octsod.load(folder)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("net.pth.tar", b"PK\3\4rest"), ("net.pth", b"\x80\2\x8a\nl\xfc\x9cF\xf9"), ("net.pt", b"garbage"),
        ("net.PKL", b""), ("net.safetensors", b"PK\3\4rest of a zip"), ("net", b"\x80\4\x95rest of a pickle"),
        ("net.bin", b"\x80\2}q\0."),
    ],
)  # fmt: skip
def test_a_checkpoint_is_to_be_converted(tmp_path, picture, name, start):
    path = tmp_path / name
    path.write_bytes(start)
    for use in (octsod.load, lambda file: predict(picture, file)):
        with pytest.raises(FileError) as caught:
            use(path)
        assert str(caught.value) == (
            f"{path}: is a checkpoint, not a weight file; if it is the authors', `octsod convert {path} "
            "-o net.safetensors --config LAYERS.bin` converts it."
        )


def test_weights_may_have_any_name(tmp_path, picture, model, weights):
    (tmp_path / "w.pth").write_bytes(weights.read_bytes())
    np.testing.assert_array_equal(predict(picture, tmp_path / "w.pth"), predict(picture, model))
    # A header of 640 bytes begins like a pickle, but for the brace.
    (tmp_path / "w").write_bytes((640).to_bytes(8, "little") + b"{" + bytes(639))
    assert weight_file(tmp_path / "w") == tmp_path / "w"


def test_what_is_no_network_is_refused(tmp_path, picture, monkeypatch):
    monkeypatch.setattr(prediction, "_networks", prediction._Networks())
    for name in ("none.safetensors", "long" * 1000, "null\0"):
        with pytest.raises(FileError, match=re.escape(f"{tmp_path / name}"[:50])):
            predict(picture, tmp_path / name)
    with pytest.raises(ValueError, match="`model` is of the architecture 'int'"):
        predict(picture, 3)
    octsod.save(octsod.csnet(0.2, classes=3), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="`model` tells 3 classes"):
        predict(picture, tmp_path / "w.safetensors")
