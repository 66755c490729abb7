"""Implementations in processes of their own, which take turns: one runs timed steps while the others sleep.

So no implementation meets another one's threads, allocator or floating-point mode, each has its own peak memory, and
whatever disturbs the machine for a while affects all of them alike.
"""

import contextlib
import gc
import multiprocessing
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

PAUSE = 0.02  # seconds: the previous implementation's worker threads spin for some milliseconds, then sleep


@dataclass(frozen=True)
class Block:
    """Work to be timed: `step` does it, `results` returns what the last step left, in the form the caller needs."""

    step: Callable
    results: Callable


class ChildError(Exception):
    """What went wrong in a child."""


class Child:
    """A process that builds a `Block` with `build(*arguments)`, which must be picklable, and then answers requests.

    It starts with the current environment. Raises ChildError wherever the child fails or ends by itself.
    """

    def __init__(self, build, *arguments):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def first_results(self):
        """Run the first step; returns its results."""
        return self._ask("first_results")

    def turn(self, warm, timed):
        """The seconds that each of `timed` steps takes, after `warm` others."""
        return self._ask("turn", warm, timed)

    def peak_rss_mb(self):
        """The most memory that the process has held so far, in 10**6 bytes."""
        return self._ask("peak_rss_mb")

    def close(self):
        self._connection.close()
        self._process.terminate()
        self._process.join()

    def _ask(self, *request):
        try:
            self._connection.send(request)
        except OSError as error:
            raise self._end() from error
        return self._answer()

    def _answer(self):
        try:
            kind, value = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._end() from error
        if kind == "error":
            raise ChildError(value)
        return value

    def _end(self):
        self._process.join()
        return ChildError(f"its process ended with exit code {self._process.exitcode}")


def _serve(connection, build, arguments):
    """The main loop of a child. It ends when its parent does, since that closes the connection."""
    try:
        block = build(*arguments)
        connection.send(("ok", None))
        while True:
            name, *values = connection.recv()
            connection.send(("ok", _REQUESTS[name](block, *values)))
    except (EOFError, KeyboardInterrupt):
        sys.exit(1)
    except Exception as error:
        reason = str(error).split("\n")[0].removesuffix(".")  # part of a sentence, like all of `ChildError`'s
        connection.send(("error", f"{type(error).__name__}: {reason}"))


def _first_results(block):
    block.step()
    return block.results()


def _turn(block, warm, timed):
    for _ in range(warm):
        block.step()
    return timed_steps(block.step, timed)


@contextlib.contextmanager
def without_garbage():
    """A context in which no garbage is collected."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def timed_steps(step, count):
    """The seconds that each of `count` calls takes."""
    seconds = []
    with without_garbage():
        for _ in range(count):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
    return seconds


def _peak_rss_mb(block):
    try:
        # Not getrusage: the peak it gives for a young process includes what the parent held.
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:  # not Linux
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else peak * 1024) / 1e6


_REQUESTS = {"first_results": _first_results, "turn": _turn, "peak_rss_mb": _peak_rss_mb}


def interleaved(names, rounds):
    """Names in the order in which their steps are timed: each once per round, none always after the same one."""
    for number in range(rounds):
        first = number % len(names) if names else 0
        yield from names[first:] + names[:first]
