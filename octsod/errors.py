"""The exceptions that octsod raises on purpose."""

from .checks import shortened

MOST = 1500  # characters of a message, whatever it quotes


class OctsodError(Exception):
    """Base of every error that octsod raises on purpose: catch it to catch them all."""

    def __str__(self) -> str:
        return shortened(super().__str__(), MOST)


def detail(error: Exception) -> str:
    """What an exception says, as the end of a sentence: without its full stop, and not long."""
    return shortened(str(error).rstrip("."), 300)


class FileError(OctsodError, ValueError):
    """A file is missing, damaged, foreign or hostile. The message is one sentence that names the file and the fault."""


class NotReplayableError(OctsodError):
    """Work that was to be captured on a device needs the host, now or each time it is done."""
