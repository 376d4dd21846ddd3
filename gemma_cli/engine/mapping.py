"""The weights' mapped pages, where llama.cpp holds a copy of its own of them.

For some CPUs llama.cpp rearranges Q4_0 and Q4_K weights (40 % faster decoding,
twice the prefill) and leaves the file's pages of them mapped and resident: each
of those weights is in memory twice. The pages are given back here.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from gemma_cli.machine.layout import REPACKED
from gemma_cli.models.gguf import Header

_PAGE = mmap.PAGESIZE


def release_repacked(path: Path, header: Header) -> None:
    """Let the system take back the mapped pages of weights that may have been rearranged.

    Right for any guess: the pages are clean, and one that is read after all comes
    back from the file's cache. Where mappings cannot be listed, nothing happens.
    """
    if sys.platform != "linux" or header.split_count > 1:
        return
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    ranges = [(t.offset, t.offset + t.bytes) for t in header.tensors if t.type in REPACKED]
    for address, first, length in _mappings(path):
        for start, end in ranges:
            low, high = max(start, first), min(end, first + length)
            low, high = -(-low // _PAGE) * _PAGE, high // _PAGE * _PAGE
            if low < high:
                libc.madvise(address + low - first, high - low, mmap.MADV_DONTNEED)


def _mappings(path: Path) -> Iterator[tuple[int, int, int]]:
    """(address, offset in the file, length) of each mapping of a file in this process."""
    name = os.fsencode(path.resolve())
    for line in Path("/proc/self/maps").read_bytes().splitlines():
        # address range, permissions, offset, device, inode, path
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == name:
            start, _, end = fields[0].partition(b"-")
            yield int(start, 16), int(fields[2], 16), int(end, 16) - int(start, 16)
