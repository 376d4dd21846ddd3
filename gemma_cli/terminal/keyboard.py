"""The keyboard while no prompt reads it: nothing is echoed, nothing typed is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_PASTE_MARKS_ON, _PASTE_MARKS_OFF = "\x1b[?2004h", "\x1b[?2004l"

_stops = 0


def stops() -> int:
    """How often Ctrl-Z stopped this program: what it wrote may no longer stand where it was."""
    return _stops


@contextmanager
def quiet_keys() -> Iterator[None]:
    """Keys wait unseen and unchanged for the next prompt; Ctrl-C still is a signal.

    A paste keeps its marks, so that the prompt takes its lines as one text. While
    Ctrl-Z stops the program the terminal is as it was before. Does nothing where
    stdin is no terminal or there is no termios (Windows).
    """
    try:
        import termios
    except ImportError:
        yield
        return
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
        yield
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    quiet = termios.tcgetattr(fd)
    quiet[0] &= ~termios.ICRNL
    quiet[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN)
    quiet[3] |= termios.NOFLSH  # Ctrl-C must not throw away what was typed ahead

    def give_back() -> Callable[[], None]:
        now = termios.tcgetattr(fd)
        termios.tcsetattr(fd, termios.TCSANOW, before)
        os.write(sys.stdout.fileno(), _PASTE_MARKS_OFF.encode())

        def take() -> None:
            termios.tcsetattr(fd, termios.TCSANOW, now)
            os.write(sys.stdout.fileno(), _PASTE_MARKS_ON.encode())

        return take

    termios.tcsetattr(fd, termios.TCSANOW, quiet)
    try:
        sys.stdout.write(_PASTE_MARKS_ON)
        sys.stdout.flush()
        with _stoppable(give_back):
            yield
    finally:
        with suppress(OSError, termios.error):  # the terminal may be what is gone
            termios.tcsetattr(fd, termios.TCSANOW, before)
            sys.stdout.write(_PASTE_MARKS_OFF)
            sys.stdout.flush()


@contextmanager
def _stoppable(give_back: Callable[[], Callable[[], None]]) -> Iterator[None]:
    """Before Ctrl-Z stops the program, give_back is called; after it, what that returned.

    The outermost one counts: it knows the terminal as the shell had it.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTSTP) is not signal.SIG_DFL:
        yield
        return

    def handle(_number: int, _frame: Any) -> None:
        global _stops
        take = give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # without a shell above it does nothing
        signal.signal(signal.SIGTSTP, handle)
        take()
        _stops += 1

    signal.signal(signal.SIGTSTP, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
