"""How this process uses memory, and what it does when there is none left."""

import ctypes
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

T = TypeVar("T")

# What the CPU's allocator, TorchScript, C++ and the libraries of a GPU say; only CUDA's allocator has a type.
_SIGNS = ("out of memory", "can't allocate memory", "Cannot allocate memory", "bad_alloc", "ALLOC_FAILED")


class DoesNotFit(MemoryError):
    """A single structure does not fit into the memory there is."""


@cache
def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: networks allocate the same large ones for every batch."""
    libc = _libc()
    if libc is None:
        return  # another C library: slower, not wrong
    m_mmap_threshold, m_trim_threshold = -3, -1
    libc.mallopt(m_mmap_threshold, 1 << 30)
    libc.mallopt(m_trim_threshold, 2**31 - 1)


def ran_out(error: Exception) -> bool:
    """Whether an error says that memory ran out, on a CPU or on a GPU."""
    if isinstance(error, DoesNotFit):
        return False  # nothing is left to be done about it
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def give_back() -> None:
    """Give what is kept for later, and not in use, back to the system and to the GPU."""
    # A backward pass that failed leaves its graph in this thread's queue, until the next one empties it.
    torch.zeros((), requires_grad=True).backward()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if (libc := _libc()) is not None:
        libc.malloc_trim(0)


def in_halves(run: Sequence[int], compute: Callable[[Sequence[int]], T]) -> Iterator[T]:
    """What `compute` says of a run, and where that does not fit into memory, of its halves, and so on.

    Raises DoesNotFit where not even one of them fits.
    """
    found = fitting(lambda: compute(run), len(run))
    if found is not None:
        yield found
        return
    log.warning("memory ran out with %d structures at once: computed in halves", len(run))
    middle = len(run) // 2
    yield from in_halves(run[:middle], compute)
    yield from in_halves(run[middle:], compute)


def fitting(compute: Callable[[], T], n_structures: int) -> T | None:
    """What `compute` returns, None if it ran out of memory.

    By then that of the failed attempt is free again. Raises DoesNotFit where it was for a single structure.
    """
    reason = ""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        lines = str(error).splitlines() or [type(error).__name__]
        reason = next((line for line in lines if any(sign in line for sign in _SIGNS)), lines[0])
    give_back()  # only now: until here the traceback's frames held the tensors
    if n_structures == 1:
        raise DoesNotFit(f"a single structure does not fit into memory; use a machine with more ({reason})")
    return None


@cache
def _libc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libc.so.6")
    except OSError:
        return None
