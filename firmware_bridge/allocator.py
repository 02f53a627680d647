"""How the C library hands out memory to an agent that runs for a year."""

from __future__ import annotations

import ctypes
import platform

_M_ARENA_MAX = -8  # malloc.h


def use_one_arena() -> None:
    """Have glibc serve all threads from one heap; call it before threads start. Elsewhere nothing happens.

    By default it gives the threads up to eight heaps for each core (mallopt(3), M_ARENA_MAX). What a dozen threads pass
    to each other leaves holes in many heaps, which grow for days: 3 MB in 17,000 X-rays were seen, 0.3 with one heap.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
