"""Draws what the networks that come with octsod find in the pictures here.

    python docs/examples/shown.py

docs/example.png: pictures, and maps and overlays by the best network. octsod/shipped/NAME-failures.jpg, for its card:
likewise by each network, of pictures in which it is known to fail.
"""

import pathlib

from PIL import Image

import octsod
from octsod.models.shipped import FOLDER, networks

HERE = pathlib.Path(__file__).resolve().parent
NETWORKS = [network.name for network in networks()]
FAILURES = ("thin", "reflection", "camouflage", "crowd")
SHEETS = {HERE.parent / "example.png": (NETWORKS[0], ("still-life", "two-objects"))}
SHEETS |= {FOLDER / f"{name}-failures.jpg": (name, FAILURES) for name in NETWORKS}

for sheet, (network, names) in SHEETS.items():
    pictures = [octsod.images.read_image(HERE / f"{name}.jpg") for name in names]
    maps = [octsod.predict(picture, octsod.load(network)) for picture in pictures]
    rows = [(p, m, octsod.pictures.overlay(p, m)) for p, m in zip(pictures, maps, strict=True)]
    rows = [[part[:, 80:560] for part in row] for row in rows]  # of 640: a sheet's cells are square
    drawn = octsod.sheets.contact_sheet(rows, headings=("picture", "octsod predict", "--overlay"), cell=208)
    Image.fromarray(drawn).save(sheet, quality=90)
