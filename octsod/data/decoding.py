"""Opens pictures that come from anywhere: in known formats only, within bounds, every fault a FileError."""

import contextlib
import io
import os
import re
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import require_integer, shortened
from ..errors import FileError
from ..files import open_file
from .formats import formats

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 250_000_000  # of a picture, by default: 200-megapixel photographs pass
_MOST_SIDE = 1_000_000  # pixels; some decoders allocate several rows at a time
_LARGE = 16_000_000  # pixels: more are read only if the file is large enough for them,
_MOST_PER_BYTE = {"JPEG": 1000, "MPO": 1000}  # whose blocks of 64 pixels have a bit each, at least
_MOST_PER_BYTE_ELSE = 10_000  # PNG needs a byte for 8256 pixels of black and white
_IN_PYTHON = {"bmp_rle": _LARGE, "ppm_plain": 4_000_000}  # pixels at most of what Pillow decodes in Python: slowly
_MOST_TILES = 100_000  # of a TIFF, each of which takes some microseconds
_MOST_HEADER = 1 << 16  # bytes of a PPM's header
_MOST_SCANS = 100  # of a progressive JPEG; each is work for the whole picture. Encoders write some ten.
_HINT = "a larger limit (--max-pixels on the command line) reads it"
_MOST_AT_ONCE = 1 << 20  # bytes to ask a pipe for
_PART = 1 << 22  # pixels that are converted at a time


def decode(source: Any, limit: int, op: str, make: "Callable[[Image.Image], np.ndarray]") -> np.ndarray:
    """What `make` makes of the picture of `source`, as for `images.read_image`, of at most `limit` pixels.

    Whatever fails becomes a FileError that names the source, a ValueError of `make` included. Such an error keeps
    nothing of the picture in memory.
    """
    limit = require_integer(limit, op, "limit", 1)
    name = name_of(source, op)
    try:
        return _decode(source, limit, make)
    except FileError as error:
        failure = error.with_traceback(None)
    except RefusedError as error:
        failure = FileError(f"{name}: {error}")
    except MemoryError:
        failure = FileError(f"{name}: cannot be read as a picture: out of memory.")
    except Exception as error:  # damage surfaces as any error that a decoder trips over
        detail = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
        failure = FileError(f"{name}: cannot be read as a picture: {shortened(detail.rstrip('.'))}.")
    raise failure  # here, without a traceback to the frames that hold the pixels


class RefusedError(Exception):
    """A picture that is in order but not read; says why, as the end of a sentence about it."""


def _decode(source, limit, make):
    from PIL import Image

    if isinstance(source, Image.Image):  # whoever opened it closes it
        _require_bounded(source, limit)
        return make(source)
    with contextlib.ExitStack() as stack:
        file, size = _binary_file(source, limit, stack)
        with _recognised(file) as image:
            _require_bounded(image, limit, size)
            return make(image)


def name_of(source: Any, op: str) -> str:
    """What messages call a picture's source. Raises TypeError if it is none."""
    if isinstance(source, (str, os.PathLike)):
        return shortened(os.fsdecode(source), 1000)
    if isinstance(source, bytes):
        return f"<bytes {shortened(source[:100], 60)}>"
    if hasattr(source, "read") or hasattr(source, "getexif"):  # a file, or a picture of Pillow's
        name = getattr(source, "name", None) or getattr(source, "filename", None)
        return shortened(name, 1000) if name else "<file>" if hasattr(source, "read") else "<picture>"
    raise TypeError(
        f"{op}: `source` is a {type(source).__name__}; expected a path, the bytes of a file, a binary file, or a "
        "picture of Pillow's."
    )


def _binary_file(source, limit, stack):
    """A file at its start that can be rewound, and how many bytes it holds."""
    if isinstance(source, bytes):
        return io.BytesIO(source), len(source)
    file = stack.enter_context(open_file(source)) if isinstance(source, (str, os.PathLike)) else source
    most = max(8 * limit, 1 << 26)  # bytes: 16 bits of four channels
    try:
        file.seek(0, os.SEEK_END)
        size = file.tell()
        file.seek(0)
    except (AttributeError, OSError):  # a pipe; io.UnsupportedOperation is an OSError
        file = _read_through(file, most + 1)
        size = file.tell()
        file.seek(0)
    if size > most:
        raise RefusedError(f"holds more than {most:,} bytes, the most that {limit:,} pixels may need; {_HINT}.")
    return file, size


def _read_through(file, count):
    """All that follows in a file, or a part of it of at least `count` bytes: a pipe or a socket may give a few at a
    time."""
    data = io.BytesIO()
    while data.tell() < count and (part := file.read(_MOST_AT_ONCE)):
        data.write(_binary(part))
    return data


def _binary(part):
    """What a file gave; raises RefusedError if that is text."""
    if isinstance(part, str):
        raise RefusedError("is open as text; expected a file that is open in binary mode.")
    return part


def _recognised(file):
    """The picture in a file, not decoded yet. As `Image.open`, but without its limit, which is one for the process."""
    from PIL import Image

    prefix = _binary(file.read(16))
    for kind in formats():
        factory, accepts = Image.OPEN[kind]
        accepted = accepts is None or accepts(prefix)
        if accepted and not isinstance(accepted, str):  # text says why not
            if kind == "PPM":
                _require_short_header(file)
            file.seek(0)
            try:
                image = factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # as in `Image.open`: it is another format
                continue
            _require_few_scans(image, file)
            return image
    raise RefusedError(f"is not a picture in a format that can be read ({', '.join(formats())}).")


def _require_short_header(file):
    """Pillow reads the header of a PPM, whose comments may be of any length, byte by byte."""
    file.seek(0)
    head = file.read(_MOST_HEADER)
    if len(head) == _MOST_HEADER and len(re.sub(rb"#[^\r\n]*", b"", head).split(maxsplit=3)) < 4:
        raise RefusedError(f"has a header of over {_MOST_HEADER:,} bytes.")


def _require_few_scans(image, file):
    if image.info.get("progressive"):
        file.seek(0)
        scans, last = 0, b""
        while block := file.read(1 << 20):
            scans += (last + block).count(b"\xff\xda")  # a scan's start; in a scan's own data, 00 follows each FF
            last = block[-1:]
        if scans > _MOST_SCANS:
            raise RefusedError(f"holds {scans} scans, which takes for ever; at most {_MOST_SCANS} are read.")


def _require_bounded(image, limit, size=None):
    tiles = getattr(image, "tile", ())
    most = min([limit, *(_IN_PYTHON.get(tile[0], limit) for tile in tiles[:1])])
    if image.width * image.height > most:
        raise RefusedError(
            f"has {image.width}x{image.height} pixels, which is more than {most:,}, the limit against decompression "
            f"bombs{'' if most < limit else f'; {_HINT}'}."
        )
    least = image.width * image.height // _MOST_PER_BYTE.get(image.format, _MOST_PER_BYTE_ELSE)  # bytes
    if size is not None and size < least and image.width * image.height > _LARGE:
        raise RefusedError(
            f"holds {size:,} bytes, too few for {image.width}x{image.height} pixels: it is cut, or a decompression "
            "bomb."
        )
    if len(tiles) > _MOST_TILES:
        raise RefusedError(f"is kept in {len(tiles):,} parts, which takes for ever; at most {_MOST_TILES:,} are read.")
    if max(image.size) > _MOST_SIDE:
        raise RefusedError(f"has {image.width}x{image.height} pixels; a side of at most {_MOST_SIDE:,} is read.")


_ORIENTATION = 0x0112  # the EXIF tag
# Its values 2 to 8, as the view of an upright array that has the axes of the stored picture.
_STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: np.rot90(upright, -1),
}


def upright(image: "Image.Image", convert: "Callable[[Image.Image], Any]", bands: tuple[int, ...] = ()) -> np.ndarray:
    """The pixels of a decoded picture as its EXIF orientation puts them: (H, W, *bands) uint8.

    convert: makes an array of a part of the picture, so that only parts are in memory a second time.
    """
    orientation = _orientation(image)
    width, height = image.size
    out = np.empty(((width, height) if orientation in (5, 6, 7, 8) else (height, width)) + bands, np.uint8)
    stored = _STORED[orientation](out) if orientation in _STORED else out
    for rows, part in parts(image):
        stored[rows] = convert(part)
    return out


def parts(image: "Image.Image") -> "Iterator[tuple[slice, Image.Image]]":
    """A decoded picture, some rows at a time: which, and their picture."""
    width, height = image.size
    rows = max(_PART // max(width, 1), 1)
    if rows >= height:
        yield slice(0, height), image
        return
    for top in range(0, height, rows):
        end = min(top + rows, height)
        yield slice(top, end), image.crop((0, top, width, end))


def _orientation(image):
    """The EXIF orientation of a decoded picture. (Before that, this would load a PNG and swallow its errors.)"""
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # a broken EXIF block does not spoil the picture
        return None


def plain(image: "Image.Image") -> "Image.Image":
    """A picture without palette and with 8 bits per channel: RGBA if anything may be transparent."""
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("holds integers of more than 16 bits")
        # 65535 becomes 255, rounded to nearest. Pillow would clip everything above 255.
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("holds floating-point numbers, whose range is unknown")
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("RGB") if image.mode == "P" else image


def composed(image: "Image.Image", colour: str) -> "Image.Image":
    """An RGBA picture as it looks in front of a colour; any other as it is."""
    from PIL import Image

    if image.mode != "RGBA":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, colour), image).convert("RGB")
