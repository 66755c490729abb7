"""Where octsod keeps what it can make again, such as compiled kernels."""

import os
import pathlib


def cache_root() -> pathlib.Path | None:
    """The folder that the user wants for it: `OCTSOD_CACHE_DIR`, else `octsod` in the user's cache folder. It is
    absolute, and need not exist. None if there is no such place, as for a user without a home."""
    chosen = os.environ.get("OCTSOD_CACHE_DIR")
    if chosen:
        path = os.path.expanduser(chosen)
        if path.startswith("~"):  # nothing is known of that user; it must not become a folder of this name
            return None
        try:
            return pathlib.Path(os.path.abspath(path))
        except OSError:  # the working directory is gone
            return None
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser(os.path.join("~", ".cache"))
    return pathlib.Path(base, "octsod") if os.path.isabs(base) else None


def make_cache_root(root: pathlib.Path) -> None:
    """Make that folder. All may read what is in it, such as from a container's image in which another user has filled
    it, but nobody else may write there, whatever this process grants to others. Raises OSError."""
    root.parent.mkdir(parents=True, exist_ok=True)
    root.mkdir(mode=0o755, exist_ok=True)
