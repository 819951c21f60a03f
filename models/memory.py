"""How this process uses memory."""

import ctypes
from functools import cache


@cache
def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: networks allocate the same large ones for every batch."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return  # another C library: slower, not wrong
    m_mmap_threshold, m_trim_threshold = -3, -1
    libc.mallopt(m_mmap_threshold, 1 << 30)
    libc.mallopt(m_trim_threshold, 2**31 - 1)
