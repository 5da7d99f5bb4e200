"""Progress on standard error: a bar on a terminal, a line now and then in a log file, and no long silence in either."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

NO_GPU = "CUDA initialization"
"""How torch's warning begins where its CUDA build finds no GPU, which is no news to the user."""
_LINES = 8.0
"""Seconds between two lines of a log file."""
_REDRAWN = 1.0
"""Seconds after which a bar is drawn again, so that its clock runs while nothing moves."""


class _Lines:
    """Takes what is meant to overwrite a terminal's line, and writes each text as a line of its own."""

    def write(self, text: str) -> None:
        if text := text.strip():
            sys.stderr.write(f"{text}\n")

    def flush(self) -> None:
        sys.stderr.flush()


class Progress(tqdm):
    """tqdm whose clock runs on while nothing moves, and which writes plain lines where there is no terminal."""

    def __init__(self, *args: Any, log_format: str = "", **options: Any) -> None:
        """
        Args:
            args, options: tqdm's.
            log_format: tqdm's `bar_format` of a line in a log file; empty: what it is about, percentage and times.
        """
        self._terminal = sys.stderr.isatty()
        if not self._terminal:
            options |= {
                "file": _Lines(),
                "bar_format": log_format or "{desc}: {percentage:.0f} %, {elapsed} gone, {remaining} to go",
                "mininterval": float("inf"),  # the clock alone writes
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

    def close(self) -> None:
        """Ends the clock, and the bar."""
        self._ended.set()
        super().close()


def busy(what: str) -> Progress:
    """A context that tells what is being done, and for how long already, where the end is not known."""
    shown = "{desc}, {elapsed}"
    return Progress(desc=what, bar_format=shown, log_format=shown, leave=False, total=None)
