"""The allocator's habits."""

from __future__ import annotations

import sys

# Options of mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Tells glibc's allocator, for the whole process, to keep what is freed; elsewhere it does nothing.

    A network on the CPU frees and asks for the same megabytes in every step. Given back to the system each time, they
    return as page faults, which cost the attacks a third of their speed, and K too. Call it before the work.
    """
    for option, size in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1), (_M_TOP_PAD, 1 << 27)):
        _glibc("mallopt", option, size)


def return_freed_memory() -> None:
    """Gives what is free at this moment back to the system, after a large temporary need; elsewhere than in glibc it
    does nothing."""
    _glibc("malloc_trim", 0)


def _glibc(name: str, *arguments: int) -> None:
    if sys.platform.startswith("linux"):
        import ctypes

        function = getattr(ctypes.CDLL(None), name, None)
        if function is not None:
            function(*arguments)
