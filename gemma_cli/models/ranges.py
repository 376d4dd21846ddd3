"""Several ranges of one file at once, put together in order.

Servers often bound the speed of one connection, not of one client. Blocks are
held in memory until their turn comes, so the file still grows from its front
only: its length says how far it came, and its hash is computed as it grows. A
kill loses at most what is in memory (24 MiB).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator

from gemma_cli.models.hub import open_content
from gemma_cli.models.listing import RemoteFile
from gemma_cli.models.patience import TransientError

_CONNECTIONS = 4
# A range is what one connection brings in half a second, within these bounds:
# short enough to judge several connections soon, and to lose little by giving them up.
_RANGE_S = 0.5
_SHORTEST_RANGE, _LONGEST_RANGE = 256 << 10, 4 << 20
# How long one way is measured before the other is tried.
_TRIAL_S = 3.0
# Where one connection gives this much, more of them only cost.
_FAST_ENOUGH = 60_000_000
# Below this there is nothing to gain in the time that is left.
_WORTH_IT = 32 << 20
# More connections must be this much faster to be kept.
_GAIN = 1.2


class Tempo:
    """Decides, from what was measured, whether to use one connection or several."""

    def __init__(self) -> None:
        self._single = 0.0
        self._settled = False
        self._began = 0.0
        self._bytes = 0
        self.several = False

    @property
    def range_length(self) -> int:
        """Bytes to ask for at once when several connections are used."""
        return max(_SHORTEST_RANGE, min(int(self._single * _RANGE_S), _LONGEST_RANGE))

    def begin(self) -> None:
        """A connection, or a set of them, begins to deliver."""
        self._began, self._bytes = time.monotonic(), 0

    def failed(self) -> None:
        """Something broke while several were in use: one connection from now on."""
        if self.several:
            self.several, self._settled = False, True

    def should_change(self, arrived: int, remaining: int) -> bool:
        """After `arrived` more bytes: whether to break off and use several now.

        From several to one nothing is broken off: several_ranges ends by itself.
        """
        self._bytes += arrived
        elapsed = time.monotonic() - self._began
        if self._settled or elapsed < _TRIAL_S:
            return False
        rate = self._bytes / elapsed
        if self.several:
            self._settled = True
            self.several = rate >= self._single * _GAIN
            return False
        self._settled = rate >= _FAST_ENOUGH or remaining < _WORTH_IT
        self._single, self.several = rate, not self._settled
        return self.several


def several_ranges(remote: RemoteFile, start: int, tempo: Tempo) -> Generator[bytes]:
    """The file's bytes from `start` on, in order, fetched by several connections.

    Ends before the file does when `tempo` goes back to one: after the ranges that
    are under way. Raises what the first range that failed raised. Closing it stops
    the others soon.
    """
    transfer = _Transfer(remote, start, tempo)
    try:
        yield from transfer.blocks()
    finally:
        transfer.stop()


class _Transfer:
    def __init__(self, remote: RemoteFile, start: int, tempo: Tempo) -> None:
        self._remote = remote
        self._tempo = tempo
        length = tempo.range_length
        starts = range(start, remote.size, length)
        self._ranges = iter([(at, min(at + length, remote.size)) for at in starts])
        self._order = list(starts)
        self._taken = 0  # how many of them, from the front
        self._results: queue.Queue[tuple[int, bytes | Exception]] = queue.Queue()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        # A range that is ahead of its turn takes a place until it is handed out.
        self._places = threading.Semaphore(_CONNECTIONS + 2)

    def blocks(self) -> Iterator[bytes]:
        for _ in range(min(_CONNECTIONS, len(self._order))):
            threading.Thread(target=self._work, daemon=True).start()
        early: dict[int, bytes] = {}
        for index, at in enumerate(self._order):
            if self._is_over(index):
                return
            while at not in early:
                arrived, result = self._results.get()
                if isinstance(result, Exception):
                    raise result
                early[arrived] = result
            yield early.pop(at)
            self._places.release()

    def _is_over(self, index: int) -> bool:
        with self._lock:
            return not self._tempo.several and index >= self._taken

    def stop(self) -> None:
        self._stopped.set()
        for _ in range(_CONNECTIONS):
            self._places.release()

    def _work(self) -> None:
        while True:
            self._places.acquire()
            with self._lock:
                if self._stopped.is_set() or not self._tempo.several:
                    return
                span = next(self._ranges, None)
                if span is None:
                    return
                self._taken += 1
            try:
                self._results.put((span[0], self._fetch(*span)))
            except Exception as error:  # handed to the thread that waits, and raised there
                self._results.put((span[0], error))
                return

    def _fetch(self, start: int, end: int) -> bytes:
        received = bytearray()
        with open_content(self._remote, start, end) as (at, blocks):
            if at != start:
                raise TransientError("the server ignores ranges")
            for block in blocks:
                if self._stopped.is_set():
                    break
                received += block
        if len(received) != end - start:
            raise TransientError("the connection closed early")
        return bytes(received)
