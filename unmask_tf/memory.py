"""Settings of glibc's memory allocator."""

from __future__ import annotations

import sys

# Options of mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Makes glibc's allocator keep freed memory, for the whole process; does nothing with other C libraries.

    A network on the CPU frees and allocates the same megabytes in every step. If they are returned to the system each
    time, the page faults cost the attacks a third of their speed, and slow K down as well. Call it before the work.
    """
    for option, size in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1), (_M_TOP_PAD, 1 << 27)):
        _glibc("mallopt", option, size)


def return_freed_memory() -> None:
    """Returns free memory to the system, after a large temporary need; does nothing with other C libraries."""
    _glibc("malloc_trim", 0)


def _glibc(name: str, *arguments: int) -> None:
    if sys.platform.startswith("linux"):
        import ctypes

        function = getattr(ctypes.CDLL(None), name, None)
        if function is not None:
            function(*arguments)
