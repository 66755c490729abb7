"""Batches of pictures for training, made from bytes: launches of pictures.cu."""

import numpy as np

from .driver import driver
from .launch import THREADS, source

SOURCE = source("pictures")
PIXELS = 4  # that a thread makes
MOST_SHARES = 1024  # blocks per image, each of which adds up a share of the image's greys


def prepare_pictures(kept, fresh, table, mean, deviation, x, y):
    images, _, height, width = x.shape
    shares = min(-(-height * width // (THREADS * PIXELS)), MOST_SHARES)
    columns, greys = table.shape[1], None
    where = (shares, height, width, columns, np.int64(kept.size), kept, fresh, table)
    if columns > 9:
        greys = driver().empty((images, shares), np.float64)
        SOURCE.launch("sum_greys", x.dtype, images * shares, THREADS, *where, greys)
    SOURCE.launch("prepare_pictures", x.dtype, images * shares, THREADS, *where, greys, *mean, *deviation, x, y)
