"""The one way to files: read only if they are regular, written whole or not at all."""

import contextlib
import os
import pathlib
import secrets
import stat
from typing import IO

from .errors import FileError

# A pipe that the user names on purpose, as in `predict <(convert ...)`, is read to its end.
_PIPES = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


def open_file(path: str | bytes | os.PathLike) -> IO[bytes]:
    """Open a regular file for reading. What else has a name in a folder, such as a named pipe, could keep us waiting
    for ever; it is refused, unless it is standard input or an open pipe (`/dev/stdin`, `/dev/fd/...`).

    Raises FileError, which names `path`.
    """
    name = os.fsdecode(path)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                if stat.S_ISDIR(mode):
                    raise FileError(f"{name}: is a folder; expected a file.")
                if not name.startswith(_PIPES):
                    raise FileError(f"{name}: is {_kind(mode)}; expected a regular file.")
                os.set_blocking(handle, True)
            return os.fdopen(handle, "rb")
        except BaseException:
            os.close(handle)
            raise
    except FileError:
        raise
    except (OSError, ValueError) as error:  # a path may also be no path, such as one with a null character
        raise FileError(f"{name}: {getattr(error, 'strerror', None) or error}.") from error


def _kind(mode):
    kinds = {stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket"}
    return next((words for test, words in kinds.items() if test(mode)), "a device")


def read_file(path: str | bytes | os.PathLike, most: int) -> bytes:
    """The contents of a file; see `open_file`. Raises FileError, too, if it holds more than `most` bytes."""
    with open_file(path) as file:
        try:
            data = file.read(most + 1)
        except OSError as error:
            raise FileError(f"{os.fsdecode(path)}: {error.strerror or error}.") from error
    if len(data) > most:
        raise FileError(f"{os.fsdecode(path)}: holds more than {most:,} bytes, the most that is read of such a file.")
    return data


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
