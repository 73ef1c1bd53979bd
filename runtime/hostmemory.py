"""Arrays that batches are put together in, page-locked where batches are copied from them to a device.

Rules:
    * Memory is used again: it returns to its pool when nothing refers to its array any more.
    * A pool keeps at most `MOST_UNUSED` pieces that nobody uses, the latest: locked pages are nobody else's.
    * Page-locked memory is a matter of speed alone. What cannot be locked is used all the same, and
      `HostMemory.remark` says why.

A device copies from page-locked (pinned) memory by itself; from other memory the driver copies to a locked piece of its
own first. ONNX Runtime's Python API has such memory only for EPs that were registered as plug-in libraries
(`OrtEpDevice.memory_info(HOST_ACCESSIBLE)`, its pull request 28038), not for the EP of `onnxruntime-gpu`. So pages of
ours are locked with `cudaHostRegister`, of the CUDA runtime library that the EP has loaded into this process.

Source of the codes: the CUDA Runtime API, section "Memory Management".
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["CudaPages", "HostMemory", "PageLock", "host_memory"]

Array = npt.NDArray[Any]

MOST_UNUSED = 8  # pieces; each is a batch
PORTABLE = 1  # cudaHostRegisterPortable: locked for every device
RUNTIMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")


class PageLock(Protocol):
    """Locks pages into memory."""

    def lock(self, address: int, size: int) -> str:
        """Lock *size* bytes at *address*; return why that did not work, or an empty text."""

    def unlock(self, address: int) -> None:
        """Give back what was locked at *address*."""


class CudaPages:
    """Locks pages for NVIDIA's GPUs.

    Args:
        runtime: The CUDA runtime library.
    """

    def __init__(self, runtime: Any) -> None:
        runtime.cudaHostRegister.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint]
        runtime.cudaHostUnregister.argtypes = [ctypes.c_void_p]
        self._runtime = runtime

    @classmethod
    def loaded(cls, load: Callable[[str, int], Any] = ctypes.CDLL) -> CudaPages | None:
        """Return that of the CUDA runtime which this process has loaded; ``None``: it has none."""
        for name in RUNTIMES:
            try:
                return cls(load(name, os.RTLD_NOLOAD | os.RTLD_NOW))
            except (OSError, AttributeError):
                continue
        return None

    def lock(self, address: int, size: int) -> str:
        """Lock *size* bytes at *address*; return why that did not work, or an empty text."""
        code = self._runtime.cudaHostRegister(address, size, PORTABLE)
        return f"cudaHostRegister of {size} bytes failed with CUDA error {code}" if code else ""

    def unlock(self, address: int) -> None:
        """Give back what was locked at *address*."""
        self._runtime.cudaHostUnregister(address)


class _Pages:
    """Whole pages of memory, locked if that worked, and for as long as they live."""

    def __init__(self, size: int, lock: PageLock | None) -> None:
        self._map = mmap.mmap(-1, size)
        self.size = size
        self.address = int(np.frombuffer(self._map, np.uint8).ctypes.data)
        self.refused = lock.lock(self.address, size) if lock is not None else ""
        if lock is not None and not self.refused:
            weakref.finalize(self, lock.unlock, self.address).atexit = False  # then the driver has gone before us


class _Lease:
    """What an array stands on: numpy keeps it for as long as the array, or a view of it, lives."""

    def __init__(self, pages: _Pages, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        self.pages = pages
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(shape),
            "typestr": dtype.str,
            "data": (pages.address, False),
        }


class HostMemory:
    """A pool of memory for arrays; used by several threads at a time.

    Args:
        lock: Locks its pages; ``None``: arrays are plain ones, and nothing is pooled.
        reason: Why there is no *lock*, where one was wanted.
    """

    def __init__(self, lock: PageLock | None = None, reason: str = "") -> None:
        self._lock = lock
        self._refused = reason
        self._unused: deque[_Pages] = deque(maxlen=MOST_UNUSED)  # without a lock: finalizers interrupt anything

    @property
    def remark(self) -> str | None:
        """``page-locked``, or why it is not; ``None`` where that was not wanted."""
        if self._refused:
            return f"pageable: {self._refused}"
        return None if self._lock is None else "page-locked"

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """Return an array of any content."""
        kind = np.dtype(dtype)
        if self._lock is None:
            return np.empty(shape, kind)
        size = math.prod(shape) * kind.itemsize
        pages = self._pages(max(1, -(-size // mmap.PAGESIZE)) * mmap.PAGESIZE)
        lease = _Lease(pages, shape, kind)
        weakref.finalize(lease, self._give_back, pages).atexit = False
        return np.asarray(lease)

    def _pages(self, size: int) -> _Pages:
        # RuntimeError: another piece came back while the pieces were looked through; ValueError: another thread took it
        with suppress(RuntimeError, ValueError):
            for pages in self._unused:
                if pages.size == size:
                    self._unused.remove(pages)
                    return pages
        made = _Pages(size, self._lock)
        self._refused = self._refused or made.refused
        return made

    def _give_back(self, pages: _Pages) -> None:
        self._unused.append(pages)


def _of_cuda() -> HostMemory:
    pages = CudaPages.loaded()
    return HostMemory(pages, "" if pages else "this process has loaded no CUDA runtime library")


MADE: Mapping[str, Callable[[], HostMemory]] = {"cuda": _of_cuda}
"""By where an EP keeps its tensors, as `OrtValue` calls it; what has no entry gets plain arrays."""


def host_memory(device: str) -> HostMemory:
    """Return where batches for *device* are put together; call it after a session has loaded the libraries."""
    return MADE.get(device, HostMemory)()
