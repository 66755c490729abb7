"""The exceptions that octsod raises on purpose."""


class OctsodError(Exception):
    """Base of every error that octsod raises on purpose: catch it to catch them all."""


class FileError(OctsodError, ValueError):
    """A file is missing, damaged, foreign or hostile. The message is one sentence that names the file and the fault."""
