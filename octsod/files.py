"""The one way to files: read only if they are regular, written whole or not at all."""

import codecs
import contextlib
import hashlib
import io
import json
import math
import os
import pathlib
import secrets
import stat
from typing import Any

from .checks import shortened
from .errors import FileError, detail

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# A pipe that the user names on purpose, as in `predict <(convert ...)`, is read to its end.
_PIPES = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
DEEPEST = 50  # levels of dicts and lists in JSON; ours have a few
MOST_TOML = 1 << 14  # all settings take 1 KB; time grows with the square of a key's parts, and faster
_PART = 1 << 20  # bytes to read at once of what does not say how much there is


def open_file(path: str | bytes | os.PathLike) -> io.BufferedReader:
    """Open a regular file for reading. What else has a name in a folder, such as a named pipe, could keep us waiting
    for ever; it is refused, unless it is standard input or an open pipe (`/dev/stdin`, `/dev/fd/...`).

    Raises FileError, which names `path`.
    """
    name = named(path)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                if stat.S_ISDIR(mode):
                    raise FileError(f"{name}: is a folder; expected a file.")
                if not os.fsdecode(path).startswith(_PIPES):
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


def named(path: str | bytes | os.PathLike) -> str:
    """A path, for messages. What is far too long for one is shortened: it may be a picture, given as bytes."""
    return shortened(os.fsdecode(path), 1000)


def read_file(path: str | bytes | os.PathLike, most: int) -> bytes:
    """The contents of a file; see `open_file`. Raises FileError, too, if it holds more than `most` bytes."""
    name = named(path)
    with open_file(path) as file:
        data = read_from(file, name, most + 1)
    if len(data) > most:
        raise FileError(f"{name}: holds more than {most:,} bytes, the most that is read of such a file.")
    return data


def read_from(file: io.BufferedReader, name: str, count: int) -> bytes:
    """The next `count` bytes of an open file, or all that follow if they are fewer. Memory is only claimed for what is
    there. Raises FileError, which calls the file `name`."""
    parts, left = [], count
    try:
        size = os.fstat(file.fileno()).st_size
        # A pipe has no size, and a file may grow meanwhile. `read` would wait for all of it, deaf to Ctrl-C in between.
        while left and (part := file.read1(min(left, max(size + 1, _PART)))):
            parts.append(part)
            left -= len(part)
    except OSError as error:
        raise FileError(f"{name}: {error.strerror or error}.") from error
    return b"".join(parts)


def read_text(path: str | bytes | os.PathLike, most: int) -> str:
    """The text in a file of at most `most` bytes; see `open_file`. UTF-8, or what Windows calls Unicode: UTF-8 or
    UTF-16 with a byte order mark, which is left out. Ends of lines stay as they are.

    Raises FileError, which names the file, for what is not text.
    """
    data = read_file(path, most)
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "UTF-16" if marked else "UTF-8"
    try:
        text = data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{named(path)}: is no {encoding} text (byte {error.start + 1}); save it as UTF-8.") from error
    if "\0" in text:  # such as UTF-16 without a byte order mark
        raise FileError(f"{named(path)}: holds null characters, so it is no UTF-8 text; save it as UTF-8.")
    return text


def read_toml(path: str | bytes | os.PathLike) -> dict[str, Any]:
    """The values in a TOML file of settings, of at most `MOST_TOML` bytes. Raises FileError, which names the file."""
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]
    try:
        return tomllib.loads(read_text(path, MOST_TOML))
    except FileError:
        raise
    except RecursionError as error:
        raise FileError(f"{named(path)}: is no TOML: it is nested too deeply.") from error
    except ValueError as error:
        raise FileError(f"{named(path)}: is no TOML: {detail(error)}.") from error


def parse_json(text: str | bytes) -> Any:
    """The value that JSON text describes. Raises ValueError for what Python's `json` would let pass or trip over: a key
    that occurs twice in an object, numbers beyond 64 bits or a float's range, nesting without end.

    NaN and infinities, written as Python writes them, pass: scores may be such.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_int=_integer, parse_float=_float)
        _require_shallow(value)
        return value
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON ({error.msg}, character {error.pos + 1})") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is no JSON (not in UTF-8)") from error


def _require_shallow(value):
    """Raise ValueError if dicts and lists are nested more than `DEEPEST`: whoever walks through them, call by call,
    would not come to the end."""
    level = [value]
    for _ in range(DEEPEST):
        inner = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list)))
        level = [item for items in inner for item in items if isinstance(item, (dict, list))]
        if not level:
            return
    raise ValueError("its JSON is nested too deeply")


def _once(pairs):
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("its JSON has a key twice in an object")
    return values


def _integer(text):
    # More digits than 20 need not even be read, which takes a time that grows with their square.
    if len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 64:
        raise ValueError("its JSON has a number beyond 64 bits")
    return int(text)


def _float(text):
    if math.isinf(value := float(text)):
        raise ValueError("its JSON has a number beyond a float's range")
    return value


def open_log(path: str | os.PathLike[str]) -> Any:
    """Open a regular file, made if it is missing, to be read and to be appended to. Raises OSError, or FileError if
    something else has the name."""
    system = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | system, 0o666)
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise FileError(f"{named(path)}: is {_kind(mode)}; expected a regular file.")
        return os.fdopen(handle, "a+b")
    except BaseException:
        os.close(handle)
        raise


def write_atomically(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write bytes under a temporary name, flush them to the disk, then rename: readers see all of them or none.

    What a killed process has left of the same file is overwritten. Raises OSError, which names `path`; the previous
    file is then untouched.
    """
    path = pathlib.Path(path)
    temporary = None
    with contextlib.ExitStack() as stack:  # closes the file when all is done: until then, its lock is ours
        try:
            temporary, handle = _claimed(path) or _fresh(path)
            file = stack.enter_context(os.fdopen(handle, "wb"))
            file.write(data)
            file.flush()
            os.fsync(handle)
            if fcntl is None:  # Windows renames no file that is open
                stack.close()
            os.replace(temporary, path)
        except BaseException as error:
            if fcntl is None:
                stack.close()
            if temporary is not None:
                with contextlib.suppress(OSError):
                    temporary.unlink()
            if isinstance(error, OSError):  # it names the temporary file, or no file
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise
    with contextlib.suppress(OSError):  # not every system can do this, and the file is whole in any case
        _flush_folder(path.parent)


def _claimed(path):
    """(path, handle) of the temporary file that belongs to `path`, locked and empty; None if another process has it, or
    the system has no locks."""
    if fcntl is None:
        return None
    # Not the name itself, which may be as long as allowed.
    temporary = path.parent / f".octsod-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.part"
    handle = None
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        facts = os.fstat(handle)
        # Nobody may have renamed it meanwhile, nor have put a file of ours there that is not to be overwritten.
        ours = os.path.samestat(facts, os.lstat(temporary)) and facts.st_uid == os.geteuid()
        if ours and stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
            os.ftruncate(handle, 0)
            return temporary, handle
    except OSError:
        pass
    if handle is not None:
        os.close(handle)
    return None


def _fresh(path):
    """(path, handle) of a temporary file that nobody else knows. Not by `tempfile`, whose files only their owner may
    read."""
    temporary = path.parent / f".octsod-{secrets.token_hex(8)}.part"
    return temporary, os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)


def _flush_folder(folder):
    """Flush a folder to the disk: a rename in it then survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
