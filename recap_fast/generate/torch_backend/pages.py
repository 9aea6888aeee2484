"""What a CPU engine asks of the memory below it: freed blocks are kept, and the cache lies in huge pages.

Both are hints to Linux and glibc; where these are not, nothing happens.
"""

import ctypes

from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's <malloc.h>."""
MADV_HUGEPAGE = 14
"""Of Linux's <sys/mman.h>."""
HUGE_PAGE_BYTES = 2 << 20


def keep_freed_memory() -> None:
    """Tells glibc not to hand freed blocks back to the kernel.

    A step allocates and frees megabytes for every product. Given back and mapped anew, each page costs a fault: with it
    kept, an engine of 6 M parameters makes 144 to 151 images/s on two threads, 124 without.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def use_huge_pages(tensor: Tensor) -> bool:
    """Asks for huge pages below a tensor that nothing was written to yet; returns whether the kernel took the hint.

    Attention reads all over a cache that is many times what the processor's tables of small pages hold. End to end an
    engine of 6 M parameters makes 128 images/s instead of 121.
    """
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    begin = -(-tensor.data_ptr() // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    size = (tensor.data_ptr() + tensor.nbytes - begin) // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
    if madvise is None or size <= 0:
        return False
    return bool(madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), MADV_HUGEPAGE) == 0)
