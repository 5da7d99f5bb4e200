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
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, size in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1), (_M_TOP_PAD, 1 << 27)):
            mallopt(option, size)
