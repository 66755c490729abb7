"""Pictures of every kind are read as they look; preprocessing follows the protocol; faults are one clear sentence."""

import io
import os
import pathlib
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

import octsod
from octsod.data import Sample, prepare_pair
from octsod.data.images import prepare, read_image, read_mask, resize, write_png
from octsod.errors import FileError, OctsodError
from octsod.inference.prediction import predict

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


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, picture, orientation, suffix):
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
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    path = saved(tmp_path / f"a.{suffix}", picture, exif=exif, **options)
    np.testing.assert_allclose(read_image(path), upright(picture), atol=4 if suffix == "jpg" else 0)


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


def png(bit_depth, colour_type, samples):
    """A PNG of what Pillow can read but not write. samples: (H, W, bands)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bit_depth, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_colours(tmp_path):
    values = np.array([[[0, 0x8000, 0xFFFF], [0x1234, 0x0100, 0xFEDC]]])
    (tmp_path / "a.png").write_bytes(png(16, 2, values))
    read = read_image(tmp_path / "a.png").astype(int)
    assert np.abs(read - values / 257).max() <= 1
    opacity = np.array([[[0xFFFF], [0]]])
    (tmp_path / "b.png").write_bytes(png(16, 6, np.concatenate([values, opacity], 2)))
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), [[read[0, 0], [255, 255, 255]]])


def test_palette(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 0])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "a.png")
    colours = [[10, 20, 30], [200, 100, 50], [0, 0, 0]]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0], colours)
    image.save(tmp_path / "b.png", transparency=0)
    np.testing.assert_array_equal(read_image(tmp_path / "b.png")[0], [[255, 255, 255], *colours[1:]])
    image.save(tmp_path / "c.png", transparency=b"\xff\x00\xcc")  # an opacity per colour
    np.testing.assert_array_equal(read_image(tmp_path / "c.png")[0], [colours[0], [255, 255, 255], [51, 51, 51]])
    image.save(tmp_path / "d.gif", transparency=1)
    np.testing.assert_array_equal(read_image(tmp_path / "d.gif")[0], [colours[0], [255, 255, 255], colours[2]])


def test_one_transparent_colour(tmp_path):
    two = Image.new("RGB", (2, 1), (9, 8, 7))
    two.putpixel((0, 0), (1, 2, 3))
    two.save(tmp_path / "a.png", transparency=(1, 2, 3))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), [[[255, 255, 255], [9, 8, 7]]])


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path, suffix):
    """Adobe's JPEGs, like which Pillow writes, hold the complements; TIFFs do not."""
    path = tmp_path / f"a.{suffix}"
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(path, quality=100)
    assert (b"Adobe" in path.read_bytes()) == (suffix == "jpg")
    red = read_image(path).astype(int)
    assert (np.abs(red - [255, 0, 0]) < 4).all()


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert Image.open(tmp_path / f"a.{suffix}").n_frames == 2
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), np.full((4, 4, 3), [255, 0, 0]))


def swapped_profile():
    """An ICC profile of colours whose red is sRGB's green, and the other way round."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"----").replace(b"gXYZ", b"rXYZ").replace(b"----", b"gXYZ")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_colours_are_converted_by_their_profile(tmp_path, suffix):
    path, options = tmp_path / f"a.{suffix}", {"quality": 100}
    Image.new("RGB", (8, 8), (255, 0, 0)).save(path, icc_profile=swapped_profile(), **options)
    assert (np.abs(read_image(path).astype(int) - [0, 255, 0]) < 4).all()
    Image.new("RGB", (8, 8), (200, 100, 0)).save(
        path, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), **options
    )
    assert (np.abs(read_image(path).astype(int) - [200, 100, 0]) < 4).all()


def test_profiles_of_palettes_and_of_transparent_pictures(tmp_path):
    see_through = Image.new("RGBA", (4, 4), (255, 0, 0, 51))
    see_through.save(tmp_path / "a.png", icc_profile=swapped_profile())
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.full((4, 4, 3), [204, 255, 204]))
    Image.new("RGB", (4, 4), "red").convert("P").save(tmp_path / "b.png", icc_profile=swapped_profile())
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), np.full((4, 4, 3), [0, 255, 0]))


def test_useless_profiles_are_ignored(tmp_path, picture):
    for profile in (b"no profile", swapped_profile()[:200]):
        path = saved(tmp_path / "a.png", picture, icc_profile=profile)
        np.testing.assert_array_equal(read_image(path), picture)
    path = saved(tmp_path / "a.png", picture[..., 0], icc_profile=swapped_profile())  # for colours, but grey
    np.testing.assert_array_equal(read_image(path)[..., 1], picture[..., 0])
    np.testing.assert_array_equal(read_mask(path), picture[..., 0])
    saved(tmp_path / "whole.png", picture, icc_profile=swapped_profile())
    (tmp_path / "a.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-60])
    with pytest.raises(FileError, match=r"a\.png: "):
        read_image(tmp_path / "a.png")


def test_binary_files(tmp_path, picture):
    data = saved(tmp_path / "a.png", picture).read_bytes()
    np.testing.assert_array_equal(read_image(io.BytesIO(data)), picture)
    with open(tmp_path / "a.png", "rb") as file:
        np.testing.assert_array_equal(read_image(file), picture)
        assert not file.closed
    reader, writer = os.pipe()  # cannot be rewound
    os.write(writer, data)
    os.close(writer)
    with open(reader, "rb") as pipe:
        np.testing.assert_array_equal(read_image(pipe), picture)
    for rest in (b"", b"not a picture", data[:60]):
        with pytest.raises(FileError, match=r"^<file>: "):
            read_image(io.BytesIO(rest))


def tiff(bands):
    """A TIFF of 2 x 2 pixels with so many bands of 8 bits."""
    pixels = bytes(range(4 * bands))
    tags = [(256, 2), (257, 2), (258, 8), (259, 1), (262, 1), (273, 8), (277, bands), (278, 2), (279, len(pixels))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


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
    (folder / "bands.tif").write_bytes(tiff(7))
    (folder / "null.png").write_bytes(png(16, 2, np.zeros((0, 4, 3))))
    return (
        "cut.jpg", "cut.png", "damaged.png", "text.jpg", "empty.png", "folder.png", "float.tif", "wide.tif",
        "bands.tif", "null.png", "none",
    )  # fmt: skip


def test_faults_name_the_file(tmp_path, picture):
    for name in broken_files(tmp_path, picture):
        with pytest.raises(FileError) as caught:
            read_image(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / name}: ") and message.endswith(".") and "\n" not in message


def test_an_unreadable_file_is_named(tmp_path, picture, monkeypatch):
    path = saved(tmp_path / "a.png", picture)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)  # a mode that forbids reading does not stop root
    with pytest.raises(FileError, match=r"a\.png: .*Permission denied\.$"):
        read_image(path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow fewer names")
@pytest.mark.parametrize("name", [b"two\nlines", b"a b%s{}'\".png", b"\xff\xfe.png", "\u00fc\u732b".encode(), b"-o"])
def test_odd_names(tmp_path, picture, name):
    path = tmp_path / os.fsdecode(name)
    write_png(path, picture)
    np.testing.assert_array_equal(read_image(path), picture)


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
    for wrong in (picture[..., 0], picture[..., :2], picture / 255, picture.tolist(), picture[:0]):
        with pytest.raises(ValueError, match=r"prepare: `image` .*; expected uint8 \(H, W, 3\)"):
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


def test_write_png_to_a_binary_file(picture):
    class Parts(io.BytesIO):  # as standard output is with PYTHONUNBUFFERED
        def write(self, data):
            return super().write(data[:100])

    file = Parts()
    write_png(file, picture)
    np.testing.assert_array_equal(read_image(io.BytesIO(file.getvalue())), picture)


def test_write_png_to_the_longest_name(tmp_path, picture):
    path = tmp_path / ("a" * 251 + ".png")
    write_png(path, picture)
    np.testing.assert_array_equal(read_image(path), picture)


def test_write_png_faults(tmp_path):
    black = np.zeros((2, 2), np.uint8)
    with pytest.raises(FileError, match=r"none.a\.png: cannot be written: No such file or directory\.$"):
        write_png(tmp_path / "none" / "a.png", black)
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"file.a\.png: cannot be written: Not a directory\.$"):
        write_png(tmp_path / "file" / "a.png", black)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match=r"folder: cannot be written: "):
        write_png(tmp_path / "folder", black)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    with open(tmp_path / "file", "rb") as unwritable, pytest.raises(FileError, match="file: cannot be written: "):
        write_png(unwritable, black)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["fsync", "replace", "write"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, picture, monkeypatch, error, step):
    before = saved(tmp_path / "a.png", picture).read_bytes()

    def fail(*_):
        raise error

    if step == "write":
        monkeypatch.setattr("os.fdopen", lambda *a: Failing(io.FileIO(*a), error))
    else:
        monkeypatch.setattr(f"os.{step}", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else FileError) as caught:
        write_png(tmp_path / "a.png", picture[::-1])
    if isinstance(error, OSError):
        assert str(caught.value) == f"{tmp_path / 'a.png'}: cannot be written: No space left on device."
    assert (tmp_path / "a.png").read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


class Failing(io.BufferedWriter):
    """Writes half of what it is given to the disk, then fails."""

    def __init__(self, raw, error):
        super().__init__(raw)
        self.error = error

    def write(self, data):
        super().write(data[: len(data) // 2])
        self.flush()
        raise self.error


def test_new_files_have_the_usual_permissions(tmp_path, picture):
    write_png(tmp_path / "a.png", picture)
    (tmp_path / "b.png").touch()
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "b.png").stat().st_mode


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
    np.testing.assert_array_equal(predict(io.BytesIO(path.read_bytes()), model, 32), salience)
    logits = model.eval()(octsod.Tensor(x)).numpy()[0, 0].astype(float)
    expected = bilinear(32, 20) @ (1 / (1 + np.exp(-logits))) @ bilinear(32, 30).T * 255
    assert np.abs(salience - np.floor(expected)).max() <= 1
    with pytest.raises(ValueError, match="16"):
        predict(picture, model, 40)


def test_arrays_of_other_kinds(tmp_path):
    """What a mask hides would count: refused. Matrices and mapped files are arrays like others."""
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    salience = image[..., 0] // 128 * np.uint8(255)
    model = octsod.csnet(0.2)
    for call in (
        lambda a, s: resize(a[..., 0], (8, 9)), lambda a, s: prepare(a, 32), lambda a, s: octsod.predict(a, model, 32),
        octsod.pictures.overlay, octsod.pictures.cutout, lambda a, s: octsod.pictures.object_box(s),
        lambda a, s: prepare_pair(Sample("a", a, s), 32)[1], lambda a, s: prepare_pair(Sample("a", image, s), 32)[1],
    ):  # fmt: skip
        with pytest.raises(TypeError, match="is a masked array; expected one without a mask"):
            call(np.ma.masked_array(image, image > 9), np.ma.masked_array(salience, salience > 9))
    matrix = salience.view(np.matrix)
    np.testing.assert_array_equal(resize(matrix, (8, 9)), resize(salience, (8, 9)))
    pairs = [prepare_pair(Sample("a", image, mask), 32)[1] for mask in (matrix, salience)]
    np.testing.assert_array_equal(*pairs)
    image.tofile(tmp_path / "raw")
    mapped = np.memmap(tmp_path / "raw", np.uint8, "r", shape=image.shape)
    np.testing.assert_array_equal(prepare(mapped, 32), prepare(image, 32))
    box = octsod.pictures.object_box(matrix)
    assert box == octsod.pictures.object_box(salience) is not None
    cut = octsod.pictures.cutout(mapped, matrix)
    assert type(cut) is np.ndarray and np.array_equal(cut, octsod.pictures.cutout(image, salience))
