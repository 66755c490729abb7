"""What people do in a notebook: predict, interrupt, predict again. Arguments: weights, picture, folder for its map."""

import pathlib
import sys

import octsod

weights, picture, out = sys.argv[1:]
octsod.set_num_threads(2)
model = octsod.load(weights)
octsod.backend.host().kernels  # noqa: B018 (imported now: Python itself does not survive Ctrl-C in any import)
print("begins", flush=True)
for _ in range(3):
    try:
        found = octsod.predict(picture, model, 32)
        pathlib.Path(out).mkdir(parents=True, exist_ok=True)
        octsod.images.write_png(str(pathlib.Path(out, "map.png")), found)
        break
    except KeyboardInterrupt:
        print("interrupted", flush=True)
