"""The keyboard while no prompt reads it: nothing is echoed, nothing typed is lost."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PASTE_MARKS_ON, _PASTE_MARKS_OFF = "\x1b[?2004h", "\x1b[?2004l"


@contextmanager
def quiet_keys() -> Iterator[None]:
    """Keys wait unseen and unchanged for the next prompt; Ctrl-C still is a signal.

    A paste keeps its marks, so that the prompt takes its lines as one text. Does
    nothing where stdin is no terminal or there is no termios (Windows).
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
    termios.tcsetattr(fd, termios.TCSANOW, quiet)
    try:
        sys.stdout.write(_PASTE_MARKS_ON)
        sys.stdout.flush()
        yield
    finally:
        with suppress(OSError, termios.error):  # the terminal may be what is gone
            termios.tcsetattr(fd, termios.TCSANOW, before)
            sys.stdout.write(_PASTE_MARKS_OFF)
            sys.stdout.flush()
