"""What watches a worker: limits that end it, and a hook that sees what it does besides reading.

A worker that stays in one input for too long or touches the wrong memory is ended by a signal, which its parent sees;
`faulthandler` then says where it was.
"""

import faulthandler
import os
import pathlib
import resource
import signal
import sys

MEMORY = 1 << 30  # bytes that an input may take
GRACE = 4  # an input may wait this many times as long as it may compute: the machine has other work

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
            "os.chown", "shutil.rmtree", "shutil.move", "shutil.copyfile", "os.utime", "os.setxattr"}  # fmt: skip
_STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty",
           "socket.connect", "socket.bind", "ctypes.dlopen", "ctypes.cdata", "pickle.find_class"}  # fmt: skip


class BlockedError(BaseException):
    """Raised by the hook in the place of what an input must not cause; no `except Exception` swallows it."""


class Guard:
    """`Guard(roots)` once per process, then `with guard.over(seconds):` around each input.

    roots: folders in which files may be written. allowed: audit events that do not count. seen: what happened in the
    last input that must not: pairs of the kind of fault and what it was.
    """

    def __init__(self, roots: list[pathlib.Path], allowed: frozenset[str] = frozenset()):
        self.roots = tuple(os.path.realpath(root) + os.sep for root in roots)
        self.allowed = allowed
        self.seen: list[tuple[str, str]] = []
        self.armed = False
        checkout = str(pathlib.Path(__file__).parents[2])
        self._trusted = (sys.prefix, sys.base_prefix, checkout, os.path.dirname(os.__file__))
        self._trusted += tuple(path for path in sys.path if "site-packages" in path)
        sys.addaudithook(self._hook)

    def limit(self) -> None:
        """From now on, this process may have `MEMORY` more bytes than it has now."""
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def over(self, seconds: float) -> "Guard":
        self._seconds = seconds
        return self

    def __enter__(self):
        self.seen.clear()
        signal.setitimer(signal.ITIMER_PROF, self._seconds)
        signal.setitimer(signal.ITIMER_REAL, GRACE * self._seconds)
        self.armed = True
        return self

    def __exit__(self, *_):
        self.armed = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _hook(self, event, args):
        if not self.armed or event in self.allowed:
            return
        fault = self._fault(event, args)
        if fault and not _loading():
            self.armed = False  # what follows may be ours
            self.seen.append((fault, f"{event} {str(args)[:200]}"))
            raise BlockedError(event)

    def _fault(self, event, args):
        if event == "open":
            path, _, flags = args
            writes = isinstance(flags, int) and flags & _WRITES and isinstance(path, (str, bytes))
            return "file outside" if writes and not self._inside(path) else None
        if event in _CHANGES:
            paths = [path for path in args if isinstance(path, (str, bytes, os.PathLike))]
            return None if all(map(self._inside, paths)) else "file outside"
        if event in _STARTS:
            return "code"
        if event in ("exec", "compile"):
            name = str(args[0].co_filename if event == "exec" else args[1])
            return None if name.startswith(("<frozen", *self._trusted)) else "code"
        return None

    def _inside(self, path):
        # Not the link that the last part may be: it is changed, not followed. But /dev/null is nowhere.
        path = os.fsdecode(path)
        folder, name = os.path.split(os.path.abspath(path))
        place = os.path.join(os.path.realpath(folder), name) + os.sep
        return place.startswith(self.roots) or path == os.devnull


def _loading():
    """Whether all this serves to import a module, or to load or compile a kernel: both happen when they are needed."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib") or os.path.join("numba", "core") in name:
            return True
        frame = frame.f_back
    return False


def watch(errors) -> None:
    """Have the signals that end this process write to a file where it was. Call once, in the main thread."""
    faulthandler.enable(errors, all_threads=False)
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
        faulthandler.register(number, errors, all_threads=False, chain=True)
