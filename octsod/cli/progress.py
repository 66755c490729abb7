"""Progress on standard error: a bar on a terminal, elsewhere a line per interval, nothing if quiet."""

import sys
import time

import click

INTERVAL = 10.0  # seconds between lines


class Progress:
    """`with Progress(total, what) as progress: progress.update(done, text)`; a total of None is unknown."""

    def __init__(self, total, what, quiet=False, interval=INTERVAL):
        self.total, self.what, self.quiet, self.interval = total, what, quiet, interval
        self._bar = None
        self._done, self._text, self._shown, self._next = 0, "", 0, 0.0

    def __enter__(self):
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn(self.what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[text]}", markup=False), console=Console(stderr=True),
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total, text="")
        return self

    def update(self, done, text=""):
        """`done` of the total are done; `text` says how it stands."""
        self._done, self._text = done, text
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=text)
        elif not self.quiet and time.monotonic() >= self._next:
            self._line()

    def message(self, text):
        """A line of its own."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif not self.quiet:
            click.echo(text, err=True)

    def _line(self):
        total = "" if self.total is None else f"/{self.total}"
        click.echo(f"{self.what} {self._done}{total}  {self._text}".rstrip(), err=True)
        self._shown, self._next = self._done, time.monotonic() + self.interval

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.stop()
        elif not self.quiet and self._done > self._shown:
            self._line()
