"""What the C library's allocator does with the memory of pictures that were let go.

glibc takes blocks of up to 32 MB from heaps, of which each thread has its own, once a block of that size was freed; what lies there is seldom given back.
Pillow's blocks have 16 MB, and pictures are decoded on a pool of threads: six uploads of 40 megapixels, one decoded after the other, left 1.2 GB behind.
"""

from __future__ import annotations

import ctypes
import sys

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of <malloc.h>
LARGE = 1 << 20  # bytes; blocks from here on go back to the system as soon as they are freed


def give_back_large_blocks() -> bool:
    """For this process, from now on. False where the C library isn't glibc, and there is nothing to do."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, LARGE))
    except (OSError, AttributeError):  # musl
        return False
