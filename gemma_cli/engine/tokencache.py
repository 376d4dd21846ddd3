"""Token ids of texts, remembered: a chat tokenizes its whole history again each turn."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict

_SHORTEST = 64  # characters; less is tokenized in no time
_MOST = 16 * 1024 * 1024  # bytes of texts and ids


class TokenCache:
    """Texts to token ids, the least recently used leaving first. Thread-safe."""

    def __init__(self, limit: int = _MOST) -> None:
        """limit: bytes."""
        self._limit = limit
        self._size = 0
        self._ids: OrderedDict[str, array[int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, text: str) -> list[int] | None:
        """The ids in a list of their own."""
        if len(text) < _SHORTEST:
            return None
        with self._lock:
            ids = self._ids.get(text)
            if ids is None:
                return None
            self._ids.move_to_end(text)
        return ids.tolist()

    def put(self, text: str, ids: list[int]) -> None:
        if len(text) < _SHORTEST:
            return
        entry = array("i", ids)
        with self._lock:
            if text in self._ids:
                return
            self._ids[text] = entry
            self._size += _cost(text, entry)
            while self._size > self._limit:
                self._size -= _cost(*self._ids.popitem(last=False))


def _cost(text: str, ids: array[int]) -> int:
    # Python takes one to four bytes a character; ours are mostly one.
    return len(text) * (1 if text.isascii() else 4) + len(ids) * ids.itemsize
