"""Pictures: read as they look, resized as the network was trained (csnet.md, section 6), written all or nothing."""

import io
import os

import numpy as np

from .backend import kernels
from .checks import require, require_integer
from .errors import FileError
from .weights import write_atomically

# What a folder is searched for; a file that is named is read whatever it is called.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")

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


def read_image(path) -> np.ndarray:
    """A picture as people see it: (H, W, 3) uint8 RGB.

    EXIF orientation is applied; what is transparent shows white; 16-bit grey is scaled to 8 bits; of an animation, the
    first frame is taken. Raises FileError, which names the file, if it is missing, broken, no picture, or larger than
    Pillow's `Image.MAX_IMAGE_PIXELS`.
    """
    return _read(path, "RGB")


def read_mask(path) -> np.ndarray:
    """A mask as (H, W) uint8, 255 for the object; like `read_image`, but what is transparent is no object: 0."""
    return _read(path, "L")


def _read(path, mode):
    from PIL import Image

    name = os.fsdecode(path)
    try:
        with Image.open(path) as image:
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
    except Exception as error:  # damage surfaces as whatever a decoder trips over
        detail = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
        raise FileError(f"{name}: cannot be read as a picture: {detail.rstrip('.')}.") from error


def _orientation(image):
    """The EXIF orientation of a picture that is loaded. (Asked earlier, it would load a PNG and swallow the fault.)"""
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # a broken EXIF block does not spoil the picture
        return None


def _converted(image, mode):
    """`image` in `mode` (RGB or L). Where Pillow's own conversion would clip or uncover hidden colours, ours."""
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("holds integers of more than 16 bits")
        # 65535 becomes 255, rounded to nearest. Pillow would cut everything above 255 off.
        image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("holds floating-point numbers, whose range is unknown")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        behind = Image.new("RGBA", image.size, "white" if mode == "RGB" else "black")
        image = Image.alpha_composite(behind, image).convert("RGB")
    return image.convert(mode)


def resize(array, size) -> np.ndarray:
    """Bilinear, half-pixel centres, border mirrored, no anti-aliasing: (..., H, W) numbers -> (..., h, w) float32.

    size: (h, w). Done in the calling thread alone.
    """
    require(array.ndim >= 2 and array.size > 0, "resize", "array", f"has shape {array.shape}", "(..., H, W), not empty")
    size = tuple(require_integer(n, "resize", "size", 1) for n in size)
    out = np.empty((*array.shape[:-2], *size), np.float32)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    for index in np.ndindex(array.shape[:-2]):
        plane = array[index] if array.dtype == np.uint8 else array[index].astype(np.float32)
        kernels.resize_picture(plane[..., None], one, zero, out[index][None])
    return out


def prepare(image, size=224) -> np.ndarray:
    """What the network is given for a picture: (H, W, 3) uint8 -> (3, size, size) float32, resized and normalised.

    Normalised means: in [0, 1], minus `MEAN`, divided by `STD`. size: pixels; what the network takes is up to the
    network (`model.configuration.multiple`). Done in the calling thread alone.
    """
    require_picture(image, "prepare")
    size = require_integer(size, "prepare", "size", 1)
    out = np.empty((3, size, size), np.float32)
    kernels.resize_picture(image, 1 / (255 * STD), -MEAN / STD, out)
    return out


def require_picture(image, op):
    """Raise ValueError unless `image` is (H, W, 3) uint8."""
    fits = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    was = f"is {image.dtype} {image.shape}" if isinstance(image, np.ndarray) else f"is a {type(image).__name__}"
    require(fits and image.size > 0, op, "image", was, "uint8 (H, W, 3), as `read_image` gives it")


def write_png(path, array) -> None:
    """Write (H, W), (H, W, 3) or (H, W, 4) uint8 as a PNG file, all or nothing. Raises FileError, naming the file."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    try:
        write_atomically(path, data.getbuffer())
    except OSError as error:
        raise FileError(f"{os.fsdecode(path)}: cannot be written: {error.strerror or error}.") from error
