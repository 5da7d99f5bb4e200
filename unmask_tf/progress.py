"""Progress on standard error: a bar on a terminal, a line now and then in a log file, and no long silence in either."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO

from tqdm import tqdm

NO_GPU = "CUDA initialization"
"""How torch's warning begins where its CUDA build finds no GPU, which is no news to the user."""
_LINES = 8.0
"""Seconds between two lines of a log file."""
_REDRAWN = 1.0
"""Seconds after which a bar is drawn again, so that its clock runs while nothing moves."""


@functools.cache
def _kept() -> TextIO:
    """A copy of standard error, which stays while its descriptor is redirected to silence a library's import."""
    return open(os.dup(2), "w", encoding="utf-8", errors="replace", buffering=1)


def _screen() -> TextIO:
    return _kept() if sys.stderr is sys.__stderr__ else sys.stderr


class _Lines:
    """Takes what is meant to overwrite a terminal's line, and writes each text as a line of its own."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        if text := text.strip():
            self._file.write(f"{text}\n")

    def flush(self) -> None:
        self._file.flush()


class Progress(tqdm):
    """tqdm whose clock runs on while nothing moves, and which writes plain lines where there is no terminal."""

    def __init__(self, *args: Any, log_format: str = "", **options: Any) -> None:
        """
        Args:
            args, options: tqdm's.
            log_format: tqdm's `bar_format` of a line in a log file; empty: what it is about, percentage and times.
        """
        file = _screen()
        self._terminal = file.isatty()
        options["file"] = file
        if not self._terminal:
            options |= {
                "file": _Lines(file),
                "bar_format": log_format or "{desc}: {percentage:.0f} %, {elapsed} gone, {remaining} to go",
                "mininterval": float("inf"),  # the clock alone writes
                "delay": 0 if options.get("leave", True) else 1e-6,  # what is soon over leaves no line
            }
        self._ended = threading.Event()
        super().__init__(*args, **options)
        if not self.disable:
            threading.Thread(target=self._go_on, daemon=True).start()

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self.iterable:
                yield item
                self.update()  # tqdm itself counts only when it draws

    def _go_on(self) -> None:
        while not self._ended.wait(_REDRAWN if self._terminal else _LINES):
            self.refresh()

    def tell(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        with self.get_lock():
            if self._terminal:
                self.clear(nolock=True)
            print(text, flush=True)
            if self._terminal:
                self.refresh(nolock=True)

    def close(self) -> None:
        """Ends the clock, and the bar."""
        self._ended.set()
        super().close()


def busy(what: str) -> Progress:
    """A context that tells what is being done, and for how long already, where the end is not known."""
    shown = "{desc}, {elapsed}"
    return Progress(desc=what, bar_format=shown, log_format=shown, leave=False, total=None)
