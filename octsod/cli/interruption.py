"""Ctrl-C, SIGTERM and the like while training: the first one asks for a stop, a Ctrl-C after it stops at once."""

import contextlib
import os
import signal

from . import INTERRUPTED

RESUMABLE = 75  # stopped cleanly by any other signal
# SIGXCPU: the processor's time is used up (`ulimit -t`); a little more is left.
NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGXCPU") if hasattr(signal, name)]


class Interruption:
    """`with Interruption() as interruption:` notes signals; `interruption.code` is the exit code they ask for.

    It is None until a signal arrives. A Ctrl-C after that raises KeyboardInterrupt. quiet: do not acknowledge signals.
    """

    def __init__(self, quiet=False):
        self.quiet, self.code = quiet, None

    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self.code is not None

    def __enter__(self):
        self._before = {number: signal.signal(number, self._note) for number in NUMBERS if not _ignored(number)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if self.code is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        by_hand = number == signal.SIGINT
        self.code = INTERRUPTED if by_hand else RESUMABLE
        if not self.quiet:
            first = "" if by_hand else f"{signal.Signals(number).name}: "
            last = "; a second Ctrl-C stops at once" if by_hand else ""
            # Not through sys.stderr: the signal may have interrupted its own code. And whoever reads it may be gone: a
            # Ctrl-C ends `tee` as well.
            with contextlib.suppress(OSError):
                os.write(2, f"\n{first}Finishing this step, then writing a checkpoint{last}.\n".encode())


def _ignored(number):
    """Whether the signal should stay ignored: under `nohup`, that a terminal hangs up."""
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN
