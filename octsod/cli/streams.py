"""Standard streams that may be closed, full or gone: what shows progress never ends work."""

import contextlib
import io
import os
import sys


class _Lasting(io.RawIOBase):
    """A binary stream that falls silent after its first failure to write. stream: None if there is none at all."""

    def __init__(self, stream):
        self._stream = stream

    def writable(self):
        return True

    def isatty(self):
        with contextlib.suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def fileno(self):
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def write(self, data):
        rest = memoryview(data)
        try:
            while self._stream is not None and len(rest):
                count = self._stream.write(rest)
                if count is None:  # it is full, and not to be waited for: the rest is lost
                    break
                rest = rest[count:]
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError):
            self._stream = None
        return len(data)


@contextlib.contextmanager
def lasting():
    """Within it, writing to `sys.stderr` never fails: after the first failure it is silent. Characters that its
    encoding lacks are written as escapes. If a standard stream is closed, no other file is given its number."""
    _reserve()
    before = sys.stderr
    buffer = getattr(before, "buffer", None)
    if before is None or buffer is not None:
        # Beside its buffer, which would try once more, at the interpreter's end, to write what has failed.
        stream = buffer and getattr(buffer, "raw", buffer)
        encoding = getattr(before, "encoding", None) or "utf-8"
        sys.stderr = io.TextIOWrapper(_Lasting(stream), encoding, "backslashreplace", write_through=True)
    try:
        yield
    finally:
        sys.stderr = before


def silence_output():
    """Let what is still written to `sys.stdout` vanish, also what it has in its buffer at the interpreter's end."""
    sys.stdout = io.TextIOWrapper(_Lasting(None), "utf-8", "backslashreplace", write_through=True)


def _reserve():
    """Let nothing that is opened later become standard input, output or error, where these are closed: a log or a
    checkpoint would get what is meant for the screen. What takes their places can be neither read nor written."""
    for number, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, mode)  # gets the lowest number that is free, which is this one
