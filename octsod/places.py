"""Where octsod keeps what it can make again, such as compiled kernels, and whether code that lies there may be
trusted."""

import contextlib
import functools
import os
import pathlib
import stat
import tempfile


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


def trusted_folder(name: str, suffix: str) -> tuple[pathlib.Path | None, str]:
    """The folder `name` of the cache, for compiled code in files that end in `suffix`, and what is wrong with the
    folder that the user wants, or "". It need not exist yet. Code that is read from there is executed: if others could
    have put it there, or the folder is empty and cannot be written to, ours is a private one among the temporary files,
    or None."""
    root, problem = cache_root(), ""
    chosen = os.environ.get("OCTSOD_CACHE_DIR")
    if root is not None:
        for folder in (root, root / name):
            reason = mistrust(folder)
            if reason:
                problem = f"{folder}: is not used for compiled kernels, since {reason}"
                break
        else:
            if _serves(root / name, suffix):
                return root / name, ""
            problem = f"{root}: is not writable" if chosen else ""  # a container's user may have a home in name only
    elif chosen:
        problem = f"OCTSOD_CACHE_DIR={chosen}: is not used, since it leads nowhere"
    root = _private_root()
    if root is None:
        return None, problem or "there is no folder for compiled kernels, not even a temporary one"
    return root / name, problem and f"{problem}; {root} is used instead"


def _serves(folder, suffix):
    """Whether a folder, which may have to be made, is of use: someone has filled it, or this user can."""
    try:
        if next(folder.glob(f"*{suffix}"), None):
            return True
        with contextlib.suppress(FileNotFoundError):
            folder.lstat()  # its name may be impossible
    except OSError:
        return False
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def _private_root():
    """A folder that only this user can see, or None."""
    if not hasattr(os, "geteuid"):
        return None
    try:
        temporary = tempfile.gettempdir()
        meant = {os.environ.get(variable, "/tmp") for variable in ("TMPDIR", "TEMP", "TMP")} | {"/var/tmp", "/usr/tmp"}
        if os.path.samefile(temporary, os.curdir) and temporary not in map(os.path.abspath, meant):
            return None  # Python's last resort, the working directory; there it would surprise
        root = pathlib.Path(temporary, f"octsod-cache-{os.geteuid()}")
        root.mkdir(mode=0o700, exist_ok=True)
        facts = root.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o077
    return root if private else None


def mistrust(path: pathlib.Path) -> str:
    """Why someone else might have put code into this folder, or "". What does not exist, we shall make ourselves."""
    try:
        facts = path.stat()
    except OSError:  # to be read or made later, and to fail there
        return ""
    return mistrust_of(facts)


def mistrust_of(facts: os.stat_result) -> str:
    """Why others than this user and root might have written to a file or folder, or ""."""
    if not hasattr(os, "geteuid"):  # Windows, where a user's cache folder is the user's own
        return ""
    if facts.st_uid not in (os.geteuid(), 0):
        return "it belongs to another user"
    if facts.st_mode & stat.S_IWOTH:
        return "everyone may write to it (`chmod go-w` mends that)"
    if facts.st_mode & stat.S_IWGRP and not _is_own_group(facts.st_gid):
        return "its group may write to it (`chmod g-w` mends that)"
    return ""


@functools.cache
def _is_own_group(number):
    """Whether a group is this user's alone: many systems give each user a group of the same name, and let files be
    writable for it."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return user.pw_gid == number and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
