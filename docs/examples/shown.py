"""Draws what the best network that comes with octsod finds in the pictures here.

    python docs/examples/shown.py

docs/example.png: pictures, maps and overlays; docs/failures.png: those in which it is known to fail.
"""

import pathlib

import octsod

HERE = pathlib.Path(__file__).resolve().parent
SHEETS = {"example": ("still-life", "two-objects"), "failures": ("thin", "reflection", "camouflage", "crowd")}

for sheet, names in SHEETS.items():
    pictures = [octsod.images.read_image(HERE / f"{name}.jpg") for name in names]
    maps = [octsod.predict(picture) for picture in pictures]
    rows = [(p, m, octsod.pictures.overlay(p, m)) for p, m in zip(pictures, maps, strict=True)]
    rows = [[part[:, 80:560] for part in row] for row in rows]  # of 640: a sheet's cells are square
    drawn = octsod.sheets.contact_sheet(rows, headings=("picture", "octsod predict", "--overlay"), cell=208)
    octsod.images.write_png(HERE.parent / f"{sheet}.png", drawn)
