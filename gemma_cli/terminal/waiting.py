"""A line about what takes long: it comes after a while, says how far it is, and leaves no trace."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_ERASE_LINE = "\r\x1b[K"
_EVERY_S = 0.1


class Waiting:
    """On stderr, until it ends. Nothing else may be written to the terminal meanwhile.

    what: is being done. progress: 0.0 to 1.0, asked from a thread. after: seconds
    that are not worth a word. paints: a line can be painted again there; else
    `words`, if there are any, are said once, a second later still.
    """

    def __init__(
        self,
        what: str,
        progress: Callable[[], float],
        *,
        after: float,
        paints: bool,
        words: str | None = None,
    ) -> None:
        self._what, self._progress = what, progress
        self._after, self._words = after, words
        self._paints = paints
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        if paints or words:
            self._thread = threading.Thread(target=self._show, daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Take the line away; may be called again."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _show(self) -> None:
        if self._done.wait(self._after):
            return
        if not self._paints:
            if not self._done.wait(1.0):
                sys.stderr.write(f"{self._words}\n")
                sys.stderr.flush()
            return
        while not self._done.is_set():
            # A line that took two rows could not be erased.
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
            text = f"{self._what}: {self._progress():.0%}"[: columns - 1]
            sys.stderr.write(f"{_ERASE_LINE}{_DIM}{text}{_PLAIN}")
            sys.stderr.flush()
            self._done.wait(_EVERY_S)
        sys.stderr.write(_ERASE_LINE)
        sys.stderr.flush()
