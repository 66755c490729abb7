"""Pictures of every kind are read as they look; preprocessing follows the protocol; faults are one clear sentence."""

import pathlib

import numpy as np
import pytest
from PIL import Image

import octsod
from octsod.errors import FileError, OctsodError
from octsod.images import prepare, read_image, read_mask, resize, write_png
from octsod.prediction import predict

BESIDE = pathlib.Path(__file__).parents[2]
GOLDEN = BESIDE / "shared" / "golden" / "csnet_L_x1_predict.npz"
ECSSD = BESIDE / "data" / "ECSSD" / "images"


@pytest.fixture
def picture():
    """(20, 30, 3) uint8, unlike itself under every flip and rotation."""
    y, x = np.mgrid[:20, :30]
    return np.stack([8 * x, 12 * y, 4 * x + 5 * y], axis=2).astype(np.uint8)


def saved(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def test_rgb(tmp_path, picture):
    read = read_image(saved(tmp_path / "a.png", picture))
    assert read.dtype == np.uint8 and read.flags.writeable
    np.testing.assert_array_equal(read, picture)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, picture, orientation):
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", picture, exif=exif)
    np.testing.assert_array_equal(read_image(path), upright(picture))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_ignored(tmp_path, picture):
    path = saved(tmp_path / "a.png", picture, exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    np.testing.assert_array_equal(read_image(path), picture)


def test_grey_and_black_and_white(tmp_path, picture):
    grey = picture[..., 0]
    np.testing.assert_array_equal(read_image(saved(tmp_path / "a.png", grey)), np.stack([grey] * 3, axis=2))
    bits = read_image(saved(tmp_path / "b.png", grey, "1"))
    assert set(np.unique(bits)) == {0, 255}


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257], [1000, 40000, 65406, 65535]], np.uint16)
    read = read_image(saved(tmp_path / f"a.{suffix}", values))
    np.testing.assert_array_equal(read[..., 0], np.round(values / 257).astype(np.uint8))
    np.testing.assert_array_equal(read_mask(tmp_path / f"a.{suffix}"), read[..., 0])


def test_transparent_shows_white(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = 0, 51, 255
    expected = [[255, 255, 255], [244, 204, 204], [200, 0, 0]]
    np.testing.assert_array_equal(read_image(saved(tmp_path / "a.png", rgba))[0], expected)
    grey = Image.fromarray(np.full((2, 2), 9, np.uint8))
    grey.putalpha(0)
    grey.save(tmp_path / "b.png")
    assert (read_image(tmp_path / "b.png") == 255).all()
    assert (read_mask(tmp_path / "b.png") == 0).all()


def test_palette(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0], [[10, 20, 30], [200, 100, 50]])
    image.save(tmp_path / "b.png", transparency=0)
    np.testing.assert_array_equal(read_image(tmp_path / "b.png")[0], [[255, 255, 255], [200, 100, 50]])


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red = read_image(tmp_path / "a.jpg").astype(int)
    assert (np.abs(red - [255, 0, 0]) < 4).all()


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.gif"), np.full((4, 4, 3), [255, 0, 0]))


def broken_files(folder, picture):
    saved(folder / "whole.jpg", picture)
    saved(folder / "whole.png", picture)
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:-40])
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:60])
    damaged = bytearray((folder / "whole.png").read_bytes())
    damaged[41:43] = b"\0\0"  # the header of the compressed pixels
    (folder / "damaged.png").write_bytes(damaged)
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "folder.png").mkdir()
    saved(folder / "float.tif", picture[..., 0].astype(np.float32))
    saved(folder / "wide.tif", np.full((2, 2), 1 << 20, np.int32))
    return ("cut.jpg", "cut.png", "damaged.png", "text.jpg", "empty.png", "folder.png", "float.tif", "wide.tif", "none")


def test_faults_name_the_file(tmp_path, picture):
    for name in broken_files(tmp_path, picture):
        with pytest.raises(FileError) as caught:
            read_image(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / name}: ") and message.endswith(".") and "\n" not in message


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("limit", [100, 400])  # far above Pillow's limit, where it raises, and above, where it warns
def test_decompression_bomb(tmp_path, picture, monkeypatch, limit):
    path = saved(tmp_path / "a.png", picture)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(FileError, match=r"a\.png: .*bomb"):
        read_image(path)


def bilinear(size, out_size):
    """The matrix (out_size, size) of the protocol's resize, border mirrored."""
    matrix = np.zeros((out_size, size))
    mirrored = np.pad(np.arange(size), 1, "reflect" if size > 1 else "edge")
    for i in range(out_size):
        at = (i + 0.5) * size / out_size - 0.5
        low = int(np.floor(at))
        for k, share in ((low, low + 1 - at), (low + 1, at - low)):
            matrix[i, mirrored[k + 1]] += share
    return matrix


@pytest.mark.parametrize("size", [(20, 30), (7, 11), (33, 64), (1, 1)])
def test_resize(picture, size):
    planes = picture.transpose(2, 0, 1)
    out = resize(planes, size)
    assert out.shape == (3, *size) and out.dtype == np.float32
    expected = bilinear(20, size[0]) @ planes.astype(float) @ bilinear(30, size[1]).T
    np.testing.assert_allclose(out, expected, atol=1e-3)
    np.testing.assert_array_equal(resize(planes[1, :, ::-1], size), resize(planes[1, :, ::-1].copy(), size))


def test_resize_faults(picture):
    for array, size in ((picture[0, 0], (2, 2)), (picture[:0], (2, 2)), (picture, (0, 2))):
        with pytest.raises(ValueError, match="resize"):
            resize(array, size)


@pytest.mark.parametrize("size", [32, 16, 50])
def test_prepare(picture, size):
    x = prepare(picture, size)
    assert x.shape == (3, size, size) and x.dtype == np.float32
    planes = resize(picture.transpose(2, 0, 1), (size, size)).astype(float) / 255
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    np.testing.assert_allclose(x, (planes - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1)), atol=2e-6)
    np.testing.assert_array_equal(prepare(picture[:, ::-1], size), prepare(picture[:, ::-1].copy(), size))


def test_prepare_faults(picture):
    for wrong in (picture[..., 0], picture / 255, picture.tolist(), picture[:0]):
        with pytest.raises(ValueError, match="prepare: `image`"):
            prepare(wrong, 32)
    with pytest.raises(ValueError, match="prepare: `size`"):
        prepare(picture, 0)


@pytest.mark.skipif(not (GOLDEN.exists() and ECSSD.exists()), reason="golden file or ECSSD is not beside the checkout")
def test_prepared_pictures_are_the_golden_ones():
    with np.load(GOLDEN) as golden:
        for name, x in zip(golden["images"], golden["x"], strict=True):
            np.testing.assert_allclose(prepare(read_image(ECSSD / str(name))), x, atol=2e-6)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_write_png(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    write_png(tmp_path / "a.png", array)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "a.png")), array)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_write_png_fault(tmp_path):
    with pytest.raises(FileError, match="none"):
        write_png(tmp_path / "none" / "a.png", np.zeros((2, 2), np.uint8))


def test_predict(tmp_path, picture):
    octsod.manual_seed(0)
    model = octsod.csnet(0.2)
    with pytest.raises(OctsodError, match="untrained"):
        predict(picture, model, 32)
    x = prepare(picture, 32)[None]
    for _ in range(30):
        model(octsod.Tensor(x))  # running statistics come near the picture's own
    salience = predict(picture, model, 32)
    assert salience.shape == (20, 30) and salience.dtype == np.uint8 and model.training
    path = saved(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(predict(path, model, 32), salience)
    np.testing.assert_array_equal(predict(str(path), model, 32), salience)
    logits = model.eval()(octsod.Tensor(x)).numpy()[0, 0].astype(float)
    expected = bilinear(32, 20) @ (1 / (1 + np.exp(-logits))) @ bilinear(32, 30).T * 255
    assert np.abs(salience - np.floor(expected)).max() <= 1
    with pytest.raises(ValueError, match="image"):
        predict(picture[..., 0], model, 32)
    with pytest.raises(ValueError, match="16"):
        predict(picture, model, 40)
