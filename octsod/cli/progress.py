"""Progress on standard error: a bar on a terminal, a line per interval elsewhere, nothing if quiet."""

import contextlib
import sys
import time

import click

INTERVAL = 10.0  # seconds between lines


def duration(seconds) -> str:
    """Seconds as text, such as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """`with Progress(total, what) as progress: progress.update(done, text)`; a total of None means unknown.

    start: how many were already done. interval: seconds between lines if there is no terminal.
    """

    def __init__(self, total, what, quiet=False, interval=INTERVAL, start=0):
        self.total, self.what, self.quiet, self.interval = total, what, quiet, interval
        self._bar = None
        self._done, self._text, self._shown, self._next = start, "", start, 0.0
        self._first = None  # (done, time) at the first update: what came before does not predict the rest

    def __enter__(self):
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn(self.what), BarColumn(10), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[text]}", markup=False), console=Console(stderr=True),
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total, completed=self._done, text="")
        return self

    def update(self, done, text=""):
        """Show that `done` of the total are done; `text` describes the state."""
        self._done = done
        if self._first is None:
            self._first = done, time.monotonic()
        self.status(text)

    def status(self, text):
        """Show `text`: the current state, or what is being waited for."""
        self._text = text
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, text=text)
        elif not self.quiet and time.monotonic() >= self._next:
            self._line()

    def message(self, text):
        """Print a line of its own."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif not self.quiet:
            click.echo(text, err=True)

    def _line(self):
        total = "" if self.total is None else f"/{self.total}{self._remaining()}"
        click.echo(f"{self.what} {self._done}{total}  {self._text}".rstrip(), err=True)
        self._shown, self._next = self._done, time.monotonic() + self.interval

    def _remaining(self):
        done = self._done - self._first[0] if self._first else 0
        if done <= 0 or self._done >= self.total:
            return ""
        return f"  {duration((time.monotonic() - self._first[1]) / done * (self.total - self._done))} left"

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.stop()
        elif not self.quiet and self._done > self._shown:
            self._line()


class Lines:
    """For `compilation`, where there is no progress to show besides: prints what it reports, a line each."""

    def __init__(self, quiet):
        self.quiet = quiet

    def status(self, text):
        if not self.quiet:
            click.echo(text, err=True)

    message = status


@contextlib.contextmanager
def compilation(progress):
    """Within it, `progress` shows which kernels are being compiled. That happens once per machine and version; kernels
    that are loaded from the cache are not mentioned, but for those of a GPU, which CuPy loads.

    progress: `Progress` or `Lines`; any thread may compile.

    Yields a function that reports what has been compiled since its last call, and how long that took, if anything
    was, and returns whether anything was.
    """
    from numba.core import event

    from ..backend import gpu

    class Listener(event.Listener):
        depth, count, seconds = 0, 0, 0.0

        def on_start(self, event):  # compiling a kernel also compiles those that it calls
            self.depth += 1
            if self.depth == 1:
                self.start = time.monotonic()
                function = event.data["dispatcher"].py_func
                name = f"{function.__module__.rpartition('.')[2]}.{function.__name__.strip('_')}"
                progress.status(f"compiling kernels: {name} ...")

        def on_end(self, event):
            self.depth -= 1
            if self.depth == 0:
                self.count, self.seconds = self.count + 1, self.seconds + time.monotonic() - self.start

    listener = Listener()

    def of_gpu(name, done, total):
        progress.status(f"compiling kernels for the GPU: {name}.cu ({done} of {total})")

    def report():
        count, seconds = listener.count, listener.seconds
        listener.count, listener.seconds = 0, 0.0
        if count:
            progress.message(f"{count} kernel{'s' if count > 1 else ''} compiled in {seconds:.0f} s")
        return count > 0

    gpu.compiling.append(of_gpu)
    try:
        with event.install_listener("numba:compile", listener):
            yield report
    finally:
        gpu.compiling.remove(of_gpu)
