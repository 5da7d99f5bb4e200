"""Programs that take turns: each in a process of its own, asked over pipes, one at a time."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Worker:
    """A program that answers lines of JSON (see k_served.py).

    Args:
        command: the program.
        settings: its first line.
        log: receives what it prints.

    Raises:
        RuntimeError: it ended; the message holds the end of its log.
    """

    def __init__(self, command: Sequence[str | Path], settings: dict[str, Any], log: Path) -> None:
        self.log = log
        with open(log, "w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                cwd=log.parent,
            )
        self.built = self.ask(settings)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError) as error:
            self.close()
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise RuntimeError(f"{self._process.args} ended: {' | '.join(lines[-5:])} (log: {self.log})") from error

    def close(self) -> None:
        """Ends the program."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
