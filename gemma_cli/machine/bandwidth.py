"""How many bytes a second this processor reads from memory: the limit of decoding on it."""

from __future__ import annotations

import ctypes
import sys
import threading
import time

# Far larger than any cache that the cores share.
_BUFFER = 256 << 20
_SECONDS = 0.4
_WARM_UP = 2  # passes: threads start, clocks rise


def read_bandwidth(threads: int, buffer: int = _BUFFER) -> float:
    """Bytes per second that so many threads read together, the best of several passes.

    Each searches its share of a buffer for a byte that is not in it, by the C
    library's memchr, which reads with the widest instructions there are.
    """
    search = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None).memchr
    search.restype, search.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t],
    )
    memory = ctypes.create_string_buffer(buffer)
    start = ctypes.addressof(memory)
    ctypes.memset(start, 1, buffer)  # untouched pages would all be one and the same
    share = buffer // threads
    best, passes, until = 0.0, 0, time.perf_counter() + _SECONDS
    while passes <= _WARM_UP or time.perf_counter() < until:
        workers = [
            threading.Thread(target=search, args=(start + number * share, 0, share))
            for number in range(threads)
        ]
        began = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        passes += 1
        if passes > _WARM_UP:
            best = max(best, share * threads / (time.perf_counter() - began))
    return best
