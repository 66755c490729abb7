"""Pictures: read as they look, resized as in the network's training (csnet.md, section 6), written all or nothing."""

import io
import os
from typing import IO, TYPE_CHECKING, Any, Union

import numpy as np

from ..backend.arrays import is_plain, numbers
from ..backend.arrays import plain as plain_array
from ..backend.device import host
from ..checks import described, require, require_integer
from ..errors import FileError
from ..files import write_atomically
from .decoding import MOST_PIXELS, composed, decode, name_of, plain, upright
from .masks import mask_pixels

if TYPE_CHECKING:
    from PIL import Image

# A path, the contents of a file, a binary file, or a picture of Pillow's.
Source = Union[str, os.PathLike[str], bytes, IO[bytes], "Image.Image"]

MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of RGB in [0, 1]
STD = np.array([0.229, 0.224, 0.225], np.float32)


def read_image(source: Source, limit: int = MOST_PIXELS) -> np.ndarray:
    """A picture as people see it: (H, W, 3) uint8 RGB.

    source: a path, the bytes of a file, a binary file, such as `sys.stdin.buffer`, or a picture of Pillow's. EXIF
    orientation is applied; colours are converted to sRGB by the picture's ICC profile, if it has a usable one;
    transparent parts become white; 16-bit channels are reduced to 8 bits; of an animation or several pages, the first
    is read. Only the formats of photographs are (`formats.formats`).

    limit: the most pixels that are decoded, which takes up to 8 bytes of memory for each. Of WebP and of plain TIFF,
    Pillow itself decodes no more than twice its `Image.MAX_IMAGE_PIXELS`. Raises FileError, which names the file, if it
    is missing, not a regular file, broken, not a picture, or larger than that.
    """
    return decode(source, limit, "read_image", _picture)


def read_mask(source: Source, limit: int = MOST_PIXELS) -> np.ndarray:
    """A mask as (H, W) uint8, 255 for the object; like `read_image`, but transparent parts are 0: no object.

    Understood are black and white, grey with the object above 128 (of 16 bits: above half of their range), palettes of
    two colours, the lighter of which is the object's, and pictures of black and one colour, which is. Raises FileError,
    too, of anything else: numbers of classes, several colours, 0 and 1 in 8 bits. A mask that is 0 everywhere has no
    object. That black and white have changed places cannot be seen.
    """
    return decode(source, limit, "read_mask", mask_pixels)


def _picture(image):
    image.load()  # errors in the pixels are not the profile's fault
    in_srgb = _converter(image.info.get("icc_profile"))
    return upright(image, lambda part: np.asarray(composed(in_srgb(plain(part)), "white").convert("RGB")), (3,))


def _converter(profile):
    """A function that converts the colours of the parts of a picture by its ICC profile, if that is usable."""
    transforms = {}  # of each mode; the parts of a picture have the same one

    def in_srgb(part):
        if part.mode not in transforms:
            transforms[part.mode] = _transform(profile, part.mode)
        transform = transforms[part.mode]
        return transform.apply(part) if transform else part

    return in_srgb if profile else lambda part: part


def _transform(profile, mode):
    """What converts pictures of a mode from a profile to sRGB; None if the profile is broken or for another mode."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = "RGBA" if mode == "RGBA" else "RGB"
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, target)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError, ImportError):  # the last: Pillow was built without it
        return None


def resize(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, half-pixel centres, mirrored border, no anti-aliasing: (..., H, W) numbers -> (..., h, w) float32.

    size: (h, w). Runs only in the calling thread.
    """
    array = numbers(array, "resize: `array`")
    require(array.ndim >= 2 and array.size > 0, "resize", "array", f"has shape {array.shape}", "(..., H, W), not empty")
    size = tuple(require_integer(n, "resize", "size", 1) for n in size)
    out = np.empty((*array.shape[:-2], *size), np.float32)
    resize_picture = host().kernels.resize_picture
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    for index in np.ndindex(array.shape[:-2]):
        plane = array[index] if array.dtype == np.uint8 else array[index].astype(np.float32)
        resize_picture(plane[..., None], one, zero, out[index][None])
    return out


def prepare(image: np.ndarray, size: int = 224) -> np.ndarray:
    """The network's input for a picture: (H, W, 3) uint8 -> (3, size, size) float32, resized and normalised.

    Normalised means: in [0, 1], minus `MEAN`, divided by `STD`. size: pixels; the network determines which sizes
    it accepts (`model.configuration.multiple`). Runs only in the calling thread.
    """
    image = checked_picture(image, "prepare")
    size = require_integer(size, "prepare", "size", 1)
    out = np.empty((3, size, size), np.float32)
    host().kernels.resize_picture(image, 1 / (255 * STD), -MEAN / STD, out)
    return out


def checked_picture(image: Any, op: str) -> np.ndarray:
    """`image` as a plain array. Raises ValueError unless it is (H, W, 3) uint8, TypeError if it is masked."""
    image = plain_array(image, f"{op}: `image`")
    fits = is_plain(image, 3) and image.shape[2] == 3 and image.size > 0
    require(fits, op, "image", described(image), "uint8 (H, W, 3), as `read_image` gives it")
    return image


def write_png(target: str | os.PathLike[str] | IO[bytes], array: np.ndarray) -> None:
    """Write (H, W), (H, W, 3) or (H, W, 4) uint8 as PNG to a path, all or nothing, or to a binary file.

    Raises ValueError for anything else; FileError, which names the file, if writing fails; BrokenPipeError if nobody
    reads the binary file any more.
    """
    from PIL import Image

    fits = is_plain(array, 2) or (is_plain(array, 3) and array.shape[2] in (3, 4))
    expected = "uint8 (H, W), (H, W, 3) or (H, W, 4), not empty"
    require(fits and array.size > 0, "write_png", "array", described(array), expected)
    data = io.BytesIO()
    # At a photo's 12 million pixels, level 1 takes 1 s and Pillow's 6 takes 4 s, or 13 s with alpha, to save 15 %.
    Image.fromarray(array).save(data, "PNG", compress_level=1)
    try:
        if not isinstance(target, (str, os.PathLike)):
            rest = data.getbuffer()
            while rest:  # with PYTHONUNBUFFERED, standard output may take only a part
                rest = rest[target.write(rest) :]
            target.flush()
        else:
            write_atomically(target, data.getbuffer())
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileError(f"{name_of(target, 'write_png')}: cannot be written: {error.strerror or error}.") from error
