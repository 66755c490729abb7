"""From a picture to its map of salience, by the evaluation protocol (csnet.md, section 6)."""

import os

import numpy as np

from . import functional as f
from .autograd import no_grad
from .errors import OctsodError
from .images import prepare, read_image, require_picture, resize
from .tensor import Tensor


def predict(image, model, size=224) -> np.ndarray:
    """How salient each pixel is: (H, W) uint8, of the picture's height and width, 255 for the object.

    image: the path of a picture, or an array (H, W, 3) of uint8 RGB. size: the side in pixels of the square that the
    network sees, a multiple of `model.configuration.multiple`. The model runs in eval mode and is left in its own.
    Raises FileError if the picture cannot be read, ValueError if the array or the size does not fit, OctsodError if the
    network's output is not finite.
    """
    if isinstance(image, (str, bytes, os.PathLike)):
        image = read_image(image)
    require_picture(image, "predict")
    x = prepare(image, size)[None].astype(model.dtype, copy=False)
    training = model.training
    model.eval()
    try:
        with no_grad():
            salience = f.sigmoid(model(Tensor(x))).numpy()
    finally:
        model.train(training)
    if not np.isfinite(salience).all():
        raise OctsodError("predict: the network's output is not finite; its weights are damaged or untrained.")
    return (resize(salience[0, 0], image.shape[:2]) * 255).astype(np.uint8)
