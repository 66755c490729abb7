"""Files that are written whole or not at all."""

import contextlib
import os
import pathlib
import secrets


def write_atomically(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write bytes under a temporary name, flush them to the disk, then rename: readers see all of it or nothing.

    Raises OSError, which names `path`; whatever was there before is then untouched.
    """
    path = pathlib.Path(path)
    # Not `tempfile`, whose files only their owner may read. Not built from the name, which may have its full length.
    temporary = path.parent / f".octsod-{secrets.token_hex(8)}.part"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):  # it names the temporary file, or none
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    with contextlib.suppress(OSError):  # not every system can, and the file is whole in any case
        _flush_folder(path.parent)


def _flush_folder(folder):
    """Flush a folder to the disk: a rename in it then survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
