"""Valid files to begin with: networks, pictures of every format and mode, masks of every encoding, a small data set."""

import functools
import io
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms, features

import octsod

WIDTH, HEIGHT = 16, 12


@functools.cache
def networks() -> dict:
    """Networks of every kind, as small as they can be, which have seen a few pictures."""
    from networks import learned, lived_in

    from octsod.models import Configuration

    configurations = {
        "standard": (Configuration.standard(0.2), "float32"),
        "learned": (learned(np.random.default_rng(1)), "float32"),
        "extractor": (learned(np.random.default_rng(2), "extractor"), "float64"),
        "vanilla": (learned(np.random.default_rng(3), "vanilla"), "float32"),
        "sides": (Configuration.standard(0.2, (1, 0), sides=True), "float32"),
        "classes": (Configuration.standard(0.2, variant="extractor", classes=3), "float32"),
    }
    models = {name: lived_in(configuration, 0, dtype) for name, (configuration, dtype) in configurations.items()}
    for model in models.values():
        model.size = 32
    models["classes"].labels = ("ant", "bee", "cat")
    return models


def saved(model) -> bytes:
    """What `octsod.save` writes."""
    with tempfile.TemporaryDirectory() as folder:
        octsod.save(model, pathlib.Path(folder, "w.safetensors"))
        return pathlib.Path(folder, "w.safetensors").read_bytes()


def files_in(folder: pathlib.Path) -> dict[str, bytes]:
    """Path relative to the folder -> contents, of all files in it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def draw_pictures(root: pathlib.Path, count: int = 7, side: int = 40) -> None:
    """A data set of drawn pictures, each with its mask."""
    drawn = octsod.synthetic.SyntheticDataset(count, side, 0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        sample = drawn[index]
        Image.fromarray(sample.image).save(root / "images" / f"{index:02}.png")
        Image.fromarray(sample.mask).save(root / "masks" / f"{index:02}.png")


def colours() -> Image.Image:
    """A picture of all sorts of colours."""
    values = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    values[: HEIGHT // 2] //= 4
    return Image.fromarray(values)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pictures() -> Iterator[tuple[str, bytes]]:
    """(name, file) in every format that Pillow writes here; a name's suffix need not be that of its format."""
    image = colours()
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        other = Image.fromarray(np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 300)
        yield f"{mode.replace(';', '')}.png", encoded(other if mode == "I;16" else image.convert(mode), "PNG")
    yield "profile.png", encoded(image, "PNG", icc_profile=profile, exif=exif)
    yield "clear.png", encoded(image.quantize(8), "PNG", transparency=0)
    yield "animated.png", encoded(image, "PNG", save_all=True, append_images=[image.rotate(180)])
    for mode in ("L", "RGB", "CMYK"):
        yield f"{mode}.jpg", encoded(image.convert(mode), "JPEG")
    yield "turned.jpg", encoded(image, "JPEG", exif=exif, icc_profile=profile)
    yield "progressive.jpeg", encoded(image, "JPEG", progressive=True)
    for compression in (None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        yield f"{compression}.tif", encoded(image, "TIFF", compression=compression)
    yield "float.tiff", encoded(Image.fromarray(np.ones((HEIGHT, WIDTH), np.float32)), "TIFF")
    yield "pages.tiff", encoded(image, "TIFF", save_all=True, append_images=[image])
    yield "animated.gif", encoded(image, "GIF", save_all=True, append_images=[image.rotate(180)])
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"{mode}.bmp", encoded(image.convert(mode), "BMP")
    more = {"GIF": "gif", "PPM": "ppm", "ICO": "ico", "TGA": "tga", "PCX": "pcx", "SGI": "sgi", "DDS": "dds"}
    more |= {"WEBP": "webp"} if features.check("webp") else {}
    more |= {"AVIF": "avif"} if features.check("avif") else {}
    more |= {"JPEG2000": "jp2"} if features.check("jpg_2000") else {}
    for format, suffix in more.items():
        yield f"plain.{suffix}", encoded(image, format)
    # What must not be run: PostScript, and a PDF, by the names of pictures. They are refused as they are.
    yield "eps.jpg", encoded(image, "EPS")
    yield "pdf.png", encoded(image, "PDF")


def masks() -> Iterator[tuple[str, bytes]]:
    """(name, file) of masks as people have them, and as they should not have them."""
    disc = np.zeros((HEIGHT, WIDTH), np.uint8)
    disc[3:9, 4:12] = 1
    full, soft = Image.fromarray(disc * 255), Image.fromarray(disc * 200)
    palette = Image.fromarray(disc, "P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    dull = Image.fromarray(disc, "P")
    dull.putpalette([0, 0, 0, 128, 0, 0])
    for suffix, format in {"png": "PNG", "bmp": "BMP", "tif": "TIFF", "gif": "GIF", "jpg": "JPEG"}.items():
        yield f"full.{suffix}", encoded(full, format)
    yield "bilevel.png", encoded(full.convert("1"), "PNG")
    yield "bilevel.tif", encoded(full.convert("1"), "TIFF", compression="group4")
    yield "soft.png", encoded(soft, "PNG")
    yield "one.png", encoded(Image.fromarray(disc), "PNG")
    yield "palette.png", encoded(palette, "PNG")
    yield "dull.png", encoded(dull, "PNG")
    yield "clear.png", encoded(Image.merge("LA", (full, full)), "PNG")
    yield "colours.png", encoded(Image.merge("RGB", (full, soft, Image.fromarray(disc * 0))), "PNG")
    for name, value in {"deep": 65535, "deepone": 1, "deep255": 255}.items():
        yield f"{name}.png", encoded(Image.fromarray(disc.astype(np.uint16) * value), "PNG")
    yield "empty.png", encoded(Image.fromarray(disc * 0), "PNG")
    yield "float.tif", encoded(Image.fromarray(disc.astype(np.float32)), "TIFF")
