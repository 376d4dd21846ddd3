"""A program in a real pseudo-terminal, and the screen that a person would see."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyte

_CURSOR_QUERY = b"\x1b[6n"
# Seconds: how long a hang lasts before it is one. No test waits so long for what comes.
_PATIENCE = 90


class Terminal:
    """Runs argv in a terminal of some size. Use as a context manager."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], columns: int = 80, lines: int = 24
    ) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=10_000, ratio=1)
        self._stream = pyte.ByteStream(self.screen)
        self.output = b""
        self._master, slave = pty.openpty()
        self._set_size(columns, lines)
        self.process = subprocess.Popen(
            argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=dict(env),
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.hang_up()

    def send(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def paste(self, text: str) -> None:
        self.send(f"\x1b[200~{text}\x1b[201~")

    def wait_for(self, pattern: str, timeout: float = _PATIENCE, *, or_end: bool = False) -> str:
        """Read until the screen or the scrollback matches; all of it as text.

        or_end: the program may as well end without showing it.
        """
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.text()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{pattern!r} did not appear in:\n{self.text()}")
            if not self._read(0.1) and self.process.poll() is not None and not self._read(0.1):
                if or_end or re.search(pattern, self.text()):
                    break
                raise AssertionError(f"ended without {pattern!r}:\n{self.text()}")
        return self.text()

    def settle(self, quiet: float = 0.3) -> str:
        """Read until nothing came for a while, at most for some seconds."""
        deadline = time.monotonic() + 5
        while self._read(quiet) and time.monotonic() < deadline:
            pass
        return self.text()

    def wait_end(self, timeout: float = _PATIENCE) -> int:
        """Read until the program ended; its exit status."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            self._read(0.05)
            if time.monotonic() > deadline:
                raise AssertionError(f"it did not end:\n{self.text()}")
        self.settle(0.05)
        return self.process.returncode

    def text(self) -> str:
        """Scrollback and screen, without spaces at line ends and empty lines at the end."""
        rows = [_row(line, self.screen.columns) for line in self.screen.history.top]
        return "\n".join([*rows, *(row.rstrip() for row in self.screen.display)]).rstrip()

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        self._set_size(columns, lines)

    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    def hang_up(self) -> None:
        """Close the window."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self, timeout: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], timeout)
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the other side is closed
            return False
        self.output += data
        before, query, after = data.partition(_CURSOR_QUERY)
        while query:
            self._stream.feed(before)
            cursor = self.screen.cursor
            os.write(self._master, f"\x1b[{cursor.y + 1};{cursor.x + 1}R".encode())
            before, query, after = after.partition(_CURSOR_QUERY)
        self._stream.feed(before)
        return bool(data)


def _row(line: Any, columns: int) -> str:
    return "".join(line[x].data for x in range(columns)).rstrip()


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
