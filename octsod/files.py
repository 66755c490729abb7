"""Files that are written whole or not at all."""

import contextlib
import os
import pathlib
import secrets


def write_atomically(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write bytes under a temporary name, flush them to the disk, then rename: readers see all of them or none.

    Raises OSError, which names `path`; the previous file is then untouched.
    """
    path = pathlib.Path(path)
    # Not `tempfile`, whose files only their owner may read. Not based on the name, which may be as long as allowed.
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
        if isinstance(error, OSError):  # it names the temporary file, or no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    with contextlib.suppress(OSError):  # not every system can do this, and the file is whole in any case
        _flush_folder(path.parent)


def _flush_folder(folder):
    """Flush a folder to the disk: a rename in it then survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
