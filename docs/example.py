"""Draws docs/example.png: held-out pictures of the embedded data, their masks, and a trained model's maps.

    octsod train --steps 600 --width 1 --size 160 --output runs/first
    python docs/example.py runs/first/weights/last.safetensors docs/example.png
"""

import sys

import numpy as np
from PIL import Image

import octsod
from octsod.synthetic import SyntheticDataset

SIZE, COLUMNS, SEED = 160, 6, 99  # training draws from seed 0


def main(weights, output):
    model = octsod.load(weights)
    samples = [SyntheticDataset(2 * COLUMNS, SIZE, SEED)[i] for i in range(COLUMNS)]
    rows = [
        np.concatenate([s.image for s in samples], axis=1),
        np.concatenate([np.repeat(s.mask[..., None], 3, axis=2) for s in samples], axis=1),
        np.concatenate([np.repeat(octsod.predict(s.image, model, SIZE)[..., None], 3, 2) for s in samples], axis=1),
    ]
    Image.fromarray(np.concatenate(rows)).save(output, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
