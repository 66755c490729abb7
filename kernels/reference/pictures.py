"""Batches of pictures for training, made from bytes."""

import numpy as np

from .resampling import resize_mirrored

LUMINANCE = np.array([0.299, 0.587, 0.114])


def _resized(pixels, part, size):
    """A part of pixels (H, W, C), flipped and resized, as (C, *size), from 0 to 1."""
    top, left, rows, columns, upside_down, mirrored = part
    pixels = pixels[top : top + rows, left : left + columns][:: -1 if upside_down else 1, :: -1 if mirrored else 1]
    return resize_mirrored(pixels.transpose(2, 0, 1) / 255, size)


def _recoloured(colours, brightness, contrast, saturation):
    grey = np.tensordot(LUMINANCE, colours, 1)
    colours = contrast * brightness * (saturation * colours + (1 - saturation) * grey)
    return (colours + (1 - contrast) * brightness * grey.mean()).clip(0, 1)


def prepare_pictures(kept, fresh, table, mean, deviation, x, y):
    mean, deviation = (np.array(values)[:, None, None] for values in (mean, deviation))
    for image, row in enumerate(table):
        start, height, width, *part = row[:9].astype(int)
        record = kept[start:] if start < kept.size else fresh[start - kept.size :]
        count = height * width * 3
        colours = _resized(record[:count].reshape(height, width, 3), part, x.shape[2:])
        if row.size > 9:
            colours = _recoloured(colours, *row[9:])
        x[image] = (colours - mean) / deviation
        if y is not None:
            mask = record[count : count + height * width].reshape(height, width, 1)
            y[image] = _resized(mask, part, y.shape[2:])
