"""Draws guides/find-objects.jpg: a picture, its map, its cutout and its overlay, as `octsod predict` writes them."""

import pathlib
import subprocess
import sys
import tempfile

from PIL import Image

HERE = pathlib.Path(__file__).parent
PICTURE = HERE / "examples" / "still-life.jpg"
SIZE, GAP = (320, 240), 8


def drawn(*options):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.png"
        command = [sys.executable, "-m", "octsod", "predict", str(PICTURE), "-o", str(out), *options]
        subprocess.run(command, check=True, capture_output=True)
        with Image.open(out) as picture:
            return picture.convert("RGBA").resize(SIZE, Image.Resampling.LANCZOS)


def checked(picture):
    """Over a pattern of squares, which says: this is transparent."""
    ground = Image.new("RGBA", SIZE, "white")
    for y in range(0, SIZE[1], 12):
        for x in range(0, SIZE[0], 12):
            if (x + y) // 12 % 2:
                ground.paste("#d0d4da", (x, y, x + 12, y + 12))
    return Image.alpha_composite(ground, picture)


def main():
    picture = Image.open(PICTURE).convert("RGBA").resize(SIZE, Image.Resampling.LANCZOS)
    parts = [picture, drawn(), checked(drawn("--cutout")), drawn("--overlay")]
    sheet = Image.new("RGB", (len(parts) * (SIZE[0] + GAP) - GAP, SIZE[1]), "white")
    for k, part in enumerate(parts):
        sheet.paste(part.convert("RGB"), (k * (SIZE[0] + GAP), 0))
    sheet.save(HERE / "guides" / "find-objects.jpg", quality=85)


if __name__ == "__main__":
    main()
