"""Pictures: read as they look, resized as in the network's training (csnet.md, section 6), written all or nothing."""

import io
import os
from typing import IO, Any

import numpy as np

from ..backend.device import host
from ..checks import described, require, require_integer
from ..errors import FileError
from ..files import write_atomically

# Files with these suffixes are found in folders; a file given by name is read whatever its suffix.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")

Source = str | bytes | os.PathLike | IO[bytes]  # a path, or a binary file

MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of RGB in [0, 1]
STD = np.array([0.229, 0.224, 0.225], np.float32)

_ORIENTATION = 0x0112  # the EXIF tag
# Its values 2 to 8, as the transposition that puts the picture upright.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def read_image(source: Source) -> np.ndarray:
    """A picture as people see it: (H, W, 3) uint8 RGB.

    source: a path, or a binary file, such as `sys.stdin.buffer`. EXIF orientation is applied; colours are converted to
    sRGB by the picture's ICC profile, if it has a usable one; transparent parts become white; 16-bit channels are
    reduced to 8 bits; of an animation or several pages, the first is read. Raises FileError, which names the file, if
    it is missing, broken, not a picture, or larger than Pillow's `Image.MAX_IMAGE_PIXELS`.
    """
    return _read(source, "RGB")


def read_mask(source: Source) -> np.ndarray:
    """A mask as (H, W) uint8, 255 for the object; like `read_image`, but transparent parts are 0: no object."""
    return _read(source, "L")


def _read(source, mode):
    from PIL import Image

    name = _name(source)
    try:
        with Image.open(source) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError
            result = _converted(image, mode)
            upright = _UPRIGHT.get(_orientation(image))
            if upright:
                result = result.transpose(getattr(Image.Transpose, upright))
            return np.array(result)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise FileError(
            f"{name}: has more than {Image.MAX_IMAGE_PIXELS // 1_000_000} million pixels, the limit against "
            "decompression bombs (PIL.Image.MAX_IMAGE_PIXELS)."
        ) from None
    except Image.UnidentifiedImageError:
        raise FileError(f"{name}: is not a picture in a format that can be read.") from None
    except Exception as error:  # damage surfaces as any error that a decoder trips over
        detail = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
        raise FileError(f"{name}: cannot be read as a picture: {detail.rstrip('.')}.") from error


def _name(file):
    """What messages call a path or a binary file."""
    return os.fsdecode(file) if isinstance(file, (str, bytes, os.PathLike)) else str(getattr(file, "name", "<file>"))


def _orientation(image):
    """The EXIF orientation of a loaded picture. (Before that, this would load a PNG and swallow its errors.)"""
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # a broken EXIF block does not spoil the picture
        return None


def _converted(image, mode):
    """`image` in `mode` (RGB or L), converted by us where Pillow would clip or uncover hidden colours."""
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("holds integers of more than 16 bits")
        # 65535 becomes 255, rounded to nearest. Pillow would clip everything above 255.
        image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("holds floating-point numbers, whose range is unknown")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode == "P":
        image = image.convert("RGB")
    if mode == "RGB":  # a mask's numbers are not colours
        image = _in_srgb(image)
    if image.mode == "RGBA":
        behind = Image.new("RGBA", image.size, "white" if mode == "RGB" else "black")
        image = Image.alpha_composite(behind, image).convert("RGB")
    return image.convert(mode)


def _in_srgb(image):
    """`image`, its colours converted by its ICC profile; unchanged if it has no usable one."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    from PIL import ImageCms

    image.load()  # errors in the pixels are not the profile's fault
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ImportError):  # broken, for another mode, or Pillow was built without it
        return image


def resize(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, half-pixel centres, mirrored border, no anti-aliasing: (..., H, W) numbers -> (..., h, w) float32.

    size: (h, w). Runs only in the calling thread.
    """
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
    require_picture(image, "prepare")
    size = require_integer(size, "prepare", "size", 1)
    out = np.empty((3, size, size), np.float32)
    host().kernels.resize_picture(image, 1 / (255 * STD), -MEAN / STD, out)
    return out


def require_picture(image: Any, op: str) -> None:
    """Raise ValueError unless `image` is (H, W, 3) uint8."""
    fits = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    require(fits and image.size > 0, op, "image", described(image), "uint8 (H, W, 3), as `read_image` gives it")


def write_png(target: Source, array: np.ndarray) -> None:
    """Write (H, W), (H, W, 3) or (H, W, 4) uint8 as PNG to a path, all or nothing, or to a binary file.

    Raises FileError, which names the file, if that fails; BrokenPipeError if nobody reads the binary file any more.
    """
    from PIL import Image

    data = io.BytesIO()
    # At a photo's 12 million pixels, level 1 takes 1 s and Pillow's 6 takes 4 s, or 13 s with alpha, to save 15 %.
    Image.fromarray(array).save(data, "PNG", compress_level=1)
    try:
        if not isinstance(target, (str, bytes, os.PathLike)):
            rest = data.getbuffer()
            while rest:  # with PYTHONUNBUFFERED, standard output may take only a part
                rest = rest[target.write(rest) :]
            target.flush()
        else:
            write_atomically(os.fsdecode(target), data.getbuffer())
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileError(f"{_name(target)}: cannot be written: {error.strerror or error}.") from error
