"""Which formats of pictures are read, and by which suffixes their files are known."""

import contextlib
import functools
import importlib

# Pillow's name of each -> its plugin, the library that the plugin needs, if Pillow may lack it, and the suffixes.
# Formats of photographs and masks only: with all that Pillow knows, a file named .jpg could start Ghostscript.
_FORMATS = {
    "JPEG": ("JpegImagePlugin", "jpg", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")),
    "PNG": ("PngImagePlugin", "zlib", (".png", ".apng")),
    "WEBP": ("WebPImagePlugin", "webp", (".webp",)),
    "TIFF": ("TiffImagePlugin", None, (".tif", ".tiff")),
    "GIF": ("GifImagePlugin", None, (".gif",)),
    "BMP": ("BmpImagePlugin", None, (".bmp",)),
    "PPM": ("PpmImagePlugin", None, (".ppm", ".pgm", ".pbm", ".pnm")),
    "JPEG2000": ("Jpeg2KImagePlugin", "jpg_2000", (".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c")),
    "AVIF": ("AvifImagePlugin", "avif", (".avif", ".avifs")),
}
HEIF_SUFFIXES = (".heic", ".heif", ".hif", ".heics", ".heifs")  # read if the package pillow-heif is there

# What else pictures are kept in: raw photographs, drawings, formats that are rare or hold more than a picture.
_FOREIGN = (
    ".3fr", ".ai", ".arw", ".bpg", ".cr2", ".cr3", ".crw", ".cur", ".dcm", ".dcr", ".dds", ".dib", ".dng", ".emf",
    ".eps", ".erf", ".exr", ".fits", ".flif", ".hdr", ".icns", ".ico", ".iiq", ".jls", ".jxl", ".jxr", ".kdc",
    ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pam", ".pcx", ".pef", ".pfm", ".psb", ".psd", ".qoi", ".raf",
    ".raw", ".rw2", ".rwl", ".sgi", ".sr2", ".srf", ".srw", ".svg", ".svgz", ".tga", ".wdp", ".wmf", ".x3f", ".xbm",
    ".xcf", ".xpm",
)  # fmt: skip


@functools.cache
def _of_pillow():
    """The names of the formats that this Pillow reads. Loads their plugins, and one for HEIF, if there is one."""
    from PIL import features

    names = []
    for name, (plugin, library, _) in _FORMATS.items():
        with contextlib.suppress(ImportError):  # older versions of Pillow have fewer plugins
            importlib.import_module(f"PIL.{plugin}")
            if library is None or features.check(library):
                names.append(name)
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(names)


def formats() -> tuple[str, ...]:
    """The formats that are read here, by their names in Pillow."""
    from PIL import Image

    return (*_of_pillow(), *(("HEIF",) if "HEIF" in Image.OPEN else ()))


def suffixes() -> frozenset[str]:
    """The suffixes, in lower case, by which pictures that can be read are found in folders."""
    known = {name: entry[2] for name, entry in _FORMATS.items()} | {"HEIF": HEIF_SUFFIXES}
    return frozenset(suffix for name in formats() for suffix in known[name])


def all_suffixes() -> frozenset[str]:
    """The suffixes of pictures of every kind, whether or not they can be read here."""
    return frozenset(suffix for *_, known in _FORMATS.values() for suffix in known).union(HEIF_SUFFIXES, _FOREIGN)
