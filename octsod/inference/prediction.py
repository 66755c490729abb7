"""From a picture to its map of salience, by the evaluation protocol (csnet.md, section 6)."""

import os
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..backend import host
from ..backend.arrays import numbers
from ..data.images import prepare, read_image, require_picture, resize
from ..errors import OctsodError
from ..models.files import require_salience
from ..threads import new_lock
from .frozen import logits, snapshots

if TYPE_CHECKING:
    from ..models import CSNet

# A network shares its work out over threads itself: one caller at a time.
_turns = new_lock()


def predict(
    image: np.ndarray | str | bytes | os.PathLike | IO[bytes], model: "CSNet", size: int | None = None
) -> np.ndarray:
    """How salient each pixel is: (H, W) uint8, of the picture's height and width, 255 for the object.

    image: an array (H, W, 3) of uint8 RGB, or a path or binary file as for `read_image`. size: the side in pixels of
    the square that the network sees, a multiple of `model.configuration.multiple`; by default `model.size`, which it
    was trained at. The model is used as in eval mode, whatever its own mode. May be called from several threads, which
    take turns at the network.

    Raises FileError if the picture cannot be read, ValueError if the array or the size does not fit or the network does
    not find salient objects, OctsodError if the network's output is not finite.
    """
    require_salience(model, "predict")
    picture: Any = image
    if isinstance(image, (str, bytes, os.PathLike)) or hasattr(image, "read"):
        picture = read_image(picture)
    require_picture(picture, "predict")
    return to_bytes(infer(model, prepare(picture, size or model.size)[None])[0, 0], picture.shape[:2])


def infer(model: "CSNet", x: np.ndarray) -> np.ndarray:
    """Prepared pictures (N, 3, H, W) -> how likely each pixel is salient, (N, 1, H, W) in [0, 1], in the model's dtype.

    The model is used as in eval mode, whatever its own mode. May be called from several threads, which take turns.
    Raises ValueError if the network does not take this size, TypeError if x is no array of numbers.
    """
    with _turns:
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
