"""Memory that batches are put together in: used again, locked where that works, and never in the way."""

from __future__ import annotations

import gc
import mmap
from typing import Any

import numpy as np

from runtime.hostmemory import MOST_UNUSED, RUNTIMES, CudaPages, HostMemory, host_memory


class Function:
    """A function of the CUDA runtime."""

    def __init__(self, calls: list[tuple[Any, ...]], code: int = 0) -> None:
        self._calls = calls
        self._code = code

    def __call__(self, *given: Any) -> int:
        self._calls.append(given)
        return self._code


class Runtime:
    """The two functions of the CUDA runtime library that are used."""

    def __init__(self, code: int = 0) -> None:
        self.registered: list[tuple[Any, ...]] = []
        self.unregistered: list[tuple[Any, ...]] = []
        self.cudaHostRegister = Function(self.registered, code)
        self.cudaHostUnregister = Function(self.unregistered)


def test_without_a_lock_arrays_are_plain_ones() -> None:
    memory = host_memory("")
    array = memory.empty((2, 3), np.float16)
    assert (array.shape, array.dtype, array.flags.owndata, memory.remark) == ((2, 3), np.float16, True, None)


def test_pages_are_locked_once_and_used_again() -> None:
    runtime = Runtime()
    memory = HostMemory(CudaPages(runtime))
    array = memory.empty((3, 4, 5), np.uint8)
    array[:] = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    part = array[1:, :, ::2]
    address = array.ctypes.data
    del array
    assert memory.empty((3, 4, 5), np.uint8).ctypes.data != address  # a view is still there
    assert part[0, 0].tolist() == [20, 22, 24]
    del part
    again = memory.empty((2, 8), np.float32)  # as many pages
    assert again.flags.c_contiguous
    assert again.flags.writeable
    assert runtime.registered == [(one, mmap.PAGESIZE, 1) for one, _, _ in runtime.registered]
    assert len(runtime.registered) == 2
    assert runtime.unregistered == []
    assert memory.remark == "page-locked"


def test_no_more_is_kept_than_a_few_batches_and_what_goes_is_unlocked() -> None:
    runtime = Runtime()
    memory = HostMemory(CudaPages(runtime))
    arrays = [memory.empty((5000,), np.uint8) for _ in range(MOST_UNUSED + 3)]
    assert len({array.ctypes.data for array in arrays}) == MOST_UNUSED + 3
    arrays.clear()
    gc.collect()
    assert len(runtime.unregistered) == 3
    latest = memory.empty((9000,), np.uint8)  # of another size: it takes the oldest one's place
    del latest
    gc.collect()
    assert len(runtime.unregistered) == 4
    del memory
    gc.collect()
    assert sorted(runtime.unregistered) == sorted((address,) for address, _, _ in runtime.registered)


def test_what_cannot_be_locked_is_used_all_the_same_and_said() -> None:
    memory = HostMemory(CudaPages(runtime := Runtime(code=2)))
    memory.empty((7,), np.uint8)[:] = 1
    assert memory.remark == f"pageable: cudaHostRegister of {mmap.PAGESIZE} bytes failed with CUDA error 2"
    del memory
    gc.collect()
    assert runtime.unregistered == []


def test_the_runtime_is_the_one_that_is_loaded() -> None:
    asked = []

    def load(name: str, _mode: int) -> Runtime:
        asked.append(name)
        if name != RUNTIMES[1]:
            raise OSError(name)
        return Runtime()

    assert CudaPages.loaded(load) is not None
    assert asked == list(RUNTIMES[:2])


def test_a_device_of_nvidia_without_a_runtime_is_told() -> None:
    assert host_memory("cuda").remark == "pageable: this process has loaded no CUDA runtime library"
