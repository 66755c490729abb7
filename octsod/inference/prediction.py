"""From a picture to its map of salience, by the evaluation protocol (csnet.md, section 6)."""

import collections
import os
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..backend import host, watching
from ..backend.arrays import is_plain, numbers, plain
from ..checks import described, require
from ..data.images import prepare, read_image, resize
from ..errors import OctsodError
from ..models.files import load, require_salience, side_for
from ..models.shipped import networks
from ..models.weights import weight_file
from ..threads import new_lock
from .frozen import logits, snapshots

if TYPE_CHECKING:
    from PIL import Image

    from ..models import CSNet

NETWORKS = 4  # how many networks of weight files stay in memory

# A network shares its work out over threads itself: one caller at a time.
_turns = new_lock()


def predict(
    image: "np.ndarray | str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image",
    model: "CSNet | str | os.PathLike[str] | None" = None,
    size: int | None = None,
) -> np.ndarray:
    """How salient each pixel is: (H, W) uint8, of the picture's height and width, 255 for the object.

    image: a path; the bytes of a picture file; a binary file; a Pillow image; or an array of uint8, (H, W, 3)
    RGB, (H, W) grey or (H, W, 4) RGBA. It is made upright and opaque, as by `read_image`. model: a CSNet, which is used
    as in eval mode, whatever its own mode; the name of one that comes with octsod; a weight file; or the folder of a
    run, which stands for its best weights; by default, the best network that comes with octsod. The networks of the
    last few files stay in memory until a file changes. size: the side in pixels of the square that
    the network sees, a multiple of `model.configuration.multiple`; by default `model.size`, which it was trained at; if
    that takes over 1 GB, it must be given.
    May be called from several threads, which take turns at the network.

    Raises FileError if the picture or the weights cannot be read, ValueError if the array or the size does not fit or
    the network does not find salient objects, OctsodError if the network's output is not finite.
    """
    if model is None:
        model = networks()[0].file
    network: Any = _networks.of(model) if isinstance(model, (str, os.PathLike)) else model
    require_salience(network, "predict")
    picture, side = _picture(image), side_for(network, size, "predict")
    return to_bytes(infer(network, prepare(picture, side)[None])[0, 0], picture.shape[:2])


def _picture(image):
    """A picture in any form that people have it in, as `read_image` gives it: (H, W, 3) uint8 RGB."""
    from PIL import Image

    if isinstance(image, (bytearray, memoryview)):
        image = bytes(image)
    if isinstance(image, (str, os.PathLike, bytes, Image.Image)) or hasattr(image, "read"):
        return read_image(image)
    image = plain(image, "predict: `image`")
    fits = (is_plain(image, 2) or (is_plain(image, 3) and image.shape[2] in (3, 4))) and image.size > 0
    require(
        fits, "predict", "image", described(image),
        "a path, the bytes of a picture file, a binary file, a Pillow image, or a NumPy array of uint8, (H, W, 3), "
        "(H, W) or (H, W, 4)",
    )  # fmt: skip
    return image if image.shape[2:] == (3,) else read_image(Image.fromarray(image))


class _Networks:
    """The networks of the last few weight files: a loop over pictures need not read them for each."""

    def __init__(self):
        self._kept = collections.OrderedDict()  # (path, what tells a file from its successor) -> network
        self._lock = new_lock()

    def of(self, path):
        file = weight_file(path)
        with self._lock:
            try:
                facts = os.stat(file)
            except (OSError, ValueError):
                return load(file)  # which says what is wrong with it
            key = os.path.realpath(file), facts.st_ino, facts.st_size, facts.st_mtime_ns
            if key not in self._kept:
                self._kept[key] = load(file)
            self._kept.move_to_end(key)
            if len(self._kept) > NETWORKS:
                self._kept.popitem(last=False)
            return self._kept[key]


_networks = _Networks()


def infer(model: "CSNet", x: np.ndarray) -> np.ndarray:
    """Prepared pictures (N, 3, H, W) -> how likely each pixel is salient, (N, 1, H, W) in [0, 1], in the model's dtype.

    The model is used as in eval mode, whatever its own mode. May be called from several threads, which take turns.
    Raises ValueError if the network does not take this size, TypeError if x is no array of numbers.
    """
    with _turns, watching.span("predict", "predict"):
        out = logits(snapshots.of(model), numbers(x, "infer: `x`").astype(model.dtype, copy=False))
        host().kernels.sigmoid(out, out)
        return out


def to_bytes(salience: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The network's answer for a picture, (H, W) in [0, 1] -> its map (h, w) uint8; size is the picture's (h, w).

    Raises OctsodError if a value is not finite.
    """
    if not np.isfinite(salience).all():
        raise OctsodError("the network's output is not finite; its weights are damaged or untrained.")
    return (resize(salience, size) * 255).astype(np.uint8)
