"""Files that name themselves pictures start no other program, fill no memory and take no time; each is a FileError."""

import contextlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageCms, PngImagePlugin
from test_images import saved, swapped_profile

from octsod.data import decoding
from octsod.data.formats import formats
from octsod.data.images import read_image, read_mask
from octsod.errors import FileError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(boom) print\n%%EOF\n"


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width, height, *others, data=b""):
    """A PNG file whose header tells this size, whatever its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(others) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def refused(path):
    with pytest.raises(FileError) as caught:
        read_image(path)
    for link in (caught.value.__cause__, caught.value.__context__):
        assert link is None  # its traceback would keep the pixels
    return str(caught.value)


@pytest.mark.parametrize("name", ["x.jpg", "x.eps"])
def test_ghostscript_is_never_started(tmp_path, monkeypatch, name):
    def started(*arguments, **options):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    (tmp_path / name).write_bytes(EPS)
    assert f"{name}: is not a picture in a format that can be read (JPEG, PNG, " in refused(tmp_path / name)
    with open(tmp_path / name, "rb") as file:
        refused(file)


@pytest.mark.filterwarnings("ignore:.* is deprecated")
def test_only_formats_of_photographs_are_opened():
    Image.init()
    image, refusals = Image.new("RGB", (8, 8), (9, 9, 9)), 0
    for kind in sorted(set(Image.SAVE) - {"MPO"}):
        file = io.BytesIO()
        try:
            image.save(file, kind)
        except Exception:  # a format for other modes, or one that Pillow was built without
            continue
        if kind in formats():
            np.testing.assert_allclose(read_image(file), np.full((8, 8, 3), 9), atol=3)
        else:
            assert "is not a picture in a format" in refused(file)
            refusals += 1
    assert refusals > 5


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_named_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "d.jpg")
    assert "is a named pipe; expected a regular file" in refused(tmp_path / "d.jpg")
    assert refused("/dev/zero").startswith("/dev/zero: is a device")


def test_bombs_are_refused_before_they_are_decoded(tmp_path):
    bomb = tmp_path / "a.png"
    bomb.write_bytes(png_of(60000, 60000))
    words = "a.png: has 60000x60000 pixels, which is more than 250,000,000, the limit against decompression bombs; "
    assert refused(bomb).endswith(words + "a larger limit (--max-pixels on the command line) reads it.")
    with pytest.raises(FileError, match="decompression bombs"):
        read_mask(bomb)
    bomb.write_bytes(png_of(2_000_000, 1))
    assert "a side of at most 1,000,000" in refused(bomb)
    header = struct.pack("<IIIIiiHHIIiiII", 0, 0, 1078, 40, 5000, 5000, 1, 8, 1, 0, 0, 0, 256, 0)
    bomb.write_bytes(b"BM" + header + bytes(1100))
    assert "5000x5000 pixels, which is more than 16,000,000" in refused(bomb)  # run lengths are decoded in Python
    bomb.write_bytes(b"P3 2001 2000 255\n1 1 1")
    assert "2001x2000 pixels, which is more than 4,000,000" in refused(bomb)  # and so are numbers in text
    bomb.write_bytes(b"P6\n#" + bytes(100_000) + b"\n2 2 255\n" + bytes(12))
    assert "a header of over 65,536 bytes" in refused(bomb)
    bomb.write_bytes(b"P6\n# by hand\n2 2 255\n" + bytes(12))
    assert read_image(bomb).shape == (2, 2, 3)


def test_a_tiff_of_a_great_many_parts(tmp_path):
    count = 100_001
    entries = ((256, [1]), (257, [count]), (258, [8]), (259, [1]), (262, [1]), (273, None), (277, [1]), (278, [1]))
    start = 8 + 2 + 12 * len(entries) + 4
    tags = [struct.pack("<HHII", tag, 4, *((1, *value) if value else (count, start))) for tag, value in entries]
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + b"".join(tags) + bytes(4)
    (tmp_path / "a.tif").write_bytes(head + struct.pack("<I", 8) * count)
    assert "is kept in 100,001 parts" in refused(tmp_path / "a.tif")


@pytest.mark.parametrize("progressive", [True, False])
def test_a_large_picture_needs_a_large_file(tmp_path, progressive):
    """Of a JPEG that ends early, all the rest would be made up."""
    path = tmp_path / "a.jpg"
    Image.effect_noise((64, 64), 60).save(path, progressive=progressive)
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 3800, 65500)
    path.write_bytes(data)
    assert "bytes, too few for 65500x3800 pixels" in refused(path)
    Image.new("1", (8000, 4000)).save(tmp_path / "a.png")  # however little black and white takes
    assert (tmp_path / "a.png").stat().st_size < 8000
    assert not read_mask(tmp_path / "a.png").any()


def test_the_limit_is_an_argument_and_not_that_of_pillow(tmp_path, monkeypatch):
    picture = np.arange(1800, dtype=np.int64).astype(np.uint8).reshape(20, 30, 3)
    path = saved(tmp_path / "a.png", picture)
    opened = Image.open(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # far below what is read
    np.testing.assert_array_equal(read_image(path), picture)
    np.testing.assert_array_equal(read_image(path, limit=600), picture)
    for read in (read_image, read_mask):
        with pytest.raises(FileError, match="has 30x20 pixels, which is more than 599"):
            read(path, limit=599)
        with pytest.raises(FileError, match="more than 599"):
            read(opened, limit=599)
        with pytest.raises(ValueError, match=f"{read.__name__}: `limit` is 0"):
            read(path, limit=0)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_large_pictures_are_converted_in_parts(tmp_path, monkeypatch):
    """A few rows at a time, in whatever way they are turned: as all at once."""
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (40, 30, 4), np.uint8)
    kinds = {"RGB": {}, "RGBA": {}, "L": {}, "P": {"transparency": 3}, "LA": {}, "1": {}}
    for orientation in range(1, 9):
        for mode, options in kinds.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            profile = {"icc_profile": swapped_profile()} if mode in ("RGB", "RGBA") else {}
            path = tmp_path / f"{mode}{orientation}.png"
            Image.fromarray(picture).convert(mode).save(path, exif=exif, **options, **profile)
            whole = read_image(path)
            with monkeypatch.context() as patch:
                patch.setattr(decoding, "_PART", 100)
                np.testing.assert_array_equal(read_image(path), whole)


def test_endless_and_oversized_files(tmp_path):
    class Endless(io.RawIOBase):
        def readable(self):
            return True

        def read(self, count=-1):
            assert 0 < count < 1 << 28, "all of an endless file was asked for"
            return b"\x89PNG" + bytes(count - 4)

        def seek(self, *_):
            raise io.UnsupportedOperation

    with pytest.raises(FileError, match="holds more than 67,108,864 bytes"):
        read_image(Endless(), limit=1000)
    with open(tmp_path / "a.webp", "wb") as file:
        file.truncate(1 << 32)  # a hole, which takes no space
    assert "holds more than 2,000,000,000 bytes" in refused(tmp_path / "a.webp")


def test_scans_of_a_progressive_jpeg_are_counted(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path, progressive=True)
    assert read_image(path).shape == (64, 64, 3)
    data = path.read_bytes()
    last = data.rindex(b"\xff\xda")
    path.write_bytes(data[:last] + 200 * data[last:-2] + b"\xff\xd9")
    assert "scans" in refused(path)


def test_hostile_metadata(tmp_path):
    """What is compressed in a PNG's texts and profile may be huge."""
    huge = zlib.compress(bytes(200 << 20), 9)
    for others in (
        chunk(b"zTXt", b"k\0\0" + huge), chunk(b"iTXt", b"k\0\1\0\0\0" + huge), chunk(b"iCCP", b"k\0\0" + huge),
        chunk(b"tEXt", b"k\0" + bytes(2 << 20)),
    ):  # fmt: skip
        (tmp_path / "a.png").write_bytes(png_of(1, 1, others, data=zlib.compress(bytes(4))))
        with contextlib.suppress(FileError):
            assert read_image(tmp_path / "a.png").shape == (1, 1, 3)
    assert PngImagePlugin.MAX_TEXT_CHUNK <= 1 << 20 and PngImagePlugin.MAX_TEXT_MEMORY <= 1 << 26


def mutated(data, generator):
    data = bytearray(data)
    for _ in range(generator.integers(1, 6)):
        at = int(generator.integers(len(data)))
        match generator.integers(4):
            case 0:
                data[at] = int(generator.integers(256))
            case 1:
                data[at : at + 4] = generator.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
            case 2:
                del data[at:]
            case 3:
                data[at:at] = data[: int(generator.integers(64))]
        if not data:
            break
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF"])
def test_damage_is_always_a_file_error(kind):
    if kind not in formats():
        pytest.skip("this Pillow does not read it")
    generator, file = np.random.default_rng(0), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if kind in ("GIF", "BMP", "PPM", "JPEG2000") else {"exif": exif, "icc_profile": swapped_profile()}
    Image.fromarray(generator.integers(0, 256, (16, 24, 3), np.uint8)).save(file, kind, **options)
    read = 0
    for _ in range(60):
        data = mutated(file.getvalue(), generator)
        for function in (read_image, read_mask):
            try:
                function(data, limit=1_000_000)
                read += 1
            except FileError as error:
                assert len(str(error)) < 600 and "\n" not in str(error)
    assert read < 120


@pytest.mark.filterwarnings("ignore")
def test_damaged_profiles_do_not_spoil_a_picture(tmp_path):
    generator = np.random.default_rng(0)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for _ in range(60):
        damaged = bytearray(profile)
        for at in generator.integers(0, len(profile), 8):
            damaged[at] = generator.integers(256)
        file = io.BytesIO()
        Image.new("RGB", (3, 2), (1, 2, 3)).save(file, "JPEG", icc_profile=bytes(damaged))
        assert read_image(file).shape == (2, 3, 3)


def test_other_sources():
    for source in ([1] * 100_000, 3, None, {}):
        with pytest.raises(TypeError, match=r"read_image: `source` is a \w+; expected a path") as caught:
            read_image(source)
        assert len(str(caught.value)) < 200
    with pytest.raises(FileError, match=r"^<bytes b'xxx.*>: is not a picture") as caught:
        read_image(b"x" * 300_000)
    assert len(str(caught.value)) < 300
    with pytest.raises(FileError, match=r"^<file>: is open as text; expected a file that is open in binary mode"):
        read_image(io.StringIO("text"))


def test_a_pipe_that_gives_a_few_bytes_at_a_time():
    class Slow(io.RawIOBase):
        def __init__(self, data):
            self.data = io.BytesIO(data)

        def readable(self):
            return True

        def readinto(self, buffer):
            part = self.data.read(min(7, len(buffer)))
            buffer[: len(part)] = part
            return len(part)

    data = io.BytesIO()
    Image.fromarray(np.full((3, 4, 3), 7, np.uint8)).save(data, "PNG")
    np.testing.assert_array_equal(read_image(Slow(data.getvalue())), np.full((3, 4, 3), 7))
