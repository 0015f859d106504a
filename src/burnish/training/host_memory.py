"""Memory on the CPU: how much of it was used, and how the C library hands it out."""

import ctypes
import resource
import sys

import torch

# glibc's mallopt: sizes above which memory comes from the kernel, and goes back to it.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_INT = 2**31 - 1


def peak_memory_mb() -> float:
    """Peak resident memory of this process, or the device's peak under CUDA."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def keep_freed_memory() -> bool:
    """Freed memory is used again and not given back, for the rest of the process.

    Every step allocates the same sizes; getting them from the kernel each time costs a page fault
    for every 4 KiB, 6 % of a training step on a CPU. Only glibc can be asked; True if it obeyed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return False
    wanted = {
        _M_MMAP_THRESHOLD: _LARGEST_INT,
        _M_TRIM_THRESHOLD: _LARGEST_INT,
        _M_TOP_PAD: 64 * 2**20,
    }
    obeyed = [library.mallopt(option, value) == 1 for option, value in wanted.items()]
    return all(obeyed)
