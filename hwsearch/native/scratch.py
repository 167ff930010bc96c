"""Scratch: memory for calls of native code, in huge pages where the system gives them."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
from numpy.typing import NDArray

HUGE = 2 * 1024 * 1024
ALIGNED = 64


def scratch(size: int) -> NDArray[np.uint8]:
    """Returns so many bytes, zeros, at a multiple of 64.

    Channels of an image lie some kilobytes apart, and a sparse product reads hundreds of them in any order: in pages
    of 4 KiB that is more than the processor's first table of 64 addresses holds, in pages of 2 MiB it is one entry.
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux
    if advice is None or size < HUGE // 8:
        raw = np.zeros(size + ALIGNED, np.uint8)
        return _from(raw, ALIGNED, size)
    area = mmap.mmap(-1, -(-size // HUGE) * HUGE + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        area.madvise(advice)
    return _from(np.frombuffer(area, np.uint8), HUGE, size)


def _from(raw: NDArray[np.uint8], multiple: int, size: int) -> NDArray[np.uint8]:
    skip = -raw.ctypes.data % multiple
    return raw[skip : skip + size]
