"""Draws what the networks that come with octsod find in the pictures here.

    python docs/examples/shown.py

docs/example.png: pictures, and maps and overlays by the best network. docs/NAME-failures.png: likewise by each network,
of pictures in which it is known to fail.
"""

import pathlib

import octsod
from octsod.models.shipped import networks

HERE = pathlib.Path(__file__).resolve().parent
NETWORKS = [network.name for network in networks()]
FAILURES = ("thin", "reflection", "camouflage", "crowd")
SHEETS = {"example": (NETWORKS[0], ("still-life", "two-objects"))}
SHEETS |= {f"{name}-failures": (name, FAILURES) for name in NETWORKS}

for sheet, (network, names) in SHEETS.items():
    pictures = [octsod.images.read_image(HERE / f"{name}.jpg") for name in names]
    maps = [octsod.predict(picture, octsod.load(network)) for picture in pictures]
    rows = [(p, m, octsod.pictures.overlay(p, m)) for p, m in zip(pictures, maps, strict=True)]
    rows = [[part[:, 80:560] for part in row] for row in rows]  # of 640: a sheet's cells are square
    drawn = octsod.sheets.contact_sheet(rows, headings=("picture", "octsod predict", "--overlay"), cell=208)
    octsod.images.write_png(HERE.parent / f"{sheet}.png", drawn)
